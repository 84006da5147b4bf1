import copy

import pytest
import torch
from torch import nn

from spikesep.spiking.conversion import fixed_point
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.conversion.time_steps import set_time_steps
from spikesep.spiking.from_torch.convert import convert
from spikesep.spiking.from_torch.tracing import from_module
from spikesep.spiking.signal import MOST_STEPS, Coding, Signal


def make_network(n_steps, encoding="constant", thresholds=(0.8, 0.5, 0.3)):
    """Float weights; `thresholds` are those of 8 steps."""
    torch.manual_seed(0)
    network = from_module(
        nn.Sequential(
            nn.Conv1d(6, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 1),
        )
    ).eval()  # fmt: skip
    for layer, threshold in zip(network.layers.values(), thresholds, strict=True):
        layer.convert(threshold * 8 / n_steps, Coding(n_steps, encoding))
        layer.freeze()
    return network


@pytest.mark.parametrize("n_steps", [1, 4, 7, 16, 40])
@pytest.mark.parametrize("encoding", ["constant", "impulse"])
def test_another_window_is_what_conversion_with_the_same_upper_bounds_gives(n_steps, encoding):
    network, x = make_network(8, encoding), torch.randn(2, 6, 50)
    set_time_steps(network, n_steps)
    assert network.coding == Coding(n_steps, encoding)
    with torch.no_grad():
        torch.testing.assert_close(network(x), make_network(n_steps, encoding)(x))


@pytest.mark.parametrize("n_steps", [2, 4, 7, 16, 40])
@pytest.mark.parametrize("encoding", ["constant", "impulse"])
def test_the_fixed_point_form_of_another_window_is_the_one_made_at_that_window(
    n_steps, encoding, monkeypatch
):
    """Against the fixed-point form made from float weights at that window. Where it chose the same
    grids, its integers are the same, and otherwise what they mean; biases and thresholds up to
    rounding once more."""
    monkeypatch.setattr(
        fixed_point, "ENOUGH", float("inf")
    )  # together, weights make up for what a window rounds
    x = torch.randn(2, 6, 50)
    network, expected = make_network(8, encoding), make_network(n_steps, encoding)
    to_fixed_point(network, [x])
    to_fixed_point(expected, [x])
    set_time_steps(network, n_steps)
    compared = 0
    for layer, other in zip(network.layers.values(), expected.layers.values(), strict=True):
        assert float(layer.threshold) == pytest.approx(float(other.threshold), rel=1e-6)
        assert torch.equal(layer.fixed.weight, other.fixed.weight)
        grids = [
            (int(fixed.fraction), int(fixed.input_levels)) for fixed in (layer.fixed, other.fixed)
        ]
        if grids[0] == grids[1]:
            compared += 1
            rounded = 2 if encoding == "impulse" or n_steps > 8 else 0
            for name in ("bias", "threshold", "initial"):
                found, wanted = (
                    getattr(fixed, name).double() for fixed in (layer.fixed, other.fixed)
                )
                torch.testing.assert_close(found, wanted, rtol=2e-7, atol=rounded)
    assert compared >= 2
    with torch.no_grad():
        wanted = expected(x)
        assert float((network(x) - wanted).abs().mean()) <= 0.02 * float(wanted.abs().mean())


def test_more_steps_come_closer_to_the_analog_network():
    x, errors = torch.randn(4, 6, 80), []
    analog = make_network(4096)
    with torch.no_grad():
        for n_steps in (2, 8, 64):
            network = make_network(8)
            set_time_steps(network, n_steps)
            errors.append(float((network(x) - analog(x)).square().mean()))
    assert errors == sorted(errors, reverse=True)


def test_there_and_back_gives_the_network_that_was():
    network = make_network(8)
    to_fixed_point(network, [torch.randn(1, 6, 20)])
    before = copy.deepcopy(network.state_dict())
    set_time_steps(network, 2)
    set_time_steps(network, 8)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("n_steps", [0, -1, MOST_STEPS + 1])
def test_no_steps_and_steps_without_end_are_refused(n_steps):
    with pytest.raises(ValueError, match="n_steps"):
        set_time_steps(make_network(8), n_steps)


def test_an_analog_network_has_no_steps():
    with pytest.raises(ValueError, match="all spike"):
        set_time_steps(
            from_module(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))),
            4,
        )


def test_a_window_that_32_bits_cannot_hold_is_refused():
    network = make_network(8)
    to_fixed_point(network, [torch.randn(1, 6, 20)])
    network[1].fixed.bias.fill_(10**8)
    with pytest.raises(ValueError, match="out of range"):
        set_time_steps(network, MOST_STEPS)


@pytest.mark.parametrize("n_steps", [8, 16, 64, 256, 4096])
def test_no_input_overflows_the_potentials_of_a_longer_window(n_steps):
    """Against a loop in whole numbers of any size, for the inputs that reach furthest."""
    torch.manual_seed(0)
    network = from_module(nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))).eval()
    network[0].convert(0.3, Coding(8))
    network[0].freeze()
    to_fixed_point(network, [torch.randn(4, 64)])
    set_time_steps(network, n_steps)
    fixed = network[0].fixed
    furthest = fixed.weight.sign().double() * fixed.input_levels * fixed.input_unit
    with torch.no_grad():
        found = network[0](Signal(torch.cat([furthest, -furthest]).float())).count
    signs = [row for sign in (1, -1) for row in (sign * fixed.weight.sign()).tolist()]
    weights, gain, levels = fixed.weight.tolist(), 1 << int(fixed.fraction), int(fixed.input_levels)
    numbers = [tensor.tolist() for tensor in (fixed.bias, fixed.threshold, fixed.initial)]
    for example, sign in enumerate(signs):
        for neuron, (bias, threshold, initial) in enumerate(zip(*numbers, strict=True)):
            sums = sum(w * s for w, s in zip(weights[neuron], sign, strict=True))
            whole = initial + n_steps * (sums * levels * gain + bias)
            assert int(found[example, neuron]) == min(max(whole // threshold, 0), n_steps)


class TwoInputs(nn.Module):
    """Two layers that read the input, and one that reads both."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 8)
        self.both, self.out = nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x):
        sides = [torch.relu(self.left(x)), torch.relu(self.right(x))]
        return self.out(torch.relu(self.both(torch.cat(sides, 1))))


@pytest.mark.parametrize("encoding", ["constant", "impulse"])
def test_each_layer_that_reads_the_input_is_rescaled(encoding):
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    network = convert(TwoInputs(), x, 8, encoding=encoding, weight_bits=8)
    set_time_steps(network, 32)
    for name in ("left", "right"):
        layer = network.layers[name]
        found = layer(Signal(x))
        wanted = layer.rounded(layer.activation(x)) / layer.threshold
        assert float((found.count - wanted).abs().mean()) < 1
