"""Rounding of a layer's numbers to integers."""

from dataclasses import dataclass
from math import ceil, log2

import torch
from torch import Tensor

from spikesep.spiking.conversion.least_squares import NormalEquations
from spikesep.spiking.integers import FixedPoint, dequantized
from spikesep.spiking.layer import SpikingLayer

FRACTION_BITS = 8  # of the potential's grid below weight scale * unit, where int32 has room
INPUT_LEVELS = 2047  # largest magnitude of an analog input, in its unit
MOST_SHIFT = 15
"""Largest shift of a shortcut's products against those of the first synapse."""
LIMIT = 2**31 - 1
TURNS = 3
"""Passes over all weights."""


@dataclass(frozen=True)
class Grid:
    """Rounding of a layer's numbers to integers.

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
        levels, n_synapses = INPUT_LEVELS, len(self.layer.branches)
        while levels:
            unit = largest / levels or 1.0
            units = [unit if impulse else unit / n_steps] * n_synapses
            reaching, times = [levels] * n_synapses, 1 if impulse else n_steps
            result = self._integers(units, reaching, times, signed=True)
            if result is not None:
                result[0].input_unit.fill_(unit)
                result[0].input_levels.fill_(levels)
                return result
            levels //= 2
        return None

    def behind_spikes(
        self, units: list[float], reaching: list[int]
    ) -> tuple[FixedPoint, Tensor] | None:
        """Integers for at most `reaching` units from each input of each synapse in a step."""
        return self._integers(units, reaching, self.layer.coding.n_steps)

    def _integers(
        self, units: list[float], reaching: list[int], times: int, *, signed: bool = False
    ) -> tuple[FixedPoint, Tensor] | None:
        """The integers and the bias they represent; None if they do not fit."""
        layer, n_steps = self.layer, self.layer.coding.n_steps
        pooled = [branch.connectivity.divisor for branch in layer.branches]
        unit, *side_units = (own / n for own, n in zip(units, pooled, strict=True))
        arriving = [own * n for own, n in zip(reaching, pooled, strict=True)]
        fixed = FixedPoint(*(branch.synapse for branch in layer.branches)).cpu()
        weight, bias = (
            layer.synapse.weight.detach().double().cpu(),
            layer.bias.detach().double().cpu(),
        )
        upkeep = layer.coding.upkeep * self.threshold
        scale = weight.flatten(1).abs().amax(1) / self.bound
        scale = (
            scale if self.scale is None else self.scale.double().cpu().expand(len(weight)).clone()
        )
        # A channel of tiny weights: they round to zero.
        fixed.scale.copy_(scale.clamp(min=max(self.threshold / unit * 2.0**-20, 1e-30)))
        self._set_shortcuts(fixed, [own / unit for own in side_units])
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
                ((bias + upkeep) / n_steps / grid).round(),
                (self.threshold / grid).round().clamp(min=1),
            ]
            if max(float(number.abs().max()) for number in numbers) > LIMIT:
                continue
            fixed.fraction.fill_(fraction)
            fixed.bias.copy_(numbers[0])
            fixed.threshold.copy_(numbers[1])
            fixed.initial.copy_((numbers[1] * layer.coding.initial_potential).round())
            if fixed.most(arriving, times, n_steps, signed=signed) < LIMIT:
                return fixed, numbers[0] * grid * n_steps - upkeep
        return None

    def _set_shortcuts(self, fixed: FixedPoint, ratios: list[float]) -> None:
        """Set the integers of shortcuts, on the first synapse's grid times powers of two.

        Args:
            fixed: with the scale of the first synapse, which grows where a shortcut needs it.
            ratios: unit of what reaches each shortcut, relative to that of the first synapse.
        """
        scale, weights = fixed.scale.double(), []
        for side, branch, ratio in zip(fixed.sides(), self.layer.branches[1:], ratios, strict=True):
            weight = branch.synapse.weight.detach().double().cpu() * ratio
            needed = weight.flatten(1).abs().amax(1) / self.bound
            typical = float((needed / scale).median())
            side.shift.fill_(min(MOST_SHIFT, max(0, ceil(log2(max(typical, 1.0))))))
            scale = torch.maximum(scale, needed * 2.0 ** -int(side.shift))
            weights.append(weight)
        fixed.scale.copy_(scale)
        for side, weight, ratio in zip(fixed.sides(), weights, ratios, strict=True):
            step = fixed.scale.double() * 2.0 ** int(side.shift)
            integers = (weight / dequantized(torch.ones_like(weight), step)).round()
            side.weight.copy_(integers.clamp(-self.bound, self.bound))
            side.scale.copy_(step / ratio)


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
