"""ONNX nodes of a network: the counts of our engines, to the unit, in onnxruntime."""

import numpy as np
import pytest
import torch
from helpers.exports.onnx_sessions import run_onnx
from helpers.stacks import converted, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikesep.spiking import (
    Coding,
    NotConvertibleError,
    Readout,
    SpikingLayer,
    SpikingNetwork,
    to_fixed_point,
)
from spikesep.spiking.export import onnx_nodes

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def layers_1d(identity, width=6):
    first = SpikingLayer(nn.Conv1d(3, width, 1))
    synapses = [nn.Conv1d(width, width, 3, padding=d, dilation=d, groups=d) for d in (1, 2)]
    return [first, *(SpikingLayer(s, nn.BatchNorm1d(width), identity=identity) for s in synapses)]


@st.composite
def deferred_networks(draw):
    """Networks in fixed-point form whose spikes meet those of other thresholds."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    coding = Coding(draw(st.integers(1, 40)), "constant", draw(st.sampled_from([0.0, 0.5])), True)
    layers = layers_1d(draw(st.booleans()))
    thresholds = [draw(st.floats(0.02, 1)) for _ in layers]
    network = converted(layers, Readout(nn.Conv1d(6, 2, 1)), coding, thresholds)
    x = torch.randn(2, 3, 9)
    to_fixed_point(network, [x[:, :, :5]])  # part of the input lies beyond the calibrated range
    return network, x


def model_of(network, rank=3):
    graph = onnx_nodes.OnnxGraph()
    end = onnx_nodes.add_network(graph, network, "x")
    info, single = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    ends = [info("x", single, [None] * rank)], [info(end, single, [None] * rank)]
    made = onnx.helper.make_graph(graph.nodes, "network", *ends, graph.constants)
    imports = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(made, opset_imports=imports, ir_version=8)


def assert_same(network, x):
    found = run_onnx(model_of(network, x.ndim), x=x)
    ours = run(network, x, "dense")
    potential = ours.pop("readout").value
    np.testing.assert_allclose(next(iter(found.values())), potential, atol=1e-4)
    for name, signal in ours.items():
        if signal.trains:
            np.testing.assert_array_equal(found[f"count_{name}"], signal.count, err_msg=name)


@settings(max_examples=20)
@given(deferred_networks(), st.sampled_from([2**24 - 1, 2**14 - 1]))
def test_counts_are_those_of_our_engines_however_sums_are_split(drawn, exact):
    """A smaller bound on exact sums splits them into more digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_nodes, "EXACT", exact)
        assert_same(*drawn)


def test_sums_beyond_24_bits_are_exact():
    """2047 levels times 1,280 weights of 127: some 2^28, where float32 keeps steps of 16."""
    torch.manual_seed(0)
    layers = [SpikingLayer(nn.Conv1d(1280, 4, 1)), SpikingLayer(nn.Conv1d(4, 4, 1))]
    for layer in layers:
        nn.init.constant_(layer.synapse.weight, 0.1)
    coding = Coding(8, deferred=True)
    network = converted(layers, Readout(nn.Conv1d(4, 1, 1)), coding, [20.0, 1.0])
    x = torch.rand(1, 1280, 50)
    to_fixed_point(network, [x])
    assert_same(network, x)


@pytest.mark.parametrize("identity", [False, True])
def test_analog_networks_compute_the_same(identity):
    torch.manual_seed(0)
    layers = layers_1d(identity)
    network = SpikingNetwork(layers, Readout(nn.Conv1d(6, 2, 1, bias=False)))
    for _ in range(3):
        network(torch.randn(4, 3, 9))
    assert_same(network.eval(), torch.randn(2, 3, 9))


def test_images_compute_the_same():
    layers = [
        SpikingLayer(nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 0))),
        SpikingLayer(nn.Conv2d(4, 4, 1)),
    ]
    network = SpikingNetwork(layers, Readout(nn.Conv2d(4, 2, 2, padding="same"))).eval()
    assert_same(network, torch.randn(2, 2, 8, 7))


@pytest.mark.parametrize(
    ("layer", "coding", "message"),
    [
        (lambda: SpikingLayer(nn.Linear(3, 3)), None, r"layer 1 \(Linear\): ONNX export takes"),
        (
            lambda: SpikingLayer(nn.Conv1d(3, 3, 1), before=nn.AvgPool1d(2)),
            None,
            r"layer 1 \(Conv1d\): .* without pooling",
        ),
        (lambda: SpikingLayer(nn.ConvTranspose1d(3, 3, 1)), None, r"\(ConvTranspose\): ONNX"),
        (lambda: SpikingLayer(nn.Conv1d(3, 3, 1)), Coding(8), "deferred: true"),
        (
            lambda: SpikingLayer(nn.Conv1d(3, 3, 1)),
            Coding(8, "impulse", deferred=True),
            "encoding: constant, or export it to NIR",
        ),
        (lambda: SpikingLayer(nn.Conv1d(3, 3, 1)), "float", "weight_bits: 8"),
    ],
)
def test_what_needs_a_loop_over_time_is_named(layer, coding, message):
    layers = [SpikingLayer(nn.Conv1d(3, 3, 1)), layer()]
    readout = Readout(nn.Conv1d(3, 1, 1))
    network = SpikingNetwork(layers, readout)
    if coding is not None:
        timed = Coding(8, deferred=True) if coding == "float" else coding
        network = converted(layers, readout, timed, [0.2, 0.2])
        if coding != "float":
            to_fixed_point(network, [torch.rand(1, 3, 4)])
    with pytest.raises(NotConvertibleError, match=message) as error:
        onnx_nodes.add_network(onnx_nodes.OnnxGraph(), network, "x")
    assert "\n" not in str(error.value)
