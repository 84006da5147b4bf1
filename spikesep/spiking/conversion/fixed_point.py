"""The fixed-point form of a converted network: integer weights, biases, thresholds and potentials, the same to the bit
in every engine and on every machine.

Weights have `bits` bits and one scale an output channel; where there is enough to look at, each is rounded to what
makes up best for the rounding of the others, in turns, as in Behdin et al., "QuantEase: optimization-based quantization
for language models", arXiv 2309.01885. Spikes that meet in one sum carry thresholds that are small integer multiples of
a common unit, so that what arrives in a step is an integer. Potentials, biases and thresholds are int32 on a grid up to
256 times finer than weight scale * unit, for biases are spread thinly over the steps.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.connections import divisor, require_table
from spikesep.spiking.conversion.least_squares import Moments, moments_of
from spikesep.spiking.integers import FixedPoint, dequantized
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Signal

MULTIPLES = 15  # thresholds of one sum are 1..15 units
FRACTION_BITS = (
    8  # of the potential's grid below weight scale * unit, where int32 has room for them
)
INPUT_LEVELS = 2047  # an analog input's largest magnitude, in its unit
LIMIT = 2**31 - 1
ENOUGH = 4
"""Positions for each input of a neuron, from which weights are rounded together; of fewer, each by itself."""
TURNS = 3
"""Of rounding each weight anew, given the others."""


def to_fixed_point(
    network: SpikingNetwork,
    inputs: Iterable[Tensor],
    bits: int = 8,
    scales: dict[str, Tensor] | None = None,
) -> None:
    """Bring a converted network into fixed-point form, in place; its float weights become those that the integers mean.

    Args:
        network: all layers spiking.
        inputs: batches of its analog input, of which the largest magnitude is taken (larger ones will be clipped), and
            what the layers make of them.
        bits: of the weights, 2..8.
        scales: of the weights' grids by layer, [C_out] or scalar. Else a layer that learned on a grid keeps it, and of
            others each output channel's largest weight is the largest integer.

    Raises:
        ValueError: a layer is not spiking yet, or `bits` is out of range, or fewer than a layer learned with.
        SpikeSepError: a layer has no such form; the network is as it was.
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
        moments = None if scale is not None else _enough_moments(layer, signals)
        grid = Grid(layer, units[index] * multiples[index], 2 ** (bits - 1) - 1, scale, moments)
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


def _take(layer: nn.Module, fixed: FixedPoint, bias: Tensor, unit: float, multiple: int) -> None:
    """Have a layer compute in integers, and its float weights be what they mean."""
    fixed.multiple.fill_(multiple)
    layer.fixed = fixed.to(layer.threshold.device)
    with torch.no_grad():
        layer.threshold.fill_(multiple * unit)
        layer.synapse.weight.copy_(dequantized(fixed.weight, fixed.scale))
        layer.synapse.bias.copy_(bias)


def _enough_moments(layer: nn.Module, signals: list[tuple[Signal, Signal]]) -> Moments | None:
    with torch.no_grad():
        moments = moments_of(
            layer, layer.synapse, [(now.value, then.value) for now, then in signals]
        )
    return moments if moments.n_positions >= ENOUGH * layer.synapse.weight[0].numel() else None


def require_fixed_point(network: SpikingNetwork) -> None:
    """See, before any work, that a network's layers have a fixed-point form.

    Raises:
        SpikeSepError: one has none.
    """
    for name, layer in network.layers.items():
        try:
            require_table(layer)
        except NotImplementedError as error:
            raise SpikeSepError(
                f"layer {name}: {error} has no fixed-point form; set weight_bits to 0"
            ) from error


def _learned_scale(layer: nn.Module, bits: int) -> Tensor | None:
    """Of the grid on which a layer's weights learned, if they did."""
    if layer.limiter is None or not layer.limiter.limits.weight_bits:
        return None
    if layer.limiter.limits.weight_bits > bits:
        raise ValueError(
            f"weights that learned with {layer.limiter.limits.weight_bits} bits do not fit into {bits}"
        )
    return layer.limiter.weight_scale


def check_fixed_point(network: SpikingNetwork) -> None:
    """Whether integers that were read from a file can be what `to_fixed_point` makes.

    Raises:
        ValueError: they cannot; the message names the layer.
    """
    for index, (name, layer) in enumerate(network.layers.items()):
        fixed = layer.fixed
        sound = (
            0 <= int(fixed.fraction) <= FRACTION_BITS
            and 1 <= int(fixed.multiple) <= MULTIPLES
            and bool((fixed.threshold >= 1).all() and (fixed.initial >= 0).all())
            and bool((fixed.initial <= fixed.threshold).all())
            and bool((fixed.scale > 0).all() and fixed.scale.isfinite().all())
            and 0 < float(layer.threshold) < float("inf")
            and (index > 0 or 0 < float(fixed.input_unit) < float("inf"))
            and (index > 0 or 1 <= int(fixed.input_levels) <= INPUT_LEVELS)
            and most(network, index) < LIMIT
        )
        if not sound:
            raise ValueError(f"layer {name}: its integers are out of range")


def most(network: SpikingNetwork, index: int) -> float:
    """The largest magnitude that potentials of a layer can have on their way."""
    layer, coding = network[index], network[index].coding
    units, before = int(layer.fixed.input_levels), index
    if index:
        units, before = int(network[index - 1].fixed.multiple), index - 1
        while network[before].identity:  # it hands on what reaches it
            before -= 1
            units += int(network[before].fixed.multiple)
    times = 1 if index == 0 and coding.encoding == "impulse" else coding.n_steps
    return layer.fixed.most(round(units * divisor(layer)), times, coding.n_steps)


@dataclass(frozen=True)
class Grid:
    """How a layer's numbers become integers.

    Attributes:
        threshold: in activation units.
        bound: largest integer weight.
        scale: of the weights, where it is given.
        moments: of what the layer receives, where weights are to be rounded together.
    """

    layer: nn.Module
    threshold: float
    bound: int
    scale: Tensor | None
    moments: Moments | None = None

    def behind_analog(self, largest: float) -> tuple[FixedPoint, Tensor] | None:
        """With an analog input, whose unit is as fine as int32 potentials allow.

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
        """Where at most `reaching` units come from each place in a step."""
        return self._integers(unit, reaching, self.layer.coding.n_steps)

    def _integers(self, unit: float, units: int, times: int) -> tuple[FixedPoint, Tensor] | None:
        """The integers, and the bias that they mean; None: they do not fit."""
        layer, n_steps, pooled = self.layer, self.layer.coding.n_steps, divisor(self.layer)
        unit = unit / pooled
        fixed = FixedPoint(layer.synapse).cpu()
        weight, bias = (
            layer.synapse.weight.detach().double().cpu(),
            layer.synapse.bias.detach().double().cpu(),
        )
        scale = weight.flatten(1).abs().amax(1) / self.bound
        scale = (
            scale if self.scale is None else self.scale.double().cpu().expand(len(weight)).clone()
        )
        # A channel of tiny weights: they round to zero.
        fixed.scale.copy_(scale.clamp(min=max(self.threshold / unit * 2.0**-20, 1e-30)))
        scale = fixed.scale.double()
        if self.moments is None:
            fixed.weight.copy_(
                (weight / dequantized(torch.ones_like(weight), scale))
                .round()
                .clamp(-self.bound, self.bound)
            )
        else:
            integers, bias = round_together(
                weight.flatten(1), bias, scale, self.bound, self.moments
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
    weight: Tensor, bias: Tensor, scale: Tensor, bound: int, moments: Moments
) -> tuple[Tensor, Tensor]:
    """Integers for weights, so that potentials come near to those that are wanted; and the bias that goes with them.

    From the nearest integers on, each input's is chosen anew in turns, for all neurons at once: of all integers the one
    that leaves the least squared error beside the others there are then. Zeros stay zeros, and each neuron's largest
    weight stays, too, so that a network made of the outcome has the same scales again.

    Args:
        weight: [C_out, n], float64.
        bias: [C_out], float64.
        scale: of the integers, [C_out], float64.
        bound: the largest magnitude of an integer.
        moments: of n inputs.
    """
    n_groups, n = len(moments.among), weight.shape[1]
    weight, bias, scale = (values.unflatten(0, (n_groups, -1)) for values in (weight, bias, scale))
    integers = (weight / scale[..., None]).round().clamp(-bound, bound)
    free = (weight != 0).scatter(2, weight.abs().argmax(2, keepdim=True), False)
    among, across = moments.among.to(weight), moments.across.to(weight)
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


def _common_units(layers: list[nn.Module]) -> tuple[list[float], list[int]]:
    """For each layer the unit, common to all whose spikes meet in one sum, and its threshold in units, rounded."""
    begins = [i for i, layer in enumerate(layers) if not layer.identity]
    units, multiples = [], []
    for begin, end in zip(begins, [*begins[1:], len(layers)], strict=True):
        thresholds = [float(layer.threshold) for layer in layers[begin:end]]
        unit = max(thresholds) / (MULTIPLES if len(thresholds) > 1 else 1)
        units += [unit] * len(thresholds)
        multiples += [max(1, round(threshold / unit)) for threshold in thresholds]
    return units, multiples
