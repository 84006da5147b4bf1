"""Pre-training with levels: resuming, prices and targets, and conversion of what it learned."""

import itertools
import math

import pytest
import torch
from helpers import conversion
from helpers.conversion import Examples, Model, mean_square
from torch.utils.data import DataLoader

from spikesep.errors import SpikeSepError
from spikesep.spiking.cost import measure
from spikesep.spiking.levels.network import levels_settings
from spikesep.spiking.levels.rate import SpikeRate
from spikesep.training.config import PretrainConfig
from spikesep.training.levels_config import LevelsConfig
from spikesep.training.pretrain import pretrain
from spikesep.training.pretraining.spike_price import SpikePrice
from spikesep.training.records.history import History

CONFIG = {"epochs": 4, "learning_rate": 0.01, "warmup_steps": 3, "precision": "float32"}


class StopError(Exception):
    """Ends training in the midst of an epoch."""


def train(folder, levels, *, identity=False, stop_at=None, model=None, **settings):
    """Train the small model; with `stop_at`, end at that step of training."""
    model, steps = model or Model(identity=identity), itertools.count(1)

    def loss(prediction, target):
        if prediction.requires_grad and next(steps) == stop_at:
            raise StopError
        return mean_square(prediction, target)

    pretrain(
        model,
        loss,
        DataLoader(Examples(40, 1), batch_size=8),
        DataLoader(Examples(16, 2), batch_size=8),
        PretrainConfig(**{**CONFIG, **settings}, levels=levels),
        folder / "ann",
        history=History(folder / "history.csv"),
        metric=lambda prediction, target, value: -value,
    )
    return model


def rate_of(model):
    rate = SpikeRate()
    with torch.no_grad():
        model(torch.stack([x for x, _ in Examples(16, 2).pairs]), rate)
    return float(rate.mean)


@pytest.mark.parametrize("kind", ["qcfs", "lsq"])
@pytest.mark.parametrize("per", ["layer", "channel"])
def test_steps_learn(tmp_path, kind, per):
    short = train(tmp_path / "short", LevelsConfig(4, kind, per), epochs=1, learning_rate=1e-9)
    long = train(tmp_path / "long", LevelsConfig(4, kind, per))
    for index in range(3):
        before, after = short.network[index], long.network[index]
        assert len(after.levels.learned) == (1 if per == "layer" else 6)
        assert ((after.levels.step - before.levels.step).abs() > 1e-5).all()


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_killed_run_resumes_with_its_steps_and_its_price(tmp_path, ema_decay):
    levels = LevelsConfig(4, "lsq", target_rate=0.1)
    unbroken = train(tmp_path / "unbroken", levels, ema_decay=ema_decay)
    with pytest.raises(StopError):  # five steps an epoch: in the third
        train(tmp_path / "broken", levels, stop_at=13, ema_decay=ema_decay)
    resumed = train(tmp_path / "broken", levels, ema_decay=ema_decay)
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    rows = [History(tmp_path / run / "history.csv").read() for run in ("unbroken", "broken")]
    assert [r.valid_loss for r in rows[0]] == [r.valid_loss for r in rows[1]]
    prices = [
        torch.load(tmp_path / run / "ann" / "last.ckpt", weights_only=True)["spike_price"]
        for run in ("unbroken", "broken")
    ]
    assert prices[0] == prices[1] != 1.0


def test_a_price_lowers_the_rate_and_a_target_holds_it(tmp_path):
    settings = {"epochs": 30}
    free = train(tmp_path / "free", LevelsConfig(4), **settings)
    priced = train(tmp_path / "priced", LevelsConfig(4, spike_price=2.0), **settings)
    target = 0.5 * rate_of(free)
    held = train(tmp_path / "held", LevelsConfig(4, target_rate=target), **settings)
    assert rate_of(priced) < 0.9 * rate_of(free)
    assert rate_of(held) == pytest.approx(target, rel=0.15)


def test_the_price_follows_the_rate_and_costs_what_exceeds_the_target():
    price = SpikePrice(LevelsConfig(4, target_rate=0.1))
    assert price.cost(0.05) == 0
    assert float(price.cost(torch.tensor(0.3))) == pytest.approx(0.2 * price.value)
    before = price.value
    for _ in range(100):
        price.adapt(0.2)
    assert price.value == pytest.approx(before * math.e)
    price.adapt(0.05)
    assert price.value < before * math.e
    fixed = SpikePrice(LevelsConfig(4, spike_price=3.0))
    fixed.adapt(1.0)
    assert fixed.value == 3.0
    assert fixed.cost(0.5) == pytest.approx(1.5)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_conversion_of_deferred_neurons_is_exact_before_any_training(tmp_path, per):
    model = train(tmp_path, LevelsConfig(4, per=per))
    x = torch.stack([x for x, _ in Examples(16, 2).pairs])
    with torch.no_grad():
        wanted = model(x)
        options = {"n_steps": 4, "deferred": True, "max_epochs": 0}
        conversion.convert(tmp_path, model, **options)
        torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-4)


def test_killed_conversion_of_learned_steps_resumes(tmp_path):
    def analog():
        return train(tmp_path / "ann", LevelsConfig(4))  # complete but at first: loads the best

    steps = itertools.count()

    def failing(prediction, target):
        if next(steps) == 20:
            raise StopError
        return mean_square(prediction, target)

    options = {"n_steps": 4, "deferred": True}
    unbroken, _, rows = conversion.convert(tmp_path / "one", analog(), **options)
    with pytest.raises(StopError):
        conversion.convert(tmp_path / "two", analog(), loss=failing, **options)
    resumed, _, again = conversion.convert(tmp_path / "two", analog(), **options)
    assert conversion.same(unbroken, resumed)
    assert conversion.without_time(rows) == conversion.without_time(again)


def test_a_budget_of_synops_allots_spikes_to_learned_steps(tmp_path):
    model = train(tmp_path, LevelsConfig(8))
    options = {"n_steps": 8, "deferred": True, "max_epochs": 0, "synops": 0.5}
    model, _, _ = conversion.convert(tmp_path, model, **options)
    assert model.network.n_converted == 3
    x = torch.stack([x for x, _ in Examples(40, 2).pairs])
    _, cost = measure(model.network, model.encode(x)[0])
    assert cost.synops_ratio == pytest.approx(0.5, rel=0.1)  # the estimate ignores padding


def test_training_on_with_relu_or_other_levels_replaces_them(tmp_path):
    model = train(tmp_path / "a", LevelsConfig(4))
    steps = float(model.network[0].levels.step.detach())
    kept = train(tmp_path / "b", LevelsConfig(4), model=model, epochs=1, learning_rate=1e-9)
    assert float(kept.network[0].levels.step.detach()) == pytest.approx(steps, rel=1e-4)
    other = train(tmp_path / "c", LevelsConfig(2, "lsq"), model=kept, epochs=1)
    assert levels_settings(other.network)["n_steps"] == 2
    plain = train(tmp_path / "d", LevelsConfig(), model=other, epochs=1)
    assert all(layer.levels is None for layer in plain.network.layers.values())


def test_steps_per_channel_beside_identity_paths_are_refused(tmp_path):
    with pytest.raises(SpikeSepError, match="steps per channel"):
        train(tmp_path, LevelsConfig(4, per="channel"), identity=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": -1}, "--train.levels.n_steps -1: must be"),
        ({"n_steps": 4, "shift": 1.0}, "--train.levels.shift 1.0: must be between 0 and 1"),
        ({"spike_price": 1.0}, "need --train.levels.n_steps"),
        ({"target_rate": 0.1}, "need --train.levels.n_steps"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(SpikeSepError, match=message):
        LevelsConfig(**options)
