"""From a NIR graph to a spiking network: chains of synapses and neurons."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikesep.spiking.conversion.fixed_point import check_fixed_point
from spikesep.spiking.export.nir_out import (
    INTEGERS,
    INTEGRATIONS,
    NEURONS,
    RESETS,
    share_kept,
)
from spikesep.spiking.export.nir_parse import End, ends_of, identities, kind_of, refusal
from spikesep.spiking.export.stages import own_factor
from spikesep.spiking.integers import FixedPoint, dequantized
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding


def from_nir(graph: Any, coding: Coding | None = None, *, dt: float = 1.0) -> SpikingNetwork:
    """Make a spiking network of a `nir.NIRGraph`.

    Args:
        graph: Affine, Linear, Conv1d and Conv2d with average or sum pooling and Flatten before
            them, each followed by IF or LIF. Its output is that of a synapse, or the spikes of the
            last neurons, which the readout then counts.
        coding: how the neurons run. It asserts how they reset: by default, they subtract the
            threshold, where NIR itself says that they reset to v_reset (`reset="zero"`). The leak
            of LIF is that of the graph, with Euler steps unless its metadata say otherwise. None
            takes what `to_nir` recorded. For spike trains as input, give the encoding `impulse` and
            call the network with `Signal.from_spikes(spikes, torch.tensor(1.0))`.
        dt: length of a step, in the units of time of the graph.

    Raises:
        NotConvertibleError: the core cannot simulate a part of the graph; the message names it.
        SpikeSepError: the graph has a cycle, or not one input and one output.
    """
    ends = ends_of(graph)
    coding = coding or _recorded_coding(graph)
    coding = _with_leak(graph, coding, dt)
    layers: dict[str, SpikingLayer] = {}  # by node
    for end, identity in zip(ends[:-1], identities(ends), strict=True):
        layers[end.name] = _layer(graph, end, coding, identity, layers, dt=dt)
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
    """The coding in the metadata of a graph that marks how all neurons reset."""
    resets: set[str] = set()
    for name in _neurons(graph):
        resets.add(str(graph.nodes[name].metadata.get("reset")))
        if len(resets) > 1 or not resets <= set(RESETS):
            why = (
                "does not say how it resets; give from_nir(graph, coding=Coding(n_steps)) if its "
                'simulator subtracts the threshold (Sinabs), or Coding(n_steps, reset="zero") if '
                "it resets to v_reset, as NIR says"
            )
            raise refusal(graph, name, why)
    reset, entries = resets.pop() if resets else RESETS[0], graph.metadata
    try:
        return Coding(
            int(entries["n_steps"]),
            str(entries["encoding"]),
            float(entries["initial_potential"]),
            bool(entries["deferred"]),
            reset="zero" if reset == "zero" else "subtract",
        )
    except (KeyError, ValueError) as error:
        raise NotConvertibleError(
            f"the graph's metadata do not say how its neurons run ({error}); "
            "give from_nir(graph, coding=Coding(n_steps))"
        ) from error


def _neurons(graph: Any) -> list[str]:
    return [name for name in graph.nodes if kind_of(graph, name) in NEURONS]


def _with_leak(graph: Any, coding: Coding, dt: float) -> Coding:
    """The coding with the leak of a graph's neurons.

    Raises:
        NotConvertibleError: they leak unequally, or the graph says otherwise than the coding.
    """
    betas = dict.fromkeys(_neurons(graph), 1.0)
    for name in betas:
        node = graph.nodes[name]
        if coding.reset == "zero" and np.any(np.asarray(node.v_reset) != 0):
            raise refusal(graph, name, "resets to another potential than 0; make v_reset 0")
        if kind_of(graph, name) == "LIF":
            tau = np.unique(np.asarray(node.tau, np.float64)) / dt
            integration = str(node.metadata.get("integration", INTEGRATIONS[0]))
            least = 1.0 if integration == "euler" else 0.0
            if len(tau) != 1 or not tau[0] > least:
                why = f"its tau must be equal for all neurons and above {least * dt:g}, give dt"
                raise refusal(graph, name, why)
            betas[name] = share_kept(float(tau[0]), integration)
        if not np.isclose(betas[name], next(iter(betas.values())), rtol=1e-6, atol=0):
            raise refusal(graph, name, "must leak as all other neurons of the graph do")
    beta = float(f"{next(iter(betas.values()), 1.0):.12g}")
    try:
        return replace(coding, beta=beta)
    except ValueError as error:
        raise NotConvertibleError(f"coding: {error}") from error


def _layer(
    graph: Any,
    end: End,
    coding: Coding,
    identity: bool,
    layers: dict[str, SpikingLayer],
    *,
    dt: float,
) -> SpikingLayer:
    entries = graph.nodes[end.name].metadata
    gain, drift = _neuron_gain(graph, end.name, coding.beta, dt)
    weight = _weight(graph, end, {name: own_factor(layer) for name, layer in layers.items()})
    weight = weight * gain.view(-1, *[1] * (weight.ndim - 1))
    bias = end.bias * gain + drift
    threshold = float(entries.get("threshold", 1.0))
    is_spread = not layers and coding.encoding == "constant"
    _fill(
        end.synapse,
        weight * threshold * (coding.n_steps if is_spread else 1),
        (bias * coding.n_steps - coding.upkeep) * threshold,
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
        raise refusal(graph, end.name, "sums spikes that are not scaled by thresholds")
    return end.weight * ratios[0]


def _fill(synapse: nn.Linear | nn.Conv1d | nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    synapse.weight.data = weight.float()
    synapse.bias = nn.Parameter(bias.float())


def _neuron_gain(graph: Any, name: str, beta: float, dt: float) -> tuple[Tensor, Tensor]:
    """Factor from the input to the potential in a step, and what a leak toward v_leak adds.

    Returns:
        In thresholds, [C] each, or [1] where all neurons share them.
    """
    node = graph.nodes[name]
    share = 1 - beta if kind_of(graph, name) == "LIF" else dt
    threshold = np.asarray(node.v_threshold)
    gain = _of_channels(share * np.asarray(node.r) / threshold)
    drift = _of_channels(share * np.asarray(getattr(node, "v_leak", 0 * threshold)) / threshold)
    if gain is None or drift is None or not (gain > 0).all():
        why = "its thresholds must be positive, and all numbers equal in each channel"
        raise refusal(graph, name, why)
    return gain, drift


def _of_channels(values: np.ndarray) -> Tensor | None:
    """One number for each channel of neurons, [C]; None if its neurons differ."""
    numbers = torch.as_tensor(values, dtype=torch.float64)
    if numbers.numel() == 1:
        return numbers.view(1)
    by_channel = numbers.flatten(1) if numbers.ndim > 1 else numbers[:, None]
    return by_channel[:, 0] if (by_channel == by_channel[:, :1]).all() else None


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
