"""Neurons that leak or reset to zero: spikes, counts, learning, saving, refusals."""

import numpy as np
import pytest
import torch
from helpers.conversion import convert as convert_run
from helpers.conversion import trained
from helpers.stacks import converted
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.neuron_options import leak_shift
from spikesep.spiking import (
    Coding,
    Readout,
    SpikingLayer,
    SpikingNetwork,
    convert,
    measure,
    to_fixed_point,
)
from spikesep.spiking.cost.energy import energy_report
from spikesep.spiking.neuron import integrate_and_fire
from spikesep.spiking.signal import Signal
from spikesep.spiking.spike_trains import packed
from spikesep.spiking.surrogate import graded_spikes
from spikesep.training.config import ConversionConfig

RESETS = ("subtract", "zero")
models = st.tuples(st.sampled_from(RESETS), st.floats(0.05, 1.0))


def loop(current, threshold, initial, reset, beta, number=float):
    """Neuron by neuron, in plain Python numbers or numpy scalars."""
    beta, threshold, spikes = number(beta), number(threshold), []
    for neuron in current.T:
        v, train = number(initial), []
        for z in neuron:
            v = number(v * beta + number(z))
            train.append(bool(v >= threshold))
            if train[-1]:
                v = number(0) if reset == "zero" else number(v - threshold)
        spikes.append(train)
    return np.array(spikes).T


def random_current(seed, n_steps, n_neurons=40):
    generator = torch.Generator().manual_seed(seed)
    return 0.6 * torch.randn(n_steps, n_neurons, generator=generator, dtype=torch.float64) + 0.3


@given(st.integers(0, 99), st.integers(1, 33), models, st.sampled_from([0.0, 0.3, 0.5]))
def test_spikes_are_those_of_a_plain_float64_loop(seed, n_steps, model, initial):
    reset, beta = model
    current = random_current(seed, n_steps)
    spikes, _ = integrate_and_fire(current, 0.7, initial, reset=reset, beta=beta)
    np.testing.assert_array_equal(spikes, loop(current.numpy(), 0.7, initial, reset, beta))
    graded = graded_spikes(current, 0.7, initial, reset=reset, beta=beta)
    assert torch.equal(graded > 0.5, spikes)


@given(st.integers(0, 99), st.integers(1, 20), models)
def test_the_compiled_loop_fires_to_the_bit_what_float32_scalars_do(seed, n_steps, model):
    reset, beta = model
    current = random_current(seed, n_steps).float()
    words = packed.integrate(current, 0.7, 0.35, reset=reset, beta=beta)
    expected = loop(current.numpy(), 0.7, 0.35, reset, beta, np.float32)
    np.testing.assert_array_equal(packed.unpack(words, n_steps), expected)
    plain, _ = integrate_and_fire(current, 0.7, 0.35, reset=reset, beta=beta)
    np.testing.assert_array_equal(plain, expected)


@given(st.integers(1, 32), models, st.floats(-2, 40))
def test_a_layer_that_rounds_has_the_count_of_its_neurons(n_steps, model, charge):
    """Of a constant current; a leak draws toward V[0], not toward zero."""
    reset, beta = model
    coding = Coding(n_steps, reset=reset, beta=beta)
    v, count, margin = 0.5, 0, 1.0
    for _ in range(n_steps):
        v = 0.5 + beta * (v - 0.5) + charge / n_steps
        margin = min(margin, abs(v - 1))
        if v >= 1:
            v, count = (0.0 if reset == "zero" else v - 1), count + 1
    if margin < 1e-4:  # rounding decides
        return
    assert coding.count(torch.tensor([charge], dtype=torch.float64)).item() == count
    layer = SpikingLayer(nn.Linear(1, 1, bias=False))
    nn.init.ones_(layer.synapse.weight)
    layer.convert(0.25, coding)
    x = torch.tensor([[0.25 * charge]])
    with torch.no_grad():
        assert layer(Signal(x)).count.item() == count
        assert layer.rounded(layer.activation(x)).item() == 0.25 * count


def test_a_neuron_at_rest_stays_at_rest():
    for reset in RESETS:
        assert Coding(50, reset=reset, beta=0.5).count(torch.zeros(3)).tolist() == [0, 0, 0]


def test_with_a_reset_to_zero_the_interval_is_a_whole_number_of_steps():
    """Without leak and from zero, a neuron fires every ceil(threshold / current) steps."""
    coding = Coding(24, initial_potential=0.0, reset="zero")
    currents = [0.25, 0.4, 0.5, 0.75, 1.0, 3.0]
    expected = [24 // -int(-1 // z) for z in currents]
    assert coding.count(24 * torch.tensor(currents)).tolist() == expected


@pytest.mark.parametrize("reset", RESETS)
def test_the_gradient_of_a_reset_is_that_of_back_propagation_by_hand(reset):
    """Two steps of one leaking neuron; the slope of the step is a triangle."""
    z = torch.tensor([1.2, 0.7], dtype=torch.float64, requires_grad=True)
    graded_spikes(z[:, None], 1.0, 0.0, reset=reset, beta=0.5).sum().backward()
    v1 = 1.2
    slope1 = 1 - abs(v1 - 1)
    rest, moves = (0.0, 0 - v1 * slope1) if reset == "zero" else (v1 - 1, 1 - slope1)
    slope2 = 1 - abs(0.5 * rest + 0.7 - 1)
    assert z.grad.tolist() == pytest.approx([slope1 + slope2 * 0.5 * moves, slope2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset": "none"}, "reset none: must be subtract or zero"),
        ({"beta": 0.0}, "beta 0: must be above 0 and at most 1"),
        ({"beta": 1.5}, "beta 1.5: must be above 0"),
        ({"beta": float("nan")}, "beta nan: must be above 0"),
        ({"deferred": True, "reset": "zero"}, "reset zero: a deferred neuron .*reset subtract"),
        ({"deferred": True, "beta": 0.9}, "beta 0.9: a deferred neuron .* take beta 1"),
    ],
)
def test_options_that_do_not_go_together_are_named_before_anything_runs(options, message):
    with pytest.raises(ValueError, match=message) as error:
        Coding(4, **options)
    assert "\n" not in str(error.value)
    with pytest.raises(SpikeSepError, match=f"^{message}"):
        convert(nn.Identity(), torch.zeros(0), n_steps=4, **options)
    with pytest.raises(SpikeSepError, match=f"^--convert.{message}"):
        ConversionConfig(**options)


def test_integers_leak_by_powers_of_two_alone():
    assert [leak_shift(beta) for beta in (1.0, 0.5, 0.9375, 0.9, 0.25)] == [0, 1, 4, None, None]
    message = "beta 0.9: has no exact form in integers.* take beta 0.875, or set weight_bits to 0"
    with pytest.raises(SpikeSepError, match=f"^{message}"):
        convert(nn.Identity(), torch.zeros(0), beta=0.9, weight_bits=8)
    with pytest.raises(SpikeSepError, match=f"^--convert.{message}"):
        ConversionConfig(beta=0.9)
    layers = [SpikingLayer(nn.Linear(3, 3))]
    network = converted(layers, Readout(nn.Linear(3, 1)), Coding(4, beta=0.9), [0.5])
    with pytest.raises(SpikeSepError, match=message):
        to_fixed_point(network, [torch.rand(4, 3)])


def analog():
    torch.manual_seed(0)
    x = torch.randn(256, 10)
    model = nn.Sequential(
        nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 3)
    )
    return model, x


@pytest.mark.parametrize(
    ("neuron", "most"),
    [({}, 0.03), ({"beta": 0.875}, 0.08), ({"reset": "zero"}, 0.15)],
    ids=str,
)
def test_calibration_gives_a_network_close_to_the_analog_one(neuron, most):
    model, x = analog()
    network = convert(model, x, n_steps=32, **neuron)
    found, expected = network(x), model(x)
    assert float((found - expected).square().mean() / expected.var(0).mean()) < most


@pytest.mark.parametrize("neuron", [{"beta": 0.875}, {"reset": "zero"}], ids=str)
def test_in_integers_the_spikes_stay_close_and_the_leak_costs_additions(neuron):
    model, x = analog()
    floats, whole = (convert(model, x, n_steps=16, weight_bits=b, **neuron) for b in (0, 8))
    scale = floats(x).std()
    assert float((whole(x) - floats(x)).square().mean().sqrt() / scale) < 0.15
    _, cost = measure(whole, x)
    updates = energy_report(cost, 1.0)["snn_neurons"].operations.additions
    per_update = 3 if "beta" in neuron else 2
    assert updates == per_update * cost.neuron_updates + sum(cost.spikes)


@pytest.mark.parametrize("method", ["ptl", "tandem", "surrogate"])
def test_conversion_learns_with_neurons_that_leak(tmp_path, method):
    """In the recipes' algorithm, to integers."""
    model, _, history = convert_run(
        tmp_path,
        trained(identity=False),
        method=method,
        beta=0.875,
        reset="zero",
        weight_bits=8,
        max_epochs=3,
    )
    assert model.network.coding == Coding(8, reset="zero", beta=0.875)
    assert model.network.is_fixed_point
    learning = [row.train_loss for row in history if row.stage == 1][1:]
    assert learning[-1] < learning[0]


def test_a_tandem_layer_has_the_value_of_its_spikes_and_the_gradient_of_its_twin():
    torch.manual_seed(0)
    layer = SpikingLayer(nn.Linear(6, 6))
    layer.convert(0.2, Coding(8, beta=0.75, reset="zero"))
    x = torch.rand(20, 6, requires_grad=True)
    out = layer(Signal(x))
    assert torch.equal(out.value, out.count * layer.threshold)
    (found,) = torch.autograd.grad(out.value.sum(), x)
    (expected,) = torch.autograd.grad(layer.activation(x).sum(), x)
    assert torch.equal(found, expected)


@settings(max_examples=10)
@given(st.sampled_from(RESETS), st.sampled_from([1.0, 0.875, 0.3]))
def test_a_saved_network_comes_back_with_its_neurons(reset, beta):
    def parts():
        torch.manual_seed(1)
        layers = [SpikingLayer(nn.Linear(3, 4)), SpikingLayer(nn.Linear(4, 4))]
        return layers, Readout(nn.Linear(4, 1))

    saved = converted(*parts(), Coding(6, reset=reset, beta=beta), [0.3, 0.2])
    found = saved.conversion_settings()
    named = ("beta" in found["coding"], "reset" in found["coding"])
    assert named == (beta != 1, reset != "subtract")
    again = SpikingNetwork(*parts())
    again.restore_conversion(found)
    again.load_state_dict(saved.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(again.eval()(x), saved(x))
