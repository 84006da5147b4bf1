"""Networks with the shapes of tutorials convert in one call, or are refused by name."""

import copy
import pickle

import pytest
import torch
from helpers.tutorials import TAKEN, lenet, pre_activation, regression, resnet, tcn
from torch import nn
from torch.nn import functional as F

from spikesep.errors import SpikeSepError
from spikesep.spiking import (
    Coding,
    conversion_report,
    convert,
    from_module,
    measure,
    to_fixed_point,
)

MIXED = (tcn, pre_activation)
"""Networks with a neuron that the input reaches beside spikes, which only floats can do."""


def made(make, shape, n=16):
    """A network whose norms have statistics, and inputs."""
    torch.manual_seed(0)
    network, x = make(), torch.randn(n, *shape)
    with torch.no_grad():
        for _ in range(20):
            network(x)
    return network.eval(), x


def error_of(network, x, wanted):
    with torch.no_grad():
        return float((network(x) - wanted).norm() / (wanted - wanted.mean(0)).norm())


@pytest.mark.parametrize(("make", "shape"), TAKEN.values(), ids=TAKEN)
def test_networks_of_tutorials_convert_in_one_call(make, shape):
    network, x = made(make, shape)
    with torch.no_grad():
        wanted = network(x)
    before = copy.deepcopy(network.state_dict())
    spiking = convert(network, x, n_steps=256, deferred=True, percentile=100)
    assert error_of(spiking, x, wanted) < 0.03
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    alone = spiking(x[:1])  # the batch does not matter
    torch.testing.assert_close(alone, spiking(x)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "shape"), TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("deferred", [False, True])
def test_in_fixed_point_their_engines_fire_the_spikes_of_a_plain_loop(make, shape, deferred):
    network, x = made(make, shape, n=3)
    coding = {"n_steps": 11, "deferred": deferred}
    if make in MIXED:
        with pytest.raises(SpikeSepError, match="its synapses receive the analog input and spikes"):
            convert(network, x, **coding, weight_bits=8)
        return
    spiking = convert(network, x, **coding, weight_bits=8)
    found = {}
    for engine in ("dense", "event"):
        spiking.use_engine(engine)
        inputs, outputs = {}, {}
        with torch.no_grad():
            spiking(x, lambda name, _, given, out, i=inputs, o=outputs: (
                i.setdefault(name, given), o.setdefault(name, out),
            ))  # fmt: skip
        found[engine] = outputs
    for name, layer in spiking.layers.items():
        counts = found["dense"][name].count
        assert torch.equal(counts, found["event"][name].count), name
        assert torch.equal(counts, plain_loop(layer, inputs[name])), name


def plain_loop(layer, signals):
    """Counts of a layer in fixed point, in float64, one step after the other."""
    fixed, coding = layer.fixed, layer.coding
    parts = zip(layer.branches, signals, fixed.weights, fixed.shifts, strict=True)
    arriving = 0
    for branch, signal, weight, shift in parts:
        if signal.is_spiking:
            steps = sum(t.spikes.double() * t.multiple for t in signal.trains)
        else:
            levels = int(fixed.input_levels)
            units = (signal.value.double() / fixed.input_unit).round().clamp(-levels, levels)
            steps = units.expand(coding.n_steps, *units.shape)
        pooled = [branch.connectivity.pool(s) * branch.connectivity.divisor for s in steps]
        bare = copy.deepcopy(branch.synapse).double()
        bare.weight = nn.Parameter(weight.double(), requires_grad=False)
        bare.bias = None
        arriving = arriving + torch.stack([bare(s.round()).round() for s in pooled]) * 2**shift
    last = isinstance(layer.synapse, nn.Linear)
    shape = [-1] if last else [-1, *[1] * (arriving.ndim - 3)]
    bias, threshold, potential = (
        values.double().view(shape) for values in (fixed.bias, fixed.threshold, fixed.initial)
    )
    current = arriving * 2 ** int(fixed.fraction) + bias
    if coding.deferred and signals[0].is_spiking:
        potential = potential + current.sum(0)
        return (potential / threshold).floor().clamp(0, coding.n_steps).int()
    count = torch.zeros_like(current[0])
    for z in current:
        potential = potential + z
        fires = potential >= threshold
        potential, count = potential - fires * threshold, count + fires
    return count.int()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_formats_become_float32(dtype):
    network, x = made(regression, (1, 20))
    spiking = convert(network.to(dtype), x.to(dtype))
    assert {p.dtype for p in spiking.parameters()} == {torch.float32}
    assert next(network.parameters()).dtype == dtype


@pytest.mark.parametrize("kind", ["batches", "pairs", "loader", "generator"])
def test_batches_and_loaders_calibrate_as_one_tensor_does(kind):
    network, x = made(regression, (1, 20))
    pairs = torch.utils.data.TensorDataset(x, x)
    data = {
        "batches": [x[:8], x[8:]],
        "pairs": [(x[:8], x[:8]), (x[8:], x[8:])],
        "loader": torch.utils.data.DataLoader(pairs, 8),
        "generator": (batch for batch in x.split(8)),
    }[kind]
    torch.testing.assert_close(convert(network, data)(x), convert(network, x)(x), rtol=0, atol=1e-3)


BAD = {
    "no batch": ([], "data: is empty"),
    "no example": (torch.zeros(0, 1, 20), "data: is empty"),
    "text": (["a"], "data: holds str"),
    "NaN": (torch.full((2, 1, 20), float("nan")), "data contains NaN or Inf"),
    "another shape": (torch.zeros(2, 3, 20), "cannot be run on an input of [2, 3, 20]"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_data_that_do_not_suit_are_refused(data, message):
    with pytest.raises(SpikeSepError) as caught:
        convert(regression(), data)
    assert message in str(caught.value)


def test_correcting_biases_lowers_the_error_at_few_steps():
    network, x = made(resnet, (3, 6, 6), n=64)
    with torch.no_grad():
        wanted = network(x)
    errors = [
        error_of(convert(network, x, n_steps=4, correct_biases=on), x, wanted)
        for on in (False, True)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("method", ["ptl", "all_at_once"])
def test_fine_tuning_ends_with_the_best_weights_and_resumes(tmp_path, method):
    network, x = made(lenet, (1, 8, 8), n=32)
    data, seen = [(x[:16], x[:16, 0, 0, :5]), (x[16:], x[16:, 0, 0, :5])], []
    settings = {"loss": F.mse_loss, "max_epochs": 4, "method": method, "learning_rate": 0.2}
    whole = convert(network, data, 4, **settings, on_epoch=lambda _, done: seen.append(done))
    losses = [done.valid_loss for done in seen if done.stage == seen[-1].stage]
    assert min(losses) < losses[-1], "the last epoch is the best: restoring it shows nothing"
    with torch.no_grad():
        ended = float(F.mse_loss(whole(x), x[:, 0, 0, :5]))
    assert ended == pytest.approx(min(losses), rel=1e-4)

    def kill(_, done):
        if done.epoch == 1:
            raise KeyboardInterrupt

    for _ in range(len(seen)):  # killed in each stage, then done
        try:
            resumed = convert(
                network, data, 4, **settings, checkpoint=tmp_path / "state", on_epoch=kill
            )
        except KeyboardInterrupt:
            continue
        break
    assert torch.equal(resumed(x), whole(x))
    with pytest.raises(SpikeSepError, match="other settings"):
        convert(network, data, 5, **settings, checkpoint=tmp_path / "state")


def test_fine_tuning_needs_targets():
    network, x = made(regression, (1, 20))
    for data in (x, [x], iter([(x, x)])):
        with pytest.raises(SpikeSepError, match=r"give a DataLoader or a list"):
            convert(network, data, loss=F.mse_loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid": iter([])}, r"valid: .* read again in each epoch"),
        ({"valid": []}, r"valid: .* read again in each epoch"),
        ({"weight_bits": 9}, r"weight_bits 9: must be 0"),
        ({"method": "PTL"}, r"method PTL: must be ptl or all_at_once"),
    ],
)
def test_options_that_do_not_suit_are_refused_before_training(options, message):
    network, x = made(regression, (1, 20))

    def trained(*_):
        raise AssertionError("an epoch was done")

    with pytest.raises(SpikeSepError, match=message):
        convert(network, [(x, x)], loss=F.mse_loss, on_epoch=trained, **options)


def test_cost_and_report_cover_each_synapse_of_a_residual_network():
    network, x = made(resnet, (3, 6, 6), n=4)
    spiking = convert(network, x)
    _, cost = measure(spiking, x)
    # Taps on the images alone: 16 along 6 places, 8 at stride 2, 7 along 3 places.
    stem, first = 16**2 * 3 * 4, 2 * 16**2 * 4 * 4
    second = 8**2 * 4 * 6 + 7**2 * 6 * 6 + 9 * 4 * 6  # with a shortcut of its own
    assert cost.macs == 4 * (stem + first + second + 6 * 3)
    found = {}
    spiking(x, lambda name, module, given, out: found.setdefault(name, given))
    main, identity = found["blocks/0/conv2"]
    counts = [signal.count.double() for signal in (main, identity)]
    bare = spiking.layers["blocks/0/conv2"].branches
    arriving = [b.connectivity.n_arriving(c) for b, c in zip(bare, counts, strict=True)]
    assert arriving[1] == float(counts[1].sum())  # one synapse for each spike
    report = conversion_report(spiking, [x], spiking.choices)
    assert [layer.layer for layer in report] == spiking.names
    assert sum(layer.synops_ratio for layer in report) == pytest.approx(cost.synops_ratio)


def test_a_converted_graph_is_saved_and_restored():
    network, x = made(resnet, (3, 6, 6), n=4)
    spiking = from_module(network, x).eval()
    analog = from_module(copy.deepcopy(network), x)
    for layer in spiking.layers.values():
        layer.convert(0.1, Coding(8))
        layer.freeze()
    to_fixed_point(spiking, [x])
    analog.restore_conversion(spiking.conversion_settings())
    analog.load_state_dict(spiking.state_dict())
    assert torch.equal(analog.eval()(x), spiking(x))


def test_what_passes_between_two_layers_of_a_graph_is_all_that_later_ones_read():
    network, x = made(resnet, (3, 6, 6), n=4)
    spiking = convert(network, x)
    for index in range(len(spiking) + 1):
        cut = spiking.propagate(x, 0, index)
        assert all(spiking.is_read(name, index) for name in cut)
        assert torch.equal(spiking.read(spiking.propagate(cut, index, len(spiking))), spiking(x))
    assert list(spiking.propagate(x, 0, 2)) == ["stem/0", "blocks/0/conv1"]


def test_a_checkpoint_of_other_weights_and_a_damaged_one_are_refused(tmp_path):
    network, x = made(lenet, (1, 8, 8), n=16)
    data, path = [(x, x[:, 0, 0, :5])], tmp_path / "state"
    settings = {"loss": F.mse_loss, "max_epochs": 1, "on_epoch": lambda *_: None}
    convert(network, data, 4, **settings, checkpoint=path)
    other, _ = made(lenet, (1, 8, 8))
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    with pytest.raises(SpikeSepError, match="of another network"):
        convert(other, data, 4, **settings, checkpoint=path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SpikeSepError, match=r"state: not a complete checkpoint; delete it to"):
        convert(network, data, 4, **settings, checkpoint=path)


FORMS = [
    pytest.param(make, shape, weight_bits, id=f"{name}-{weight_bits}")
    for name, (make, shape) in TAKEN.items()
    for weight_bits in ((0,) if make in MIXED else (0, 8))
]


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(("make", "shape", "weight_bits"), FORMS)
def test_no_examples_give_no_predictions_and_cost_nothing(make, shape, weight_bits, deferred):
    network, x = made(make, shape)
    spiking = convert(network, x, weight_bits=weight_bits, deferred=deferred)
    for engine in ("auto", "dense", "event"):
        spiking.use_engine(engine)
        out, cost = measure(spiking, x[:0])
        assert out.shape == (0, *network(x).shape[1:])
        assert cost.macs == cost.synops == 0


@pytest.mark.parametrize(("make", "shape"), TAKEN.values(), ids=TAKEN)
def test_a_pickled_network_fires_the_same_spikes(make, shape):
    network, x = made(make, shape)
    spiking = convert(network, x)
    assert torch.equal(pickle.loads(pickle.dumps(spiking))(x), spiking(x))
