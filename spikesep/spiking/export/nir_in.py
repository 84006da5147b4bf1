"""From a NIR graph to a spiking network: chains of synapses and neurons without leak."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikesep.spiking.conversion.fixed_point import check_fixed_point
from spikesep.spiking.export.nir_out import INTEGERS, RESET
from spikesep.spiking.export.nir_parse import End, ends_of, identities, kind_of, refusal
from spikesep.spiking.export.stages import own_factor
from spikesep.spiking.integers import FixedPoint, dequantized
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding


def from_nir(graph: Any, coding: Coding | None = None) -> SpikingNetwork:
    """Make a spiking network of a `nir.NIRGraph`.

    Args:
        graph: Affine, Linear, Conv1d and Conv2d with average or sum pooling and Flatten before
            them, each followed by IF. Its output is that of a synapse, or the spikes of the last
            neurons, which the readout then counts.
        coding: how the neurons run. It asserts that they subtract the threshold when they fire,
            where NIR itself says that they reset. None takes what `to_nir` recorded. For spike
            trains as input, give the encoding `impulse` and call the network with
            `Signal.from_spikes(spikes, torch.tensor(1.0))`.

    Raises:
        NotConvertibleError: the core cannot simulate a part of the graph; the message names it.
        SpikeSepError: the graph has a cycle, or not one input and one output.
    """
    ends = ends_of(graph)
    coding = coding or _recorded_coding(graph)
    layers: dict[str, SpikingLayer] = {}  # by node
    for end, identity in zip(ends[:-1], identities(ends), strict=True):
        layers[end.name] = _layer(graph, end, coding, identity, layers)
    readout = _readout(graph, ends[-1], coding, layers)
    network = SpikingNetwork(_named(layers), readout).eval()
    if any(layer.fixed is not None for layer in layers.values()):
        _check_integers(network, coding == _recorded_coding(graph))
    return network


def _check_integers(network: SpikingNetwork, is_as_recorded: bool) -> None:
    """Check the integers that a graph holds.

    Raises:
        NotConvertibleError: they are out of range or of another coding.
    """
    if not is_as_recorded:
        raise NotConvertibleError(
            "the graph's integers hold only for the coding that it records; leave coding out"
        )
    try:
        check_fixed_point(network)
    except ValueError as error:
        raise NotConvertibleError(f"{error}: the graph is damaged") from error


def _recorded_coding(graph: Any) -> Coding:
    """The coding in the metadata of a graph that marks all neurons to subtract."""
    for name in graph.nodes:
        if kind_of(graph, name) == "IF" and graph.nodes[name].metadata.get("reset") != RESET:
            why = (
                "NIR says that it resets to v_reset, and the core subtracts the threshold; if its "
                "simulator subtracts (Sinabs), give from_nir(graph, coding=Coding(n_steps))"
            )
            raise refusal(graph, name, why)
    entries = graph.metadata
    try:
        return Coding(
            int(entries["n_steps"]),
            str(entries["encoding"]),
            float(entries["initial_potential"]),
            bool(entries["deferred"]),
        )
    except (KeyError, ValueError) as error:
        raise NotConvertibleError(
            f"the graph's metadata do not say how its neurons run ({error}); "
            "give from_nir(graph, coding=Coding(n_steps))"
        ) from error


def _layer(
    graph: Any, end: End, coding: Coding, identity: bool, layers: dict[str, SpikingLayer]
) -> SpikingLayer:
    entries = graph.nodes[end.name].metadata
    gain = _neuron_gain(graph, end.name)
    weight = _weight(graph, end, {name: own_factor(layer) for name, layer in layers.items()})
    weight, bias = weight * gain.view(-1, *[1] * (weight.ndim - 1)), end.bias * gain
    threshold = float(entries.get("threshold", 1.0))
    is_spread = not layers and coding.encoding == "constant"
    _fill(
        end.synapse,
        weight * threshold * (coding.n_steps if is_spread else 1),
        bias * threshold * coding.n_steps,
    )
    try:
        layer = SpikingLayer(end.synapse, before=end.before, identity=identity)
        layer.convert(threshold, coding)
    except ValueError as error:
        raise refusal(graph, end.name, str(error)) from error
    layer.freeze()
    if "integers" in entries:
        entries = entries["integers"] | ({} if layers else graph.metadata)
        try:
            layer.fixed = _integers(layer, entries, weight, bias)
        except (KeyError, RuntimeError, TypeError) as error:
            raise refusal(graph, end.name, f"its integers are damaged ({error})") from error
    return layer


def _readout(graph: Any, end: End, coding: Coding, layers: dict[str, SpikingLayer]) -> Readout:
    thresholds = {name: float(layer.threshold) for name, layer in layers.items()}
    _fill(end.synapse, _weight(graph, end, thresholds), end.bias * coding.n_steps)
    try:
        readout = Readout(end.synapse, end.before)
    except ValueError as error:
        raise refusal(graph, end.name, str(error)) from error
    readout.freeze()
    return readout


def _weight(graph: Any, end: End, factors: dict[str, float]) -> Tensor:
    """The weight before an end for spikes that count as `factors` say, by node of neurons."""
    ratios = [arrives / factors.get(name, 1.0) for name, arrives in end.sources.items()]
    if not np.allclose(ratios, ratios[0], rtol=1e-6, atol=0):
        raise refusal(graph, end.name, "sums spikes that are scaled otherwise than by thresholds")
    return end.weight * ratios[0]


def _fill(synapse: nn.Linear | nn.Conv1d | nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    synapse.weight.data = weight.float()
    synapse.bias = nn.Parameter(bias.float())


def _neuron_gain(graph: Any, name: str) -> Tensor:
    """Resistance over threshold of each channel, [C], or [1] where all neurons share it."""
    node = graph.nodes[name]
    gain = torch.as_tensor(np.asarray(node.r / node.v_threshold), dtype=torch.float64)
    if gain.numel() == 1:
        return gain.view(1)
    by_channel = gain.flatten(1) if gain.ndim > 1 else gain[:, None]
    if not (by_channel == by_channel[:, :1]).all() or not (by_channel > 0).all():
        raise refusal(graph, name, "its thresholds must be positive, and equal in each channel")
    return by_channel[:, 0]


def _integers(
    layer: SpikingLayer, entries: dict[str, Any], weight: Tensor, bias: Tensor
) -> FixedPoint:
    """The integers that `to_nir` divided by the thresholds.

    Args:
        layer: the layer; its float weights become those that the integers represent.
        entries: the metadata "integers" of its neurons; those of the graph, too, if it reads the
            input.
        weight, bias: quotients, for spikes that count 1.
    """
    fixed = FixedPoint(layer.synapse)
    input_entries = ("input_unit", "input_levels") if "n_steps" in entries else ()
    for name in (*INTEGERS, *input_entries):
        getattr(fixed, name).copy_(torch.as_tensor(np.asarray(entries[name])))
    threshold = fixed.threshold.double()
    scale = 2.0 ** int(fixed.fraction) * layer.connectivity.divisor
    scale /= float(fixed.input_unit) or 1.0
    by_channel = threshold.view(-1, *[1] * (weight.ndim - 1))
    fixed.weight.copy_((weight * by_channel / scale).round())
    fixed.bias.copy_((bias * threshold).round())
    with torch.no_grad():
        layer.synapse.weight.copy_(dequantized(fixed.weight, fixed.scale))
    return fixed


def _named(layers: dict[str, SpikingLayer]) -> dict[str, SpikingLayer]:
    """Layers under names that an `nn.ModuleDict` takes."""
    named: dict[str, SpikingLayer] = {}
    for node, layer in layers.items():
        name = node.removeprefix("neurons_").replace(".", "/")
        while name in named or hasattr(nn.ModuleDict, name):
            name += "_"
        named[name] = layer
    return named
