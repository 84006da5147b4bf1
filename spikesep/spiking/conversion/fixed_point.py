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
from dataclasses import dataclass

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.least_squares import NormalEquations, normal_equations
from spikesep.spiking.integers import FixedPoint, dequantized
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Signal

MULTIPLES = 15  # thresholds of one sum are 1..15 units
FRACTION_BITS = 8  # of the potential's grid below weight scale * unit, where int32 has room
INPUT_LEVELS = 2047  # largest magnitude of an analog input, in its unit
LIMIT = 2**31 - 1
ENOUGH = 4
"""Positions per input of a neuron from which weights are rounded together; below, one by one."""
TURNS = 3
"""Passes over all weights."""


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
        ValueError: a layer is not spiking yet, or `bits` is out of range or below what a layer
            learned with.
        SpikeSepError: a layer has no fixed-point form; the network is unchanged.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must lie in 2..8, not {bits}")
    layers = list(network.layers.values())
    if any(layer.mode != "spiking" for layer in layers):
        raise ValueError(
            "only a network whose layers all spike has a fixed-point form; convert it first"
        )
    require_fixed_point(network)
    units, multiples = _common_units(layers)
    signals = [(Signal(x.detach()), Signal(x.detach())) for x in inputs]
    largest = max(float(signal.value.abs().max()) for signal, _ in signals)
    rounded = copy.deepcopy(network)
    found, reaching = [], 0  # the sum of the multiples that meet before a layer
    for index, (name, layer) in enumerate(network.layers.items()):
        scale = (scales or {}).get(name, _learned_scale(layer, bits))
        equations = None if scale is not None else _enough_equations(layer, signals)
        grid = Grid(layer, units[index] * multiples[index], 2 ** (bits - 1) - 1, scale, equations)
        result = (
            grid.behind_spikes(units[index - 1], reaching) if index else grid.behind_analog(largest)
        )
        if result is None:
            raise SpikeSepError(f"layer {name}: its sums do not fit 32 bits; set weight_bits to 0")
        found.append(result)
        _take(rounded[index], *result, units[index], multiples[index])
        signals = [
            (rounded.propagate(now, index, index + 1), network.propagate(then, index, index + 1))
            for now, then in signals
        ]
        reaching = multiples[index] + (reaching if layer.identity else 0)
    for numbers in zip(layers, *zip(*found, strict=True), units, multiples, strict=True):
        _take(*numbers)


def _take(layer: SpikingLayer, fixed: FixedPoint, bias: Tensor, unit: float, multiple: int) -> None:
    """Set a layer's integers, and its float weights to what they represent."""
    fixed.multiple.fill_(multiple)
    layer.fixed = fixed.to(layer.threshold.device)
    with torch.no_grad():
        layer.threshold.fill_(multiple * unit)
        layer.synapse.weight.copy_(dequantized(fixed.weight, fixed.scale))
        layer.bias.copy_(bias)


def _enough_equations(
    layer: SpikingLayer, signals: list[tuple[Signal, Signal]]
) -> NormalEquations | None:
    with torch.no_grad():
        equations = normal_equations(
            layer, layer, [(now.value, then.value) for now, then in signals]
        )
    return equations if equations.n_positions >= ENOUGH * layer.synapse.weight[0].numel() else None


def require_fixed_point(network: SpikingNetwork) -> None:
    """Check, before any work, that all layers have a fixed-point form.

    Raises:
        SpikeSepError: a layer has none.
    """
    for name, layer in network.layers.items():
        try:
            layer.connectivity.require_table()
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
    """
    for index, (name, layer) in enumerate(network.layers.items()):
        fixed = _integers_of(layer)
        in_range = {
            "fraction": 0 <= int(fixed.fraction) <= FRACTION_BITS,
            "multiple": 1 <= int(fixed.multiple) <= MULTIPLES,
            "threshold": bool((fixed.threshold >= 1).all()),
            "initial": bool(((fixed.initial >= 0) & (fixed.initial <= fixed.threshold)).all()),
            "scale": bool(((fixed.scale > 0) & fixed.scale.isfinite()).all()),
            "float threshold": 0 < float(layer.threshold) < float("inf"),
            "input_unit": index > 0 or 0 < float(fixed.input_unit) < float("inf"),
            "input_levels": index > 0 or 1 <= int(fixed.input_levels) <= INPUT_LEVELS,
        }
        in_range["potential"] = all(in_range.values()) and most(network, index) < LIMIT
        for number, is_sound in in_range.items():
            if not is_sound:
                raise ValueError(f"layer {name}: its integers are out of range ({number})")


def most(network: SpikingNetwork, index: int) -> float:
    """Largest magnitude of a layer's potentials on their way."""
    layer, coding, fixed = network[index], network[index].coding, _integers_of(network[index])
    units, before = int(fixed.input_levels), index
    if index:
        units, before = int(_integers_of(network[index - 1]).multiple), index - 1
        while network[before].identity:  # its input arrives, too
            before -= 1
            units += int(_integers_of(network[before]).multiple)
    times = 1 if index == 0 and coding.encoding == "impulse" else coding.n_steps
    return fixed.most(round(units * layer.connectivity.divisor), times, coding.n_steps)


def _integers_of(layer: SpikingLayer) -> FixedPoint:
    if layer.fixed is None:
        raise ValueError("the layer has no fixed-point form")
    return layer.fixed


@dataclass(frozen=True)
class Grid:
    """How a layer's numbers become integers.

    Attributes:
        layer: the layer.
        threshold: activation units.
        bound: largest integer weight.
        scale: given scales of the weights, or None.
        equations: normal equations of the layer's weights, to round them together, or None.
    """

    layer: SpikingLayer
    threshold: float
    bound: int
    scale: Tensor | None
    equations: NormalEquations | None = None

    def behind_analog(self, largest: float) -> tuple[FixedPoint, Tensor] | None:
        """Integers for an analog input, whose unit is as fine as int32 potentials allow.

        A constant current is kept as its sum over the window, with thresholds N_s times as high.
        """
        impulse, n_steps = self.layer.coding.encoding == "impulse", self.layer.coding.n_steps
        levels = INPUT_LEVELS
        while levels:
            unit = largest / levels or 1.0
            result = self._integers(
                unit if impulse else unit / n_steps, levels, 1 if impulse else n_steps
            )
            if result is not None:
                result[0].input_unit.fill_(unit)
                result[0].input_levels.fill_(levels)
                return result
            levels //= 2
        return None

    def behind_spikes(self, unit: float, reaching: int) -> tuple[FixedPoint, Tensor] | None:
        """Integers for at most `reaching` units from each input in a step."""
        return self._integers(unit, reaching, self.layer.coding.n_steps)

    def _integers(self, unit: float, units: int, times: int) -> tuple[FixedPoint, Tensor] | None:
        """The integers and the bias they represent; None if they do not fit."""
        layer, n_steps, pooled = (
            self.layer,
            self.layer.coding.n_steps,
            self.layer.connectivity.divisor,
        )
        unit = unit / pooled
        fixed = FixedPoint(layer.synapse).cpu()
        weight, bias = (
            layer.synapse.weight.detach().double().cpu(),
            layer.bias.detach().double().cpu(),
        )
        scale = weight.flatten(1).abs().amax(1) / self.bound
        scale = (
            scale if self.scale is None else self.scale.double().cpu().expand(len(weight)).clone()
        )
        # A channel of tiny weights: they round to zero.
        fixed.scale.copy_(scale.clamp(min=max(self.threshold / unit * 2.0**-20, 1e-30)))
        scale = fixed.scale.double()
        if self.equations is None:
            fixed.weight.copy_(
                (weight / dequantized(torch.ones_like(weight), scale))
                .round()
                .clamp(-self.bound, self.bound)
            )
        else:
            integers, bias = round_together(
                weight.flatten(1), bias, scale, self.bound, self.equations
            )
            fixed.weight.copy_(integers.view_as(weight))
        for fraction in range(FRACTION_BITS, -1, -1):
            grid = scale * unit * 2.0**-fraction
            numbers = [
                (bias / n_steps / grid).round(),
                (self.threshold / grid).round().clamp(min=1),
            ]
            if max(float(number.abs().max()) for number in numbers) > LIMIT:
                continue
            fixed.fraction.fill_(fraction)
            fixed.bias.copy_(numbers[0])
            fixed.threshold.copy_(numbers[1])
            fixed.initial.copy_((numbers[1] * layer.coding.initial_potential).round())
            if fixed.most(round(units * pooled), times, n_steps) < LIMIT:
                return fixed, numbers[0] * grid * n_steps
        return None


def round_together(
    weight: Tensor, bias: Tensor, scale: Tensor, bound: int, equations: NormalEquations
) -> tuple[Tensor, Tensor]:
    """Round weights jointly, so that potentials stay close to the desired ones.

    Starting from the nearest integers, the integer of one input at a time is chosen anew for all
    neurons at once: the one with the least squared error given the others. Zeros stay zeros, and
    the largest weight of each neuron stays, so that the result has the same scales again.

    Args:
        weight: [C_out, n], float64.
        bias: [C_out], float64.
        scale: of the integers, [C_out], float64.
        bound: largest magnitude of an integer.
        equations: for n inputs.

    Returns:
        Integers [C_out, n], and the bias [C_out] that goes with them.
    """
    n_groups, n = len(equations.among), weight.shape[1]
    weight, bias, scale = (values.unflatten(0, (n_groups, -1)) for values in (weight, bias, scale))
    integers = (weight / scale[..., None]).round().clamp(-bound, bound)
    free = (weight != 0).scatter(2, weight.abs().argmax(2, keepdim=True), False)
    among, across = equations.among.to(weight), equations.across.to(weight)
    found = torch.cat([integers * scale[..., None], bias[..., None]], 2)
    slope = found @ among - across.mT  # half of the squared error's, by weight
    for _ in range(TURNS):
        for k in [n, *range(n)]:
            power = among[:, k, k, None]
            best = found[..., k] - slope[..., k] / power
            if k < n:
                best = torch.where(
                    free[..., k], (best / scale).round().clamp(-bound, bound) * scale, found[..., k]
                )
            slope += (best - found[..., k])[..., None] * among[:, None, k]
            found[..., k] = best
    found[..., n] -= slope[..., n] / among[:, n, n, None]
    integers = (found[..., :n] / scale[..., None]).round()
    return integers.flatten(0, 1), found[..., n].flatten()


def _common_units(layers: list[SpikingLayer]) -> tuple[list[float], list[int]]:
    """For each layer, the unit of all spikes that meet its own, and its threshold in that unit."""
    begins = [i for i, layer in enumerate(layers) if not layer.identity]
    units, multiples = [], []
    for begin, end in zip(begins, [*begins[1:], len(layers)], strict=True):
        thresholds = [float(layer.threshold) for layer in layers[begin:end]]
        unit = max(thresholds) / (MULTIPLES if len(thresholds) > 1 else 1)
        units += [unit] * len(thresholds)
        multiples += [max(1, round(threshold / unit)) for threshold in thresholds]
    return units, multiples
