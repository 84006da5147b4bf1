import copy
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.stacks import signal_before
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion import fixed_point
from spikesep.spiking.conversion.fixed_point import check_fixed_point, to_fixed_point
from spikesep.spiking.conversion.least_squares import RIDGE
from spikesep.spiking.conversion.rounding import LIMIT, TURNS
from spikesep.spiking.engines import dense
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding


def network_of(coding=Coding(8), thresholds=(0.1, 0.05, 0.08), identity=True, seed=0):  # noqa: B008
    torch.manual_seed(seed)
    layers = [
        SpikingLayer(nn.Conv1d(6, 6, 3, padding=1), identity=identity and k > 0) for k in range(3)
    ]
    network = SpikingNetwork(layers, Readout(nn.Conv1d(6, 2, 1))).eval()
    for layer, threshold in zip(layers, thresholds, strict=True):
        layer.convert(threshold, coding)
        layer.freeze()
    return network


@given(st.integers(2, 8), st.integers(0, 100))
def test_weights_are_integers_of_so_many_bits_and_the_float_weights_mean_them(bits, seed):
    network = network_of(seed=seed)
    before = [layer.synapse.weight.clone() for layer in network.layers.values()]
    to_fixed_point(network, [torch.rand(2, 6, 9)], bits)
    for layer, weight in zip(network.layers.values(), before, strict=True):
        fixed, bound = layer.fixed, 2 ** (bits - 1) - 1
        assert fixed.weight.dtype == torch.int8
        assert int(fixed.weight.abs().max()) == bound
        scale = fixed.scale.view(-1, 1, 1)
        assert torch.equal(layer.synapse.weight, fixed.weight * scale)
        assert ((layer.synapse.weight - weight).abs() <= 0.5001 * scale).all()


def test_weights_that_training_put_on_a_grid_stay_as_they_are():
    network, step = network_of(), 0.03
    for layer in network.layers.values():
        layer.synapse.weight.data = (layer.synapse.weight / step).round().clamp(-7, 7) * step
    before = [layer.synapse.weight.clone() for layer in network.layers.values()]
    to_fixed_point(
        network, [torch.rand(2, 6, 9)], 4, {name: torch.tensor(step) for name in network.names}
    )
    for layer, weight in zip(network.layers.values(), before, strict=True):
        torch.testing.assert_close(layer.synapse.weight, weight, rtol=1e-6, atol=0)


def learned_with(bits):
    network = network_of()
    layers = [SpikingLayer(layer.synapse.requires_grad_(True)) for layer in network.layers.values()]
    for layer in layers:
        layer.convert(0.1, Coding(8), limits=HardwareLimits(weight_bits=bits))
        layer.freeze()
    return SpikingNetwork(layers, network.readout).eval()


@pytest.mark.parametrize(("learned", "bits"), [(4, 4), (4, 8), (8, 8)])
def test_a_grid_that_layers_learned_on_is_kept(learned, bits):
    network = learned_with(learned)
    before = [layer.synapse.weight.clone() for layer in network.layers.values()]
    to_fixed_point(network, [torch.rand(2, 6, 9)], bits)
    for layer, weight in zip(network.layers.values(), before, strict=True):
        torch.testing.assert_close(layer.synapse.weight, weight, rtol=1e-6, atol=0)
        assert int(layer.fixed.weight.abs().max()) <= 2 ** (learned - 1) - 1


def test_more_bits_than_there_are_cannot_be_kept():
    with pytest.raises(ValueError, match="8 bits do not fit 4"):
        to_fixed_point(learned_with(8), [torch.rand(2, 6, 9)], 4)


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_spikes_are_those_of_every_machine(engine, monkeypatch):
    """Of numbers exact in float32, drawn by numpy, which draws the same everywhere: a digest of the
    spikes.
    """
    monkeypatch.setattr(
        fixed_point, "ENOUGH", float("inf")
    )  # what is rounded together is not, to the last bit
    rng = np.random.default_rng(0)

    def exact(high, unit, *shape):
        return torch.tensor(rng.integers(-high, high + 1, shape) / unit, dtype=torch.float32)

    network = network_of(Coding(16), thresholds=(0.25, 0.125, 0.1875))
    for layer in network.layers.values():
        layer.synapse.weight.data, layer.synapse.bias.data = (
            exact(127, 512, 6, 6, 3),
            exact(64, 256, 6),
        )
    x = exact(512, 256, 2, 6, 200)
    to_fixed_point(network, [x])
    network.use_engine(engine)
    words = signal_before(network, x, 3).trains[-1].words.numpy()
    assert 0.02 < float(np.unpackbits(words).mean()) < 0.5
    assert hashlib.sha256(words.tobytes()).hexdigest()[:16] == "ece97709ef168103"


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_processors_without_exact_int8_products_take_other_ones(isa):
    """As onednn is told to take this one for."""
    command = [sys.executable, "-m", "pytest", "-k", "every_machine", __file__]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout


def test_thresholds_that_meet_in_one_sum_are_multiples_of_one_unit_and_others_stay():
    together, apart = network_of(thresholds=(0.1, 0.05, 0.0117)), network_of(identity=False)
    for network in (together, apart):
        to_fixed_point(network, [torch.rand(2, 6, 9)])
    unit = 0.1 / 15
    for layer, multiple in zip(
        together.layers.values(), (15, 8, 2), strict=True
    ):  # 7.5 rounds to even
        assert int(layer.fixed.multiple) == multiple
        assert float(layer.threshold) == pytest.approx(multiple * unit)
    assert [round(float(layer.threshold), 6) for layer in apart.layers.values()] == [
        0.1,
        0.05,
        0.08,
    ]
    assert all(int(layer.fixed.multiple) == 1 for layer in apart.layers.values())


@given(
    st.integers(1, 64),
    st.floats(1e-3, 1e3),
    st.floats(1e-6, 1e3),
    st.sampled_from(["constant", "impulse"]),
)
def test_no_potential_can_leave_32_bits(n_steps, largest, threshold, encoding):
    network = network_of(Coding(n_steps, encoding), [threshold] * 3)
    to_fixed_point(network, [torch.full((1, 6, 4), largest)])
    reaching = 0
    for layer in network.layers.values():
        fixed = layer.fixed
        units = reaching or int(fixed.input_levels)
        positive, negative = (
            fixed.weight.long().flatten(1).clamp(*c).sum(1).abs() for c in ((0, None), (None, 0))
        )
        # An analog input has both signs, a spike is positive.
        reach = torch.maximum(positive, negative) if reaching else positive + negative
        most = reach * units * 2 ** int(fixed.fraction) + fixed.bias.long().abs()
        times = 1 if encoding == "impulse" and not reaching else n_steps
        assert int((most * times + fixed.threshold.long()).max()) <= LIMIT
        reaching += int(fixed.multiple)


def test_the_fixed_point_form_stays_close_to_the_network_it_was_made_of():
    network, x = network_of(), torch.rand(8, 6, 50)
    with torch.no_grad():
        before = network(x)
        to_fixed_point(network, [x])
        after = network(x)
    assert float((after - before).square().mean()) < 0.01 * float(before.square().mean())


def resembling(*shape):
    """Inputs of which each channel resembles the next."""
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(3))
    return x + x.roll(1, 1)


def test_weights_are_rounded_as_plain_loops_do_it():
    network, x = network_of(), resembling(3, 6, 40)
    layer = network[0]
    weight, bias = (
        p.detach().double().numpy() for p in (layer.synapse.weight.flatten(1), layer.synapse.bias)
    )
    padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (1, 1)))
    rows = np.array([[*padded[b, :, t : t + 3].ravel(), 1.0] for b in range(3) for t in range(40)])
    pull = np.sqrt(RIDGE * np.square(rows[:, :-1]).mean() * len(rows)) * np.eye(19)
    to_fixed_point(network, [x], bits=3)
    for neuron in range(6):
        old = np.array([*weight[neuron], bias[neuron]])
        rows_and_pull, wanted = (
            np.concatenate([rows, pull]),
            np.concatenate([rows @ old, pull @ old]),
        )
        scale = np.abs(weight[neuron]).max() / 3
        found = np.array([*(np.round(weight[neuron] / scale) * scale), bias[neuron]])

        largest = np.abs(weight[neuron]).argmax()
        for k in [*[18, *range(18)] * TURNS, 18]:
            if k == largest:
                continue
            column = rows_and_pull[:, k]
            best = column @ (wanted - rows_and_pull @ found + column * found[k]) / (column @ column)
            found[k] = best if k == 18 else np.clip(np.round(best / scale), -3, 3) * scale
        assert np.array_equal(
            np.round(found[:18] / scale), layer.fixed.weight[neuron].flatten().numpy()
        )
        assert float(layer.synapse.bias[neuron]) == pytest.approx(found[18], abs=1e-3)


@pytest.mark.parametrize("bits", [3, 8])
def test_rounded_together_weights_come_nearer_than_each_by_itself(bits, monkeypatch):
    network, x, seen = network_of(identity=False), resembling(8, 6, 200), resembling(4, 6, 100)
    expected = outcome(network, x)
    errors = []
    for enough in (fixed_point.ENOUGH, float("inf")):
        monkeypatch.setattr(fixed_point, "ENOUGH", enough)
        rounded = copy.deepcopy(network)
        to_fixed_point(rounded, [seen], bits)
        errors.append(float((outcome(rounded, x) - expected).square().mean()))
    assert errors[0] < 0.95 * errors[1]


def test_inputs_that_were_given_up_stay_so():
    network = network_of()
    for layer in network.layers.values():
        layer.synapse.weight.data[:, ::2] = 0
    to_fixed_point(network, [resembling(4, 6, 100)])
    assert all((layer.fixed.weight[:, ::2] == 0).all() for layer in network.layers.values())


def test_larger_inputs_than_any_before_are_clipped():
    network = network_of()
    to_fixed_point(network, [torch.ones(1, 6, 9)])
    with torch.no_grad():
        torch.testing.assert_close(
            network(torch.full((1, 6, 9), 5.0)), network(torch.ones(1, 6, 9))
        )


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="bits"):
        to_fixed_point(network_of(), [torch.rand(1, 6, 9)], bits)


def test_inputs_without_a_range_are_refused():
    with pytest.raises(ValueError, match="give batches of them"):
        to_fixed_point(network_of(), [])
    with pytest.raises(SpikeSepError, match="NaN or Inf"):
        to_fixed_point(network_of(), [torch.rand(1, 6, 9), torch.full((1, 6, 9), torch.nan)])


def test_what_is_not_converted_has_no_fixed_point_form():
    network = SpikingNetwork([SpikingLayer(nn.Linear(3, 3))], Readout(nn.Linear(3, 1)))
    with pytest.raises(ValueError, match="convert it first"):
        to_fixed_point(network, [torch.rand(1, 3)])


def outcome(network, x):
    with torch.no_grad():
        return network(x)


def test_weights_that_are_exchanged_are_arranged_anew():
    x = torch.rand(2, 6, 9)
    one, other = network_of(seed=0), network_of(seed=1)
    for network in (one, other):
        to_fixed_point(network, [x])
    expected = outcome(other, x)
    outcome(one, x)
    by_copy = copy.deepcopy(one)
    one.load_state_dict(other.state_dict(), assign=True)
    by_copy.load_state_dict(other.state_dict())
    assert torch.equal(outcome(one, x), expected)
    assert torch.equal(outcome(by_copy, x), expected)


def test_autocast_and_inference_mode_change_no_integer():
    x = torch.rand(2, 6, 9)
    with torch.inference_mode():
        network = network_of()
        to_fixed_point(network, [x])
    expected = outcome(network, x)
    signal = signal_before(network, x, len(network))
    with torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            dense, "COMPILED", "no device"
        )  # the way with torch.mm, which autocast would round
        network.use_engine("dense")
        rounded = signal_before(network, x, len(network))
    with torch.inference_mode():
        inferred, potential = signal_before(network, x, len(network)), network(x)
    for again in (rounded, inferred):
        pairs = zip(signal.trains, again.trains, strict=True)
        assert all(torch.equal(a.words, b.words) for a, b in pairs)
    torch.testing.assert_close(potential, expected)  # in inference, a sum in float64


def test_what_does_not_fit_is_named_and_leaves_the_network_as_it_was():
    network = network_of(thresholds=[1e-5] * 3)
    network[1].synapse.bias.data[0] = 200.0
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(SpikeSepError, match="layer 1: its sums do not fit 32 bits"):
        to_fixed_point(network, [torch.rand(1, 6, 9)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.is_fixed_point


def test_a_geometry_without_a_table_is_named_before_anything_is_changed():
    layers = [
        SpikingLayer(nn.Conv1d(2, 2, 1)),
        SpikingLayer(nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect")),
    ]
    network = SpikingNetwork(layers, Readout(nn.Conv1d(2, 1, 1)))
    for layer in layers:
        layer.convert(0.5, Coding(4))
        layer.freeze()
    with pytest.raises(SpikeSepError, match="layer 1: padding_mode='reflect'"):
        to_fixed_point(network, [torch.rand(1, 2, 5)])


WRONG = {
    "fraction": 31,
    "multiple": 0,
    "threshold": 0,
    "bias": LIMIT,
    "scale": float("nan"),
    "input_unit": 0.0,
    "input_levels": 2**40,
    "initial": -1,
}


@pytest.mark.parametrize(("name", "value"), WRONG.items(), ids=WRONG)
def test_integers_that_cannot_be_are_found(name, value):
    network = network_of()
    to_fixed_point(network, [torch.rand(1, 6, 9)])
    check_fixed_point(network)
    getattr(network[0].fixed, name).fill_(value)
    with pytest.raises(ValueError, match="layer 0: its integers are out of range"):
        check_fixed_point(network)
