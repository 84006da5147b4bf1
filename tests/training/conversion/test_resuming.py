"""Runs that are interrupted, and checkpoints of other runs and of earlier releases."""

import pytest
import torch
from helpers.conversion import convert, mean_square, same, stopped_clock, trained, without_time
from torch import nn

from spikesep.errors import SpikeSepError, SpikeSepWarning
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork

SETTINGS = {
    "": {},
    "limits": {"qat_bits": 4, "fan_in": 5, "gradient": "clipped"},
    "refit": {"fan_in": 5, "pruning": "refit"},
    "refit with few bits": {"fan_in": 5, "pruning": "refit", "qat_bits": 4},
    "refit of what stays analog": {"fan_in": 5, "pruning": "refit", "discretize": False},
    "allotted": {"synops": 0.8},
    "allotted, and not worth it": {"fan_in": 18, "pruning": "refit", "synops": 0.8},
    "cache on disk": {"memory_gib": 0, "disk_gib": 1},
    "tandem": {"method": "tandem"},
    "surrogate": {"method": "surrogate"},
    "mean weights": {"ema_decay": 0.8},
}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    return stopped_clock(monkeypatch)


class Interrupted(Exception):  # noqa: N818
    pass


def interrupted_loss(n_calls):
    """A loss that fails after some calls."""
    left = n_calls

    def loss(prediction, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise Interrupted
        return mean_square(prediction, target)

    return loss


CASES = [
    (name, n_calls)
    for name, settings in SETTINGS.items()
    for n_calls in (3, 11, 20, 30, 37)
    if n_calls < 25 or "method" not in settings  # a run that converts all layers at once is shorter
]


@pytest.mark.parametrize(("name", "n_calls"), CASES)
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, name, n_calls):
    settings = SETTINGS[name]
    unbroken, choices, expected = convert(tmp_path / "unbroken", **settings)
    with pytest.raises(Interrupted):
        convert(tmp_path / "broken", loss=interrupted_loss(n_calls), **settings)
    resumed, again, history = convert(tmp_path / "broken", **settings)
    assert [c.upper_bound for c in again] == [c.upper_bound for c in choices]
    assert without_time(history) == without_time(expected)
    assert same(resumed, unbroken)


def other_model():
    model = trained()
    with torch.no_grad():
        model.network.readout.synapse.weight[0, 0, 0] += 1e-3
    return model


def deeper_model():
    model = trained()
    layers = [*model.network.layers.values(), SpikingLayer(nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6))]
    model.network = SpikingNetwork(layers, model.network.readout)
    return model.eval()


OTHERS = {
    "weights": ({"model": other_model}, "begun with weights = "),
    "layers": ({"model": deeper_model}, "begun with weights = "),
    "n_steps": ({"n_steps": 2}, r"begun with convert\.n_steps = 8, not 2"),
    "method": ({"method": "tandem"}, r"begun with convert\.method = ptl, not tandem"),
    "teacher": ({"teacher": trained}, "begun with teacher = None, not "),
}


@pytest.mark.parametrize(("changes", "message"), OTHERS.values(), ids=OTHERS)
def test_checkpoint_of_another_run_is_refused(tmp_path, changes, message):
    first, _, history = convert(tmp_path, max_epochs=0)
    given = {name: make() if callable(make) else make for name, make in changes.items()}
    with pytest.raises(
        SpikeSepError, match=f"snn: contains a conversion {message}.*; give another folder"
    ):
        convert(tmp_path, **{"max_epochs": 0} | given)
    again, _, rows = convert(tmp_path, max_epochs=0, memory_gib=0)  # does not affect the result
    assert same(again, first)
    assert without_time(rows) == without_time(history)


def test_checkpoint_without_description_is_resumed_if_it_fits(tmp_path):
    first, _, _ = convert(tmp_path, max_epochs=0)
    path = tmp_path / "snn" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["begun"]
    torch.save(state, path)
    assert same(convert(tmp_path, max_epochs=0)[0], first)
    with pytest.raises(
        SpikeSepError, match="snn: contains the conversion of another network; give another folder"
    ):
        convert(tmp_path, deeper_model(), max_epochs=0)


def test_setting_unknown_to_the_checkpoint_must_have_its_default(tmp_path):
    first, _, _ = convert(tmp_path, max_epochs=0)
    path = tmp_path / "snn" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["begun"]["convert"]["gradient"]
    torch.save(state, path)
    assert same(convert(tmp_path, max_epochs=0)[0], first)
    with pytest.raises(SpikeSepError, match=r"convert\.gradient = relu, not clipped"):
        convert(tmp_path, max_epochs=0, gradient="clipped")


def old_format(path, **changes):
    """Rewrite a checkpoint as the release before settings were renamed wrote it."""
    state = torch.load(path, weights_only=True)
    settings = state["begun"].pop("convert")
    budget, cache = settings.pop("budget"), settings.pop("cache")
    assert set(cache) == {"memory_gib", "disk_gib"}
    old = {"synops_budget": budget["synops"], "synops_weight": budget["synops_weight"]}
    old |= {"optimizer": "adam", "clip_norm": 5.0}
    state["begun"]["ptl"] = settings | old | changes
    torch.save(state, path)


def test_checkpoint_with_old_names_of_settings_is_resumed(tmp_path):
    """Cut off within the second stage, by a run with a synops weight."""
    given = {"synops_weight": 0.1}
    unbroken, _, expected = convert(tmp_path / "unbroken", **given)
    with pytest.raises(Interrupted):
        convert(tmp_path / "broken", loss=interrupted_loss(30), **given)
    old_format(tmp_path / "broken" / "snn" / "state.pt")
    with pytest.warns(SpikeSepWarning, match=r"state\.pt: .*ptl\.\* is now convert\.\*"):
        resumed, _, history = convert(tmp_path / "broken", **given)
    assert without_time(history) == without_time(expected)
    assert same(resumed, unbroken)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synops_weight": 0.5}, r"convert\.budget\.synops_weight = 0\.5, not 0\.0"),
        ({"optimizer": "muon"}, r"ptl\.optimizer = muon, not None"),
    ],
)
@pytest.mark.filterwarnings("ignore::spikesep.errors.SpikeSepWarning")
def test_checkpoint_with_other_settings_under_old_names_is_refused(tmp_path, changes, message):
    convert(tmp_path, max_epochs=0)
    old_format(tmp_path / "snn" / "state.pt", **changes)
    with pytest.raises(SpikeSepError, match=message):
        convert(tmp_path, max_epochs=0)
