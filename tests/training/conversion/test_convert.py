import copy
import math
import re

import pytest
import torch
from helpers.conversion import Examples, Model, convert, mean_square, trained
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.synapses.kinds import connectivity_of


def test_front_is_frozen_and_readout_is_trained(tmp_path):
    before = copy.deepcopy(trained().state_dict())
    model, _, _ = convert(tmp_path)
    after = model.state_dict()
    assert torch.equal(before["scale.weight"], after["scale.weight"])
    assert not torch.equal(
        before["network.readout.synapse.weight"], after["network.readout.synapse.weight"]
    )


def test_fine_tuning_lowers_the_loss(tmp_path):
    _, _, tuned = convert(tmp_path / "tuned", n_steps=4, max_epochs=20, patience=20)
    _, _, primitive = convert(tmp_path / "primitive", n_steps=4, max_epochs=0)
    assert tuned[-1].valid_loss < primitive[-1].valid_loss


def test_each_stage_leaves_a_checkpoint(tmp_path):
    convert(tmp_path)
    assert sorted(p.name for p in (tmp_path / "snn").iterdir()) == [
        "stage01.pt",
        "stage02.pt",
        "stage03.pt",
        "state.pt",
    ]


@pytest.mark.parametrize("discretize", [False, True])
def test_discretize_rounds_layers_not_yet_converted(tmp_path, discretize):
    modes = []

    def watching(prediction, target):
        modes.append([layer.mode for layer in model.network.layers.values()])
        return mean_square(prediction, target)

    model = trained()
    convert(tmp_path, model, loss=watching, max_epochs=1, discretize=discretize)
    later = "discrete" if discretize else "analog"
    assert modes[0] == ["tandem", later, later]
    assert ["spiking", "tandem", later] in modes
    assert modes[-1] == ["spiking", "spiking", "tandem"]


def test_deferred_neurons_do_not_raise_the_loss_in_later_stages(tmp_path):
    """Discretized layers have the same spike counts before and after their conversion."""
    _, _, rows = convert(tmp_path, deferred=True)
    ends = {row.stage: min(r.valid_loss for r in rows if r.stage == row.stage) for row in rows}
    begins = {row.stage: row.valid_loss for row in rows if row.epoch == 0}
    for stage in (2, 3):
        assert begins[stage] == pytest.approx(ends[stage - 1], rel=1e-3)


def test_finished_network_is_in_fixed_point_and_its_loss_is_printed(tmp_path, capsys):
    model, _, history = convert(tmp_path, weight_bits=6)
    assert model.network.is_fixed_point
    assert max(int(layer.fixed.weight.abs().max()) for layer in model.network.layers.values()) == 31
    told = float(re.search("6-bit weights: validation loss ([0-9.]+)", capsys.readouterr().out)[1])
    assert told == pytest.approx(min(row.valid_loss for row in history if row.stage == 3), rel=1e-3)


def test_network_without_fixed_point_form_is_refused_at_once(tmp_path):
    model = trained()
    layer = model.network[1]
    layer.synapse.padding_mode = "reflect"
    layer.connectivity = connectivity_of(layer.synapse)
    with pytest.raises(SpikeSepError, match="has no fixed-point form; set weight_bits to 0"):
        convert(tmp_path, model, weight_bits=8)
    assert not (tmp_path / "history.csv").exists()


def test_float64_network_is_refused_at_once(tmp_path):
    with pytest.raises(SpikeSepError, match=r"layer 0: its weights are float64; call \.float\(\)"):
        convert(tmp_path, trained().double())
    assert not (tmp_path / "history.csv").exists()


def test_norm_not_over_channels_is_refused_at_once(tmp_path):
    """After Linear on [B, positions, channels], batch norm is over positions."""

    class Vectors(Model):
        def __init__(self):
            super().__init__()
            layer = SpikingLayer(nn.Linear(6, 6), nn.BatchNorm1d(6))
            layer.norm.running_mean.copy_(torch.arange(6))
            self.network = SpikingNetwork([layer], Readout(nn.Linear(6, 2)))

        def encode(self, x):
            return x[:, :, :6], x[:, :, :2]

        def decode(self, potential, x):
            return (potential + x).sum(1)

    with pytest.raises(
        SpikeSepError, match=r"layer 0: BatchNorm1d cannot be folded into Linear .*\[7, 6, 6\]"
    ):
        convert(
            tmp_path, Vectors().eval(), loss=lambda prediction, target: prediction.square().mean()
        )
    assert not (tmp_path / "history.csv").exists()


@pytest.mark.parametrize(
    ("n_calls", "message"),
    [
        (0, "stage 1, epoch 0: the validation loss is nan"),
        (3, "stage 1, epoch 1: the training loss is nan"),
        (10, "stage 1, epoch 1: the validation loss is nan"),
        (30, "stage 2, epoch 1: the validation loss is nan"),
    ],
)
def test_loss_that_is_not_finite_ends_the_run(tmp_path, n_calls, message):
    left = n_calls

    def failing(prediction, target):
        nonlocal left
        left -= 1
        return mean_square(prediction, target) * (math.nan if left < 0 else 1)

    with pytest.raises(SpikeSepError, match=f"{message}; look for NaN"):
        convert(tmp_path, loss=failing)
    state = tmp_path / "snn" / "state.pt"
    if state.exists():
        kept = torch.load(state, weights_only=True)["model"].values()
        assert all(tensor.isfinite().all() for tensor in kept)


@pytest.mark.parametrize(
    "settings", [{}, {"method": "rate"}, {"fan_in": 5, "pruning": "refit", "discretize": False}]
)
@pytest.mark.parametrize("bad", ["an example", "a weight"])
def test_nan_in_weights_or_examples_is_refused_at_once(tmp_path, monkeypatch, settings, bad):
    model, message = trained(), r"the network's layers\.1\.synapse\.bias contains NaN"
    if bad == "a weight":
        with torch.no_grad():
            model.network[1].synapse.bias[0] = math.nan
    else:
        message = "the network's input, in training examples 7 to 13, contains NaN"
        take = Examples.__getitem__
        monkeypatch.setattr(
            Examples,
            "__getitem__",
            lambda self, k: (take(self, k)[0] / (0 if k == 9 else 1), take(self, k)[1]),
        )
    with pytest.raises(SpikeSepError, match=message):
        convert(tmp_path, model, **settings)
    assert not (tmp_path / "history.csv").exists()
