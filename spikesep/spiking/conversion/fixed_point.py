"""Fixed-point form of a converted network: the same spikes in every engine and on every machine.

Weights have `bits` bits and one scale per output channel. Given enough calibration data, each
weight is rounded to what best compensates for the rounding of the others, in turns, as in Behdin et
al., "QuantEase: optimization-based quantization for language models", arXiv 2309.01885. Spikes that
meet in one sum have thresholds that are small integer multiples of a common unit, so the input in a
step is an integer. Potentials, biases and thresholds are int32 on a grid up to 256 times finer than
weight scale * unit, because biases are spread thinly over the steps.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.least_squares import NormalEquations, normal_equations
from spikesep.spiking.conversion.rounding import (
    FRACTION_BITS,
    INPUT_LEVELS,
    LIMIT,
    MOST_SHIFT,
    Grid,
)
from spikesep.spiking.integers import FixedPoint, dequantized
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import Cut, SpikingNetwork
from spikesep.spiking.signal import Coding, Signal, require_finite
from spikesep.spiking.wiring.wires import INPUT

BITS = range(2, 9)  # of a weight
MULTIPLES = 15  # thresholds of one sum are 1..15 units
ENOUGH = 4
"""Positions per input of a neuron from which weights are rounded together; below, one by one."""


def to_fixed_point(
    network: SpikingNetwork,
    inputs: Iterable[Tensor],
    bits: int = 8,
    scales: dict[str, Tensor] | None = None,
) -> None:
    """Bring a converted network into fixed-point form, in place.

    Its float weights become those that the integers represent.

    Args:
        network: all layers spiking.
        inputs: batches of its analog input. Their largest magnitude sets the input range, beyond
            which inputs are clipped; with enough positions, weights are rounded together.
        bits: bits of the weights, 2..8.
        scales: scales of the weights by layer, [C_out] or scalar. By default a layer that learned
            on a grid keeps it, and elsewhere each channel's largest weight is the largest integer.

    Raises:
        ValueError: a layer is not spiking yet, there are no inputs, or `bits` is out of range or
            below what a layer learned with.
        SpikeSepError: a layer has no fixed-point form, or an input is not finite; the network is
            unchanged.
    """
    if bits not in BITS:
        raise ValueError(f"bits must lie in 2..8, not {bits}")
    layers = list(network.layers.values())
    if any(layer.mode != "spiking" for layer in layers):
        raise ValueError(
            "only a network whose layers all spike has a fixed-point form; convert it first"
        )
    require_fixed_point(network, layers[0].coding)
    units, multiples = _common_units(network)
    cuts: list[tuple[Cut, Cut]] = [
        ({INPUT: Signal(x.detach())}, {INPUT: Signal(x.detach())}) for x in inputs
    ]
    if not cuts:
        raise ValueError("without inputs, the input range is not known; give batches of them")
    for now, _ in cuts:
        require_finite(now[INPUT].value, "the input")
    largest = max(float(now[INPUT].value.abs().max()) for now, _ in cuts)
    rounded = copy.deepcopy(network)
    found = []
    for index, (name, layer) in enumerate(network.layers.items()):
        scale = (scales or {}).get(name, _learned_scale(layer, bits))
        equations = None
        if scale is None and not layer.shortcuts:
            equations = _enough_equations(layer, _values(rounded, network, cuts, index))
        threshold = units[name] * multiples[name]
        grid = Grid(layer, threshold, 2 ** (bits - 1) - 1, scale, equations)
        wires = network.wiring[name]
        if reads_input(network, name):
            result = grid.behind_analog(largest)
        else:
            of_wires = [units[wire.names[0]] for wire in wires]
            result = grid.behind_spikes(of_wires, [wire.units(multiples) for wire in wires])
        if result is None:
            raise SpikeSepError(f"layer {name}: its sums do not fit 32 bits; set weight_bits to 0")
        found.append(result)
        _take(rounded[index], *result, units[name], multiples[name])
        cuts = [
            (rounded.propagate(now, index, index + 1), network.propagate(then, index, index + 1))
            for now, then in cuts
        ]
    for (name, layer), (fixed, bias) in zip(network.layers.items(), found, strict=True):
        _take(layer, fixed, bias, units[name], multiples[name])


def _take(layer: SpikingLayer, fixed: FixedPoint, bias: Tensor, unit: float, multiple: int) -> None:
    """Set a layer's integers, and its float weights to what they represent."""
    fixed.multiple.fill_(multiple)
    layer.fixed = fixed.to(layer.threshold.device)
    with torch.no_grad():
        layer.threshold.fill_(multiple * unit)
        integers = [fixed, *fixed.sides()]
        for branch, numbers in zip(layer.branches, integers, strict=True):
            branch.synapse.weight.copy_(dequantized(numbers.weight, numbers.scale))
        layer.bias.copy_(bias)


def _values(
    rounded: SpikingNetwork, network: SpikingNetwork, cuts: list[tuple[Cut, Cut]], index: int
) -> list[tuple[Tensor, Tensor]]:
    """The inputs of a layer in both networks."""
    return [
        (rounded.arriving(now, index)[0].value, network.arriving(then, index)[0].value)
        for now, then in cuts
    ]


def _enough_equations(
    layer: SpikingLayer, values: list[tuple[Tensor, Tensor]]
) -> NormalEquations | None:
    with torch.no_grad():
        equations = normal_equations(layer, layer, values)
    return equations if equations.n_positions >= ENOUGH * layer.synapse.weight[0].numel() else None


def require_fixed_point(network: SpikingNetwork, coding: Coding) -> None:
    """Check, before any work, that all layers have a fixed-point form.

    Raises:
        SpikeSepError: a layer has none, or the leak of the neurons has none.
    """
    coding.require_integers()
    for name, layer in network.layers.items():
        reads_input = [INPUT in wire.names for wire in network.wiring[name]]
        if any(reads_input) and not all(reads_input):
            raise SpikeSepError(
                f"layer {name}: its synapses receive the analog input and spikes, which have no "
                "fixed-point form together; set weight_bits to 0"
            )
        for branch in layer.branches:
            try:
                branch.connectivity.require_table()
            except NotImplementedError as error:
                raise SpikeSepError(
                    f"layer {name}: {error} has no fixed-point form; set weight_bits to 0"
                ) from error


def _learned_scale(layer: SpikingLayer, bits: int) -> Tensor | None:
    """Scale of the grid on which a layer's weights learned; None if they did not."""
    if layer.limiter is None or not layer.limiter.limits.weight_bits:
        return None
    if layer.limiter.limits.weight_bits > bits:
        raise ValueError(
            f"weights that learned with {layer.limiter.limits.weight_bits} bits do not fit {bits}"
        )
    return layer.limiter.weight_scale


def check_fixed_point(network: SpikingNetwork) -> None:
    """Check integers read from a file against what `to_fixed_point` makes.

    Raises:
        ValueError: they are out of range; the message names the layer and the number.
        SpikeSepError: the leak of the neurons has no form in integers.
    """
    for index, (name, layer) in enumerate(network.layers.items()):
        layer.coding.require_integers()
        fixed = _integers_of(layer)
        is_first = reads_input(network, name)
        in_range = {
            "fraction": 0 <= int(fixed.fraction) <= FRACTION_BITS,
            "multiple": 1 <= int(fixed.multiple) <= MULTIPLES,
            "threshold": bool((fixed.threshold >= 1).all()),
            "initial": bool(((fixed.initial >= 0) & (fixed.initial <= fixed.threshold)).all()),
            "scale": bool(((fixed.scale > 0) & fixed.scale.isfinite()).all()),
            "float threshold": 0 < float(layer.threshold) < float("inf"),
            "shift": all(0 <= shift <= MOST_SHIFT for shift in fixed.shifts),
            "input_unit": not is_first or 0 < float(fixed.input_unit) < float("inf"),
            "input_levels": not is_first or 1 <= int(fixed.input_levels) <= INPUT_LEVELS,
        }
        in_range["potential"] = all(in_range.values()) and most(network, index) < LIMIT
        for number, is_sound in in_range.items():
            if not is_sound:
                raise ValueError(f"layer {name}: its integers are out of range ({number})")


def most(network: SpikingNetwork, index: int, *, signed: bool = False) -> float:
    """Largest magnitude of a layer's potentials on their way.

    Args:
        network: in fixed-point form.
        index: number of the layer.
        signed: whether an analog input may have both signs at once. Earlier versions lengthened
            windows as if it had one, so integers from a file are held to no more than that.
    """
    name, layer = network.names[index], network[index]
    coding, fixed = layer.coding, _integers_of(layer)
    multiples = {INPUT: int(fixed.input_levels)}
    for earlier in network.names[:index]:
        multiples[earlier] = int(_integers_of(network.layers[earlier]).multiple)
    units = [
        wire.units(multiples) * branch.connectivity.divisor
        for wire, branch in zip(network.wiring[name], layer.branches, strict=True)
    ]
    is_first = reads_input(network, name)
    times = 1 if is_first and coding.encoding == "impulse" else coding.n_steps
    return fixed.most(units, times, coding.n_steps, signed=signed and is_first)


def reads_input(network: SpikingNetwork, name: str) -> bool:
    """Whether a layer in fixed-point form receives the network's input, which is analog."""
    return network.wiring[name][0].names[0] == INPUT


def _integers_of(layer: SpikingLayer) -> FixedPoint:
    if layer.fixed is None:
        raise ValueError("the layer has no fixed-point form")
    return layer.fixed


def _common_units(network: SpikingNetwork) -> tuple[dict[str, float], dict[str, int]]:
    """For each layer, the unit of all spikes that meet its own, and its threshold in that unit."""
    meeting = {name: {name} for name in network.names}
    for wires in network.wiring.values():
        for wire in wires:
            group = set[str]().union(*(meeting[name] for name in wire.names if name != INPUT))
            meeting |= dict.fromkeys(group, group)
    units, multiples = {}, {}
    for name, layer in network.layers.items():
        thresholds = [float(network.layers[other].threshold) for other in meeting[name]]
        units[name] = max(thresholds) / (MULTIPLES if len(thresholds) > 1 else 1)
        multiples[name] = max(1, round(float(layer.threshold) / units[name]))
    return units, multiples
