import math
import re
from types import SimpleNamespace

import pytest
import torch
from helpers.pretraining import CONFIG, StopAt, mean_square, train

from spikesep.errors import SpikeSepError
from spikesep.training.timing import budget, timekeeper


def test_training_lowers_the_loss_and_records_every_epoch(tmp_path):
    _, history = train(tmp_path, epochs=6)
    assert [(r.stage, r.epoch) for r in history] == [(0, k) for k in range(1, 7)]
    assert history[-1].valid_loss < history[0].valid_loss
    assert all(r.valid_metric == -r.valid_loss for r in history)


@pytest.mark.parametrize(("trained", "what"), [(True, "training"), (False, "validation")])
def test_loss_that_is_not_finite_ends_training(tmp_path, trained, what):
    def loss(prediction, target):
        value = mean_square(prediction, target)
        return value * math.nan if prediction.requires_grad == trained else value

    with pytest.raises(
        SpikeSepError, match=rf"epoch 1: the {what} loss is nan; lower train\.learning_rate"
    ):
        train(tmp_path, loss)
    assert not (tmp_path / "history.csv").exists()


def test_loss_is_computed_in_float32_under_autocast(tmp_path):
    seen = set()

    def loss(prediction, target):
        seen.add((prediction.dtype, torch.is_autocast_enabled("cpu")))
        return mean_square(prediction, target)

    train(tmp_path, loss, precision="bf16", epochs=1)
    assert seen == {(torch.float32, False)}


def test_model_has_the_best_weights_after_training(tmp_path):
    model, history = train(
        tmp_path, epochs=6, learning_rate=1.0
    )  # too high to improve in every epoch
    torch.manual_seed(0)
    x = torch.rand(40, 3)
    with torch.no_grad():
        loss = float(mean_square(model(x), x.sum(1, keepdim=True)))
    assert loss == pytest.approx(min(r.valid_loss for r in history), rel=1e-4)
    assert not model.training


@pytest.mark.parametrize(
    ("schedule", "optimizer"),
    [("plateau", "adam"), ("cosine", "adam"), ("cosine", "muon"), ("triangular", "sgd")],
)
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, schedule, optimizer):
    settings = {"schedule": schedule, "optimizer": optimizer}
    unbroken, expected = train(tmp_path / "unbroken", **settings)
    with pytest.raises(StopAt.StopError):
        train(tmp_path / "broken", StopAt(12), **settings)  # five steps an epoch: in the third
    resumed, history = train(tmp_path / "broken", **settings)

    def without_time(rows):
        return [(r.epoch, r.train_loss, r.valid_loss, r.learning_rate) for r in rows]

    assert without_time(history) == without_time(expected)
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_run_resumes_after_the_last_epoch_rather_than_the_best(tmp_path):
    calls = []

    def flat(prediction, target):  # the first epoch is the best
        calls.append(prediction.requires_grad)
        return mean_square(prediction, target) * 0 + 1

    stop = StopAt(17)  # five steps an epoch: in the fourth
    with pytest.raises(StopAt.StopError):
        train(tmp_path, lambda p, t: stop(p, t) * 0 + 1)
    _, history = train(tmp_path, loss=flat)
    assert [r.epoch for r in history] == [1, 2, 3, 4]
    assert sum(calls) == 5


def test_averaged_weights_are_validated_kept_and_resumed(tmp_path):
    settings = {"ema_decay": 0.8, "epochs": 3, "schedule": "cosine"}
    model, history = train(tmp_path / "a", **settings)
    plain, _ = train(tmp_path / "b", **settings | {"ema_decay": 0.0})
    assert not torch.equal(model[0].weight, plain[0].weight)
    torch.manual_seed(0)
    x = torch.rand(40, 3)
    loss = mean_square(model(x), x.sum(1, keepdim=True))
    assert float(loss.detach()) == pytest.approx(min(row.valid_loss for row in history), rel=1e-5)
    with pytest.raises(StopAt.StopError):
        train(tmp_path / "c", loss=StopAt(7), **settings)
    resumed, _ = train(tmp_path / "c", **settings)
    torch.testing.assert_close(resumed[0].weight, model[0].weight)


@pytest.fixture
def clock(monkeypatch):
    """A clock that `loss` moves by 10 s per training step and 2 s per validation batch."""
    now = SimpleNamespace(seconds=1000.0)
    for module in (budget, timekeeper):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))

    def loss(prediction, target):
        now.seconds += 10 if prediction.requires_grad else 2
        return mean_square(prediction, target)

    now.loss = loss
    return now


def spent(folder):
    state = torch.load(folder / "ann" / "last.ckpt", weights_only=True)
    return state["spent_seconds"], state["finished"]


@pytest.mark.parametrize(("loaded", "steps"), [(0, 14), (65, 9)])
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_run_stops_within_an_epoch_to_keep_its_time_budget(
    tmp_path, clock, capsys, loaded, steps, schedule
):
    """Including loading and validation (five batches after five steps)."""
    count = []

    def loss(prediction, target):
        count.append(prediction.requires_grad)
        return clock.loss(prediction, target)

    given = {"schedule": schedule, "max_minutes": 3.0, "epochs": 8, "warmup_steps": 0}
    _, history = train(tmp_path, loss, began=clock.seconds - loaded, **given)
    assert sum(count) == steps
    assert len(history) == -(-steps // 5)
    assert [row.cut_at for row in history] == [0] * (len(history) - 1) + [8]
    seconds, finished = spent(tmp_path)
    assert finished
    assert seconds <= 180
    assert seconds == loaded + 10 * steps + 10 * len(history)
    said = capsys.readouterr().out
    assert re.search(
        r"about [78] min on this processor for all 8 epochs; the time budget of 3 minutes .* ends",
        said,
    )
    assert f"stopping in epoch {len(history)} of 8: the time budget of 3 minutes is spent" in said
    if schedule == "cosine":
        assert history[-1].learning_rate < 0.15 * CONFIG["learning_rate"]
    _, same = train(tmp_path, loss, **given)
    assert same == history
    assert sum(count) == steps


def test_ample_time_budget_changes_nothing(tmp_path, clock, capsys):
    _, history = train(tmp_path, clock.loss, max_minutes=6, epochs=4)
    assert [row.cut_at for row in history] == [0] * 4
    assert "training takes at most about 3 min on this processor\n" in capsys.readouterr().out


def test_resumed_run_keeps_its_clock(tmp_path, clock):
    given = {"schedule": "cosine", "max_minutes": 3, "epochs": 8}
    _, expected = train(tmp_path / "unbroken", clock.loss, **given)
    stop = StopAt(8)

    def failing(prediction, target):
        stop(prediction, target)
        return clock.loss(prediction, target)

    with pytest.raises(StopAt.StopError):
        train(tmp_path / "broken", failing, **given)
    _, history = train(tmp_path / "broken", clock.loss, **given)
    assert spent(tmp_path / "broken") == spent(tmp_path / "unbroken")
    assert [(r.epoch, r.valid_loss, r.cut_at) for r in history] == [
        (r.epoch, r.valid_loss, r.cut_at) for r in expected
    ]


def test_finished_run_trains_no_further_epoch(tmp_path):
    settings = {
        "schedule": "plateau",
        "halve_patience": 1,
        "stop_patience": 2,
        "warmup_steps": 0,
        "epochs": 50,
    }

    def flat(p, t):
        return mean_square(p, t) * 0 + 1

    _, expected = train(tmp_path, loss=flat, **settings)
    assert len(expected) == 3
    _, history = train(tmp_path, loss=flat, **settings)
    assert history == expected
