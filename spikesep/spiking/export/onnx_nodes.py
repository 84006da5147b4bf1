"""ONNX nodes that run a network: analog, or deferred spiking neurons as whole numbers.

The spike count of a deferred neuron is a function of the counts that reach it, so a layer needs no
loop over time: count = clip(floor((sum + initial + N_s * bias) / threshold), 0, N_s), in the
integers of `spikesep.spiking.conversion.fixed_point`. Products are taken in float32, where most
runtimes are fastest. They are exact, because sums that could reach 2^24 are split into digits.
"""

from typing import Any

import numpy as np
from torch import Tensor

from spikesep.spiking.export.extras import require
from spikesep.spiking.export.stages import Stage, stages
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.levels.activation import Levels
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork
from spikesep.spiking.synapses.kinds import ConvConnectivity, TransposedConvConnectivity

EXACT = 2**24 - 1
"""Magnitude up to which float32 holds all whole numbers."""


class OnnxGraph:
    """Nodes and constants of an ONNX graph in the making.

    Raises:
        SpikeSepError: the package `onnx` is not installed.
    """

    def __init__(self):
        self.onnx = require("onnx", "export")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node; return the name of its output, `name` or a new one."""
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: Any, dtype: Any = None) -> str:
        """Append a constant tensor; return its name."""
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def cast(self, x: str, kind: str) -> str:
        """Append a conversion to a number format, such as "FLOAT" or "INT32"."""
        return self.op("Cast", x, to=getattr(self.onnx.TensorProto, kind))

    def total(self, terms: list[str]) -> str:
        """Append the sum of tensors."""
        first, *others = terms
        for term in others:
            first = self.op("Add", first, term)
        return first


def require_onnx_form(network: SpikingNetwork) -> None:
    """Check that a network can run without a loop over time.

    Raises:
        NotConvertibleError: it cannot; the message says what to do.
    """
    for stage in stages(network):
        part = stage.part
        sizes, kind = part.connectivity, type(part.synapse).__name__
        is_plain = isinstance(sizes, ConvConnectivity) and sizes.padding_mode == "zeros"
        if not is_plain or isinstance(sizes, TransposedConvConnectivity) or part.before:
            raise NotConvertibleError(
                f"layer {stage.name} ({kind}): ONNX export takes only convolutions that pad with "
                "zeros, without pooling before them"
            )
    if network.n_converted == 0:
        return
    if not network.is_fixed_point:
        raise NotConvertibleError(
            "the network has spiking layers that are not in fixed-point form; convert it whole, "
            "with weight_bits: 8"
        )
    coding = network[0].coding
    if not coding.deferred or coding.encoding == "impulse":
        raise NotConvertibleError(
            "its neurons fire in time, which ONNX can only unroll; convert with deferred: true and "
            "encoding: constant, or export it to NIR"
        )


def add_network(graph: OnnxGraph, network: SpikingNetwork, x: str) -> str:
    """Append a network for the input x, [batch, C, ...] float32; return its potential.

    The counts of spiking layers are named `count_<layer>`, the outputs of analog layers
    `layer_<layer>`.

    Raises:
        NotConvertibleError: see `require_onnx_form`.
    """
    require_onnx_form(network)
    outputs: dict[str, str] = {}
    potential = x
    for stage in stages(network):
        part = stage.part
        if isinstance(part, SpikingLayer) and part.fixed is not None:
            outputs[stage.name] = _add_spiking(graph, stage, part, outputs, x)
            continue
        values = [_value(graph, layer, outputs[name]) for name, layer in stage.sources.items()]
        numbers = (graph.constant(tensor) for tensor in part.neuron_weights())
        potential = _convolve(graph, stage, graph.total(values or [x]), *numbers)
        if isinstance(part, SpikingLayer):
            name = f"layer_{stage.name}"
            if part.levels is None:
                outputs[stage.name] = graph.op("Relu", potential, name=name)
            else:
                outputs[stage.name] = _add_levels(graph, part, part.levels, potential, name)
    return potential


def _add_levels(
    graph: OnnxGraph, layer: SpikingLayer, levels: Levels, potential: str, name: str
) -> str:
    """Append the rounding of an analog layer that has learned with levels."""
    step = graph.constant(layer.connectivity.per_output(levels.step.detach()), np.float32)
    shift, lowest, highest = (
        graph.constant(float(value), np.float32) for value in (levels.shift, 0, levels.n_steps)
    )
    ratio = graph.op("Add", graph.op("Div", potential, step), shift)
    count = graph.op("Clip", graph.op("Floor", ratio), lowest, highest)
    return graph.op("Mul", count, step, name=name)


def _value(graph: OnnxGraph, layer: SpikingLayer, output: str) -> str:
    """The output of a layer in activation units."""
    if layer.fixed is None:
        return output
    threshold = graph.constant(layer.threshold, np.float32)
    return graph.op("Mul", graph.cast(output, "FLOAT"), threshold)


def _add_spiking(
    graph: OnnxGraph, stage: Stage, layer: SpikingLayer, outputs: dict[str, str], x: str
) -> str:
    """Append the counts of a spiking layer, int32."""
    fixed, n_steps = _integers(layer), layer.coding.n_steps
    gain = 1 << int(fixed.fraction)
    if stage.sources:
        multiples = {name: int(_integers(s).multiple) for name, s in stage.sources.items()}
        units = graph.total([_times(graph, outputs[n], m) for n, m in multiples.items()])
        most = n_steps * sum(multiples.values())
    else:  # a constant current: the same in each step
        units, most = _input_units(graph, fixed, x), int(fixed.input_levels)
        gain *= n_steps
    charge = _times(graph, _exact_sums(graph, stage, fixed, units, most), gain)
    ahead = fixed.initial + n_steps * fixed.bias
    charge = graph.op("Add", charge, _by_channel(graph, stage, ahead))
    charge = graph.op("Max", charge, graph.constant(0, np.int32))  # Div rounds toward zero
    count = graph.op("Div", charge, _by_channel(graph, stage, fixed.threshold))
    return graph.op("Min", count, graph.constant(n_steps, np.int32), name=f"count_{stage.name}")


def _input_units(graph: OnnxGraph, fixed: FixedPoint, x: str) -> str:
    """The analog input in whole units, int32."""
    levels = float(fixed.input_levels)
    bounds = [graph.constant(bound, np.float64) for bound in (-levels, levels)]
    quotient = graph.op("Div", graph.cast(x, "DOUBLE"), graph.constant(fixed.input_unit))
    return graph.cast(graph.op("Clip", graph.op("Round", quotient), *bounds), "INT32")


def _exact_sums(graph: OnnxGraph, stage: Stage, fixed: FixedPoint, units: str, most: int) -> str:
    """Whole weights times units, int32; `most` is the largest magnitude of a unit."""
    weight = graph.cast(graph.constant(fixed.weight), "FLOAT")
    reach = int(fixed.weight.flatten(1).abs().sum(1, dtype=fixed.bias.dtype).max())
    base = 1 << (EXACT // max(reach, 1)).bit_length() - 1
    terms, place = [], 1
    while True:
        digit = units
        if most >= base:
            digit = graph.op("Mod", units, graph.constant(base, np.int32), fmod=1)
        sums = _convolve(graph, stage, graph.cast(digit, "FLOAT"), weight)
        terms.append(_times(graph, graph.cast(sums, "INT32"), place))
        if most < base:
            return graph.total(terms)
        units = graph.op("Div", units, graph.constant(base, np.int32))
        most, place = most // base, place * base


def _integers(layer: SpikingLayer) -> FixedPoint:
    assert layer.fixed is not None  # require_onnx_form
    return layer.fixed


def _times(graph: OnnxGraph, x: str, factor: int) -> str:
    return x if factor == 1 else graph.op("Mul", x, graph.constant(factor, np.int32))


def _by_channel(graph: OnnxGraph, stage: Stage, values: Tensor) -> str:
    """A constant [C_out] shaped to broadcast over outputs."""
    return graph.constant(stage.part.connectivity.per_output(values))


def _convolve(graph: OnnxGraph, stage: Stage, *inputs: str) -> str:
    sizes = stage.part.connectivity
    assert isinstance(sizes, ConvConnectivity)
    before, behind = zip(*sizes.margins, strict=True)
    return graph.op(
        "Conv",
        *inputs,
        kernel_shape=sizes.kernel_size,
        strides=sizes.stride,
        dilations=sizes.dilation,
        group=sizes.groups,
        pads=[*before, *behind],
    )
