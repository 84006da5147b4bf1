import pytest
import torch
from torch import nn

from spikesep.spiking.folding import fold
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.neuron import integrate_and_fire, spike_count
from spikesep.spiking.signal import Coding, Signal

CASES = {
    "linear": (lambda bias: nn.Linear(6, 6, bias), nn.BatchNorm1d, (4, 6)),
    "conv1d": (
        lambda bias: nn.Conv1d(6, 6, 3, padding=2, dilation=2, bias=bias),
        nn.BatchNorm1d,
        (4, 6, 15),
    ),
    "conv1d grouped": (
        lambda bias: nn.Conv1d(6, 6, 3, padding=1, groups=3, bias=bias),
        nn.BatchNorm1d,
        (4, 6, 15),
    ),
    "conv2d": (lambda bias: nn.Conv2d(6, 6, 3, padding=1, bias=bias), nn.BatchNorm2d, (4, 6, 7, 9)),
}
cases = pytest.mark.parametrize(("make", "norm", "shape"), CASES.values(), ids=CASES)


def trained_norm(kind):
    """A batch norm that has seen data, with an eps large enough to be missed when forgotten."""
    norm = kind(6, eps=0.1)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.05, 2)
        norm.weight.normal_(1, 0.5)
        norm.bias.normal_()
    return norm.eval()


@cases
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_folding_changes_nothing_in_inference(make, norm, shape, bias, with_norm, residual):
    torch.manual_seed(0)
    layer = (
        SpikingLayer(make(bias), trained_norm(norm) if with_norm else None, residual=residual)
        .double()
        .eval()
    )
    x = torch.randn(shape, dtype=torch.float64)
    before = layer(Signal(x)).value
    layer.fold()
    assert (layer.norm, layer.residual) == (None, False)
    torch.testing.assert_close(layer(Signal(x)).value, before, rtol=1e-12, atol=1e-12)


@cases
def test_a_residual_layer_adds_its_input_before_the_relu(make, norm, shape):
    torch.manual_seed(0)
    layer = SpikingLayer(make(True), trained_norm(norm), residual=True).eval()
    x = torch.randn(shape)
    assert torch.equal(layer(Signal(x)).value, torch.relu(layer.norm(layer.synapse(x)) + x))


@pytest.mark.parametrize(
    "synapse",
    [
        nn.Linear(6, 5),
        nn.Conv1d(6, 5, 3, padding=1),
        nn.Conv1d(6, 6, 3),
        nn.Conv1d(6, 6, 3, 2, 1),
        nn.Conv1d(6, 6, 2),
    ],
    ids=repr,
)
def test_a_residual_path_around_what_changes_the_shape_is_refused(synapse):
    with pytest.raises(ValueError, match="keeps the shape"):
        SpikingLayer(synapse, residual=True)


def test_fold_leaves_the_modules_it_is_given_alone():
    synapse, norm = nn.Conv1d(6, 6, 1, bias=False), trained_norm(nn.BatchNorm1d)
    weight = synapse.weight.clone()
    fold(synapse, norm)
    assert synapse.bias is None
    assert torch.equal(synapse.weight, weight)


@cases
@pytest.mark.parametrize("encoding", ["constant", "impulse"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_spike_counts_are_those_of_a_loop_over_time_steps(make, norm, shape, encoding, share):
    """Synapse by synapse and step by step in float64, as eqs. 3 and 4 read."""
    torch.manual_seed(1)
    layer = SpikingLayer(make(True), trained_norm(norm)).double().eval()
    layer.convert(0.25, Coding(7, encoding, share))
    synapse, n_steps = layer.synapse, 7
    x = torch.rand(shape, dtype=torch.float64)
    trains = torch.rand(n_steps, *shape) < 0.3
    threshold_before = torch.tensor(0.4, dtype=torch.float64)

    def without_bias(v):
        return synapse(v) - synapse(torch.zeros_like(v))

    bias = synapse(torch.zeros_like(x)) / n_steps
    analog = [
        without_bias(x) * (1 / n_steps if encoding == "constant" else float(t == 0)) + bias
        for t in range(n_steps)
    ]
    spiking = [without_bias(s.double()) * threshold_before + bias for s in trains]
    for signal, current in (
        (Signal(x), analog),
        (Signal.from_spikes(trains, threshold_before), spiking),
    ):
        expected = spike_count(integrate_and_fire(torch.stack(current), 0.25, share * 0.25)[0])
        out = layer(signal)
        # The last bit of float32 may tip a neuron that sits right on its threshold.
        assert (out.count != expected).float().mean() < 0.002
        assert (out.count - expected).abs().max() <= 1
        torch.testing.assert_close(out.value, out.count.double() * 0.25)


@cases
def test_the_tandem_gradient_is_the_analog_gradient(make, norm, shape):
    torch.manual_seed(2)
    layer = SpikingLayer(make(True), trained_norm(norm))
    layer.convert(0.1, Coding(8))
    x = torch.rand(shape, requires_grad=True)
    downstream = torch.randn(shape)
    layer(Signal(x)).value.mul(downstream).sum().backward()
    tandem = [p.grad.clone() for p in (x, *layer.parameters())]
    x.grad = None
    layer.zero_grad()
    layer.activation(x).mul(downstream).sum().backward()
    for got, analog in zip(tandem, [p.grad for p in (x, *layer.parameters())], strict=True):
        torch.testing.assert_close(got, analog)


def test_the_tandem_value_is_what_the_spikes_say():
    layer = SpikingLayer(nn.Linear(5, 5))
    layer.convert(0.1, Coding(8))
    x = torch.rand(3, 5)
    tandem = layer(Signal(x))
    layer.freeze()
    torch.testing.assert_close(tandem.value, layer(Signal(x)).value)
    torch.testing.assert_close(tandem.value, tandem.count * 0.1)


def test_with_many_steps_the_spiking_layer_approaches_its_analog_twin():
    torch.manual_seed(3)
    layer = SpikingLayer(nn.Conv1d(6, 8, 3, padding=1), nn.BatchNorm1d(8)).eval()
    x = torch.rand(2, 6, 40)
    analog = layer(Signal(x)).value
    layer.convert(float(analog.detach().max()) / 1024, Coding(1024))
    assert (layer(Signal(x)).value - analog).abs().max() <= float(analog.detach().max()) / 1024


def test_a_frozen_layer_does_not_learn_and_does_not_drop():
    layer = SpikingLayer(nn.Linear(5, 5), before=nn.Dropout(0.5))
    layer.convert(0.1, Coding(8))
    layer.freeze()
    layer.train()
    x = torch.rand(3, 5)
    assert not any(p.requires_grad for p in layer.parameters())
    assert torch.equal(layer(Signal(x)).value, layer(Signal(x)).value)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_that_cannot_be_is_refused(threshold):
    with pytest.raises(ValueError, match="silent"):
        SpikingLayer(nn.Linear(2, 2)).convert(threshold, Coding())


def test_a_layer_is_converted_and_frozen_once():
    layer = SpikingLayer(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="only a tandem layer"):
        layer.freeze()
    layer.convert(1.0, Coding())
    with pytest.raises(ValueError, match="tandem already"):
        layer.convert(1.0, Coding())


def test_a_discrete_layer_rounds_as_the_spikes_of_a_constant_current_do():
    torch.manual_seed(4)
    layer = SpikingLayer(nn.Linear(5, 7), nn.BatchNorm1d(7)).eval()
    x = torch.rand(50, 5)
    with torch.no_grad():
        analog = layer(Signal(x)).value
        layer.discretize(0.1, Coding(4))
        discrete = layer(Signal(x)).value
        layer.convert(0.1, Coding(4))
        spiking = layer(Signal(x)).value
    torch.testing.assert_close(discrete, spiking)
    torch.testing.assert_close(discrete, (analog / 0.1).round().clamp(0, 4) * 0.1)


def test_a_spiking_layer_that_learns_on_rounds_to_what_it_fired():
    torch.manual_seed(5)
    layer = SpikingLayer(nn.Linear(5, 7), nn.BatchNorm1d(7)).eval()
    layer.convert(0.1, Coding(4))
    with pytest.raises(ValueError, match="this one is tandem"):
        layer.thaw()
    layer.freeze()
    x = torch.rand(50, 5)
    fired = layer(Signal(x)).value
    layer.thaw()
    found = layer(Signal(x)).value
    torch.testing.assert_close(found, fired)
    found.sum().backward()
    assert layer.synapse.weight.grad.abs().sum() > 0
    layer.convert(float(layer.threshold), Coding(4))
    layer.freeze()
    torch.testing.assert_close(layer(Signal(x)).value, fired)


def test_a_discrete_layer_has_the_gradient_of_the_analog_one():
    layer = SpikingLayer(nn.Linear(5, 7))
    x, downstream = torch.rand(3, 5, requires_grad=True), torch.randn(3, 7)
    (layer(Signal(x)).value * downstream).sum().backward()
    analog, x.grad = x.grad, None
    layer.discretize(0.1, Coding(4))
    (layer(Signal(x)).value * downstream).sum().backward()
    torch.testing.assert_close(x.grad, analog)


def test_currents_of_several_layers_add_up_each_weighed_with_its_own_threshold():
    torch.manual_seed(5)
    layer = SpikingLayer(nn.Conv1d(6, 4, 3, padding=1)).eval()
    layer.convert(0.3, Coding(8))
    one, other = (
        Signal.from_spikes(torch.rand(8, 2, 6, 9) < 0.3, torch.tensor(threshold))
        for threshold in (0.5, 0.125)
    )
    together = layer.call().current((one + other,))
    bias = (layer.synapse.bias / 8)[:, None]
    torch.testing.assert_close(
        together, layer.call().current((one,)) + layer.call().current((other,)) - bias
    )
    torch.testing.assert_close((one + other).value, one.value + other.value)
    assert torch.equal((one + other).count, one.count + other.count)
