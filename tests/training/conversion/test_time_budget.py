from dataclasses import replace

import pytest
import torch
from helpers.conversion import convert, passing, same, stopped_clock, without_time


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    return stopped_clock(monkeypatch)


@pytest.mark.parametrize("loaded", [0, 60])
def test_stages_share_the_time_budget(tmp_path, clock, capsys, loaded):
    """Six epochs of six steps and three validation batches of 4 s take 252 s; the rest 60 s."""
    began = clock.seconds - loaded
    model, _, history = convert(
        tmp_path, loss=passing(clock), began=began, max_minutes=5, weight_bits=8
    )
    assert model.network.n_converted == 3
    assert model.network.is_fixed_point
    assert clock.seconds - began <= 300
    cut = {row.stage: row for row in history if row.cut_at}
    assert set(cut) == {1, 2, 3}
    assert cut[1].epoch > 0 or loaded
    assert all(
        row is cut.get(row.stage, row) or row.epoch < cut[row.stage].epoch for row in history
    )
    assert loaded or cut[1].learning_rate < 3e-4
    said = capsys.readouterr().out
    assert "conversion takes at most about" in said or loaded
    assert "The time budget of conversion cut short the training of 3 of 3 stages" in said


def test_layers_are_converted_untrained_without_time(tmp_path, clock, capsys):
    began = clock.seconds - 1000
    model, _, history = convert(tmp_path / "late", loss=passing(clock), began=began, max_minutes=3)
    untrained, _, expected = convert(tmp_path / "untrained", loss=passing(clock), max_epochs=0)
    assert (
        without_time(history)
        == without_time(expected)
        == [(k, 0, row.valid_loss) for k, row in enumerate(history, 1)]
    )
    assert [row.cut_at for row in history] == [2, 2, 2]
    assert same(model, untrained)
    assert "3 of 3 stages, 3 of them to none at all." in capsys.readouterr().out


def test_ample_time_budget_changes_nothing(tmp_path, clock):
    free, _, expected = convert(tmp_path / "free", loss=passing(clock, 0.01), max_minutes=None)
    model, _, history = convert(tmp_path / "ample", loss=passing(clock, 0.01), max_minutes=60)
    assert without_time(history) == without_time(expected)
    assert all(row.cut_at == 0 for row in history)
    for one, other in zip(model.parameters(), free.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_resumed_run_keeps_its_clock(tmp_path, clock):
    given = {"max_minutes": 4}
    unbroken, _, expected = convert(tmp_path / "unbroken", loss=passing(clock), **given)
    left, loss = 25, passing(clock)

    def failing(prediction, target):
        nonlocal left
        if (left := left - 1) < 0:
            raise KeyboardInterrupt
        return loss(prediction, target)

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "broken", loss=failing, **given)
    resumed, _, history = convert(tmp_path / "broken", loss=loss, **given)
    assert [row.stage for row in history if row.cut_at] == [1]
    assert [replace(row, seconds=0) for row in history if row.epoch] == [
        replace(row, seconds=0) for row in expected if row.epoch
    ]
    assert same(resumed, unbroken)
