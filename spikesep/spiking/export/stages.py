"""The walk over a network that all exports share, and the numbers of its neurons in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import READOUT, SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.wiring.wires import INPUT, Output, Sum


@dataclass(frozen=True)
class Stage:
    """A layer or the readout, and where its input comes from.

    Attributes:
        name: name of the layer, or "readout".
        part: the layer or the readout.
        sources: the layers whose outputs add up to its input, by name; empty for the input of the
            network.
    """

    name: str
    part: SpikingLayer | Readout
    sources: dict[str, SpikingLayer]


def stages(network: SpikingNetwork) -> list[Stage]:
    """The layers of a network in order, then its readout.

    Raises:
        SpikeSepError: the network is a graph that exports do not represent.
    """
    if network.tail is not None:
        raise SpikeSepError(
            "the network's prediction is a function of its potential, which exports do not hold; "
            "set network.tail to None and apply it to what the export returns"
        )
    layers = [Stage(name, layer, _sources(network, name)) for name, layer in network.layers.items()]
    return [*layers, Stage(READOUT, network.readout, _sources(network, READOUT))]


def _sources(network: SpikingNetwork, name: str) -> dict[str, SpikingLayer]:
    """The layers whose outputs add up to the input of a layer or the readout."""
    wires = network.wiring[name]
    outputs = wires[0].parts if isinstance(wires[0], Sum) else wires
    names = [output.name for output in outputs if isinstance(output, Output)]
    is_sum = len(wires) == 1 and len(set(names)) == len(outputs)
    if not is_sum or (INPUT in names and len(names) > 1):
        raise SpikeSepError(
            f"layer {name}: reads {', '.join(map(str, wires))}; exports know sums of different "
            "layers alone: no layer twice, no input beside spikes, no shortcuts into a neuron, no "
            "concatenation or max pooling"
        )
    return {source: network.layers[source] for source in names if source != INPUT}


@dataclass(frozen=True)
class Currents:
    """The numbers of a stage whose sources send unit spikes, in float64.

    A layer's numbers are in units of its threshold, so that its neurons fire at 1. Those of the
    readout are in activation units.

    Attributes:
        weight: [C_out, C_in / groups, ...]. The current in a step is weight * factor for each
            spike of a source with this factor, or weight * input.
        bias: current in every step, [C_out].
        initial: potential before the first step, [C_out].
    """

    weight: Tensor
    bias: Tensor
    initial: Tensor


def currents(stage: Stage, n_steps: int) -> Currents:
    """The numbers of a spiking layer or of the readout."""
    part = stage.part
    weight, bias = (values.detach().double().cpu() for values in part.neuron_weights())
    zeros = torch.zeros_like(bias)
    if isinstance(part, Readout):
        return Currents(weight, bias / n_steps, zeros)
    if part.fixed is not None:
        return _currents_of_integers(part, part.fixed)
    threshold = float(part.threshold)
    is_spread = not stage.sources and part.coding.encoding == "constant"
    return Currents(
        weight / threshold / (n_steps if is_spread else 1),
        (bias / threshold + part.coding.upkeep) / n_steps,
        zeros + part.coding.initial_potential,
    )


def _currents_of_integers(layer: SpikingLayer, fixed: FixedPoint) -> Currents:
    """Quotients of the integers of a layer and its thresholds.

    Potentials and thresholds are whole numbers, so half a unit more in the initial potential
    decides nothing, but keeps rounded quotients away from the threshold.
    """
    threshold = fixed.threshold.double().cpu()
    scale = 2.0 ** int(fixed.fraction) * layer.connectivity.divisor
    unit = float(fixed.input_unit) or 1.0  # 0 behind spikes
    weight = fixed.weight.double().cpu() * (scale / unit)
    return Currents(
        weight / threshold.view(-1, *[1] * (weight.ndim - 1)),
        fixed.bias.double().cpu() / threshold,
        (fixed.initial.double().cpu() + 0.5) / threshold,
    )


def spike_factor(source: SpikingLayer, target: SpikingLayer | Readout) -> float:
    """Return the weight of a spike of `source`: its threshold, in the numbers of `target`."""
    is_whole = isinstance(target, SpikingLayer) and target.fixed is not None
    return own_factor(source) if is_whole else float(source.threshold)


def own_factor(source: SpikingLayer) -> float:
    """The threshold of a layer, in units common to all spikes that meet where it has them."""
    return float(source.threshold if source.fixed is None else source.fixed.multiple)


def meeting_unequal(found: list[Stage]) -> set[str]:
    """Layers whose spikes are added up, here or there, with spikes that count otherwise."""
    groups: list[dict[str, SpikingLayer]] = []
    for stage in found:
        joined = dict(stage.sources)
        for group in [group for group in groups if group.keys() & joined.keys()]:
            groups.remove(group)
            joined |= group
        groups.append(joined)
    unequal = [group for group in groups if len(set(map(own_factor, group.values()))) > 1]
    return {name for group in unequal for name in group}
