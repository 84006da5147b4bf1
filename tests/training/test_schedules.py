"""Learning rates over steps, epochs and the clock."""

import math

import pytest
from helpers.pretraining import StopAt, mean_square, negated, train
from torch import nn

from spikesep.training.config import PretrainConfig
from spikesep.training.objective import Objective
from spikesep.training.pretraining.task import PretrainTask


def test_plateau_halves_the_rate_then_stops(tmp_path):
    settings = {
        "schedule": "plateau",
        "halve_patience": 2,
        "stop_patience": 5,
        "epochs": 50,
        "learning_rate": 1e-3,
    }
    _, history = train(
        tmp_path, loss=lambda p, t: mean_square(p, t) * 0 + 1, warmup_steps=0, **settings
    )
    rates = [r.learning_rate / 1e-3 for r in history]
    assert len(history) == 6  # the first is the best; five without improvement
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25])


def test_warm_up_ends_at_the_learning_rate(tmp_path):
    _, history = train(tmp_path, schedule="plateau", warmup_steps=2, epochs=1)
    assert history[0].learning_rate == 0.05


def test_cosine_schedule_is_constant_then_decays_to_zero():
    task = PretrainTask(
        nn.Linear(1, 1),
        Objective(mean_square, negated),
        PretrainConfig(epochs=10, schedule="cosine", cosine_from=0.5),
        10,
    )
    factors = [task.rate_factor(step) for step in range(101)]
    assert factors[:51] == [1.0] * 51
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)


def test_triangular_rate_rises_in_warm_up_and_falls_linearly_to_zero(tmp_path):
    task = PretrainTask(
        nn.Linear(1, 1),
        Objective(mean_square, negated),
        PretrainConfig(epochs=10, schedule="triangular", warmup_steps=20),
        10,
    )
    assert [task.rate_factor(step) for step in (0, 20, 60, 100)] == pytest.approx([1, 1, 0.5, 0])
    _, history = train(tmp_path, epochs=4, schedule="triangular", warmup_steps=10)
    rates = [row.learning_rate / 0.05 for row in history]  # 5 steps per epoch
    assert rates == pytest.approx([1, 1, 0.5, 0])  # behind warm-up


def test_step_schedule_divides_the_rate_by_10_in_the_middle(tmp_path):
    _, history = train(tmp_path, epochs=4, schedule="step", warmup_steps=0)
    assert [row.learning_rate / 0.05 for row in history] == pytest.approx([1, 0.1, 0.1, 0.1])


def test_cosine_schedule_follows_the_clock_if_ahead_of_the_steps():
    task = PretrainTask(
        nn.Linear(1, 1),
        Objective(mean_square, negated),
        PretrainConfig(epochs=10, schedule="cosine", max_minutes=1),
        10,
    )
    task.spent_seconds = 45.0
    assert task.rate_factor(10) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


def test_resumed_run_keeps_the_patience_of_its_schedule(tmp_path):
    def flat(p, t):
        return mean_square(p, t) * 0 + 1

    settings = {"schedule": "plateau", "halve_patience": 2, "warmup_steps": 0, "epochs": 6}
    _, expected = train(tmp_path / "unbroken", loss=flat, **settings)
    stop = StopAt(17)
    with pytest.raises(StopAt.StopError):
        train(tmp_path / "broken", lambda p, t: stop(p, t) * 0 + 1, **settings)
    _, history = train(tmp_path / "broken", loss=flat, **settings)
    assert [r.learning_rate for r in history] == [r.learning_rate for r in expected]
    assert history[-1].learning_rate < history[0].learning_rate
