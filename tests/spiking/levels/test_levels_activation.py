"""The activation and its gradients against plain loops and finite differences, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.levels.activation import Levels
from spikesep.spiking.levels.network import add_levels
from spikesep.spiking.levels.rate import SpikeRate
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.neuron import constant_current_count
from spikesep.spiking.readout import Readout


@st.composite
def cases(draw):
    """Levels in float64 with steps, and potentials [2, 3, 4] of either sign around them."""
    per_channel, last = draw(st.booleans()), draw(st.booleans())
    levels = Levels(
        draw(st.integers(1, 9)),
        draw(st.sampled_from(["qcfs", "lsq"])),
        (4 if last else 3) if per_channel else 1,
        draw(st.sampled_from([0.0, 0.25, 0.5])),
        channels_last=last,
    ).double()
    torch.manual_seed(draw(st.integers(0, 1000)))
    levels.set_step(torch.rand(len(levels.learned), dtype=torch.float64) + 0.1)
    x = torch.randn(2, 3, 4, dtype=torch.float64) * levels.n_steps * draw(st.floats(0.1, 2))
    return levels, x


def step_at(levels, place):
    """The step of the neuron at [batch, channel, position]."""
    steps = levels.step.detach().tolist()
    channel = place[2] if levels.channels_last else place[1]
    return (steps[channel], channel) if len(steps) > 1 else (steps[0], 0)


def places(x):
    return torch.cartesian_prod(*map(torch.arange, x.shape)).tolist()


@settings(max_examples=50, deadline=None)
@given(cases())
def test_values_are_those_of_neurons_with_the_step_as_threshold(case):
    levels, x = case
    out = levels(x).detach()
    for place in map(tuple, places(x)):
        step, _ = step_at(levels, place)
        count = math.floor(float(x[place]) / step + levels.shift)
        assert float(out[place]) == min(max(count, 0), levels.n_steps) * step
        fired = constant_current_count(x[place], step, levels.shift * step, levels.n_steps)
        assert float(out[place]) == pytest.approx(int(fired) * step)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_gradients_are_finite_differences_with_rounding_errors_held(case):
    """Straight-through: each value is clipped, plus a rounding error in steps that is constant."""
    levels, x = case
    weights = torch.randn(x.shape, dtype=torch.float64)
    x.requires_grad_()
    (levels(x) * weights).sum().backward()
    errors = {}

    def held(place, value, step):
        clipped = min(max(value / step, 0.0), float(levels.n_steps))
        return step * (clipped + errors[place])

    d, of_step = 1e-7, [0.0] * len(levels.learned)
    for place in map(tuple, places(x)):
        step, channel = step_at(levels, place)
        value = float(x.detach()[place])
        near = min(abs(value), abs(value - levels.n_steps * step))
        if near < 1e-4:
            return  # no difference quotient at the kinks
        clipped = min(max(value / step, 0.0), float(levels.n_steps))
        errors[place] = min(math.floor(clipped + levels.shift), levels.n_steps) - clipped
        weight = float(weights[place])
        slope = (held(place, value + d, step) - held(place, value - d, step)) / (2 * d)
        assert float(x.grad[place]) == pytest.approx(weight * slope, abs=1e-5)
        slope = (held(place, value, step + d) - held(place, value, step - d)) / (2 * d)
        of_step[channel] += weight * slope
    if levels.kind == "qcfs":  # learns the bound, N_s steps
        scale = 1 / levels.n_steps
    else:
        n_neurons = x[0].numel() / len(of_step)
        scale = 1 / math.sqrt(n_neurons * levels.n_steps)
    expected = [scale * slope for slope in of_step]
    assert levels.learned.grad.tolist() == pytest.approx(expected, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(cases(), st.floats(0.25, 4))
def test_levels_scale_with_step_and_input(case, factor):
    levels, x = case
    out = levels(x)
    levels.set_step(levels.step.detach() * factor)
    scaled = levels(x * factor)
    same = torch.isclose(scaled, out * factor, rtol=1e-9, atol=1e-12)
    assert (~same).sum() <= 1  # a tie may round the other way


def test_bfloat16_activations_keep_their_format_and_round_in_float32():
    levels = Levels(8)
    levels.set_step(0.1)
    x = torch.linspace(0, 1, 100, dtype=torch.bfloat16).view(1, -1)
    out = levels(x)
    assert out.dtype == torch.bfloat16
    exact = (x.float() / levels.step + 0.5).floor().clamp(0, 8) * levels.step
    assert torch.equal(out, exact.bfloat16())


@pytest.mark.parametrize(
    "options", [{"n_steps": 0}, {"n_steps": 4, "shift": 1.0}, {"n_steps": 4, "kind": "relu"}]
)
def test_levels_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="levels need"):
        Levels(**options)


@pytest.mark.parametrize("kind", ["qcfs", "lsq"])
def test_no_examples_have_no_levels_and_no_gradient(kind):
    levels = Levels(4, kind, 3)
    x = torch.zeros(0, 3, 5, requires_grad=True)
    out = levels(x)
    out.sum().backward()
    assert out.shape == x.grad.shape == x.shape
    assert not levels.learned.grad.any()


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_the_rate_counts_what_neurons_fire_and_has_the_gradient_of_rounding(per):
    torch.manual_seed(0)
    layers = [SpikingLayer(nn.Conv1d(3, 4, 3))]
    network = SpikingNetwork([layers[0]], Readout(nn.Conv1d(4, 2, 1)))
    add_levels(network, 4, per=per)
    steps = torch.rand(4 if per == "channel" else 1) * 0.1 + 0.05
    layers[0].levels.set_step(steps)
    x = torch.randn(2, 3, 10)
    rate = SpikeRate()
    network(x, rate)
    potential = layers[0].activation(x)
    wide = steps.view(-1, 1)
    counts = (potential / wide + 0.5).floor().clamp(0, 4)
    mean = float(counts.detach().mean()) / 4
    assert float(rate.mean.detach()) == pytest.approx(mean, rel=1e-5)
    rate.mean.backward()
    inside = ((potential > 0) & (potential < 4 * wide)).float()
    expected = (-potential / wide * inside / wide / (4 * counts.numel())).detach()
    expected = expected.sum((0, 2)) if per == "channel" else expected.sum()[None]
    torch.testing.assert_close(layers[0].levels.learned.grad, expected / 4)  # qcfs: bound / 4
