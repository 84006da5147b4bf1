import math
from dataclasses import replace

import pytest

from spikesep.errors import SpikeSepError
from spikesep.training.records.history import Epoch, History, cut_short


def row(stage, epoch, loss=1.0):
    return Epoch(stage, epoch, loss, loss, -loss, 1e-3, 2.5)


def test_rows_are_read_as_written(tmp_path):
    history = History(tmp_path / "history.csv")
    rows = [row(0, 1), row(0, 2, 0.1234567890123), row(1, 0)]
    for r in rows:
        history.add(r)
    assert history.read() == rows


def test_repeated_epoch_replaces_itself_and_all_later_ones(tmp_path):
    history = History(tmp_path / "history.csv")
    for key in ((0, 1), (0, 2), (1, 0), (1, 1)):
        history.add(row(*key))
    history.add(row(1, 0, 9.0))
    assert [(r.stage, r.epoch, r.train_loss) for r in history.read()] == [
        (0, 1, 1.0),
        (0, 2, 1.0),
        (1, 0, 9.0),
    ]


def test_untrained_epoch_has_nan_as_training_loss(tmp_path):
    history = History(tmp_path / "history.csv")
    history.add(row(1, 0, math.nan))
    assert math.isnan(history.read()[0].train_loss)


def test_missing_history_is_empty(tmp_path):
    assert History(tmp_path / "history.csv").read() == []


@pytest.mark.parametrize(
    "text", ["stage,epoch\n1,2\n", "stage,epoch,train_loss,valid_loss,valid_metric\nx\n"]
)
def test_malformed_history_is_named(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(SpikeSepError, match=r"history\.csv: not a training history"):
        History(path).read()


def test_history_without_the_newest_column_is_read(tmp_path):
    path = tmp_path / "history.csv"
    History(path).add(row(0, 1))
    path.write_text(
        "".join(line.rpartition(",")[0] + "\n" for line in path.read_text().splitlines())
    )
    assert "cut_at" not in path.read_text()
    assert History(path).read() == [row(0, 1)]


def test_shortened_training_and_conversion_are_reported(tmp_path):
    history = History(tmp_path / "history.csv")
    whole = [row(0, 11), row(1, 0), row(1, 6), row(2, 1)]
    assert cut_short(whole) == []
    cut = [
        replace(row(0, 12), cut_at=40),
        replace(row(1, 3), cut_at=6),
        row(2, 0),
        replace(row(3, 0), cut_at=1),
    ]
    for one in cut:
        history.add(one)
    assert cut_short(history.read()) == [
        "Training was stopped by its time budget in epoch 12 of 40.",
        "The time budget of conversion cut short the training of 2 of 3 stages, "
        "1 of them to none at all.",
    ]
