"""A layer's integers: what the fixed-point form keeps of it, and how an engine takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """One layer's numbers as an engine takes them, in one arithmetic (integers or float32).

    Attributes:
        weight: [C_out, ...], as in the synapse.
        bias: a step, [C_out].
        threshold, initial: V[0], [C_out].
        factors: by which the spikes of each source are multiplied, [n_sources].
        gain: from weight * factor to potential.
    """

    weight: Tensor
    bias: Tensor
    threshold: Tensor
    initial: Tensor
    factors: np.ndarray
    gain: np.number


class FixedPoint(nn.Module):
    """The integers of one layer, as buffers.

    Attributes:
        weight: of 8 bits or fewer, in int8, [C_out, C_in / groups, ...].
        scale: of an output channel's weights, [C_out].
        bias, threshold, initial: int32 on the potential's grid, [C_out].
        fraction: bits of that grid below scale * unit.
        multiple: of the common unit, this layer's threshold.
        input_unit: of an analog input; 0 behind spiking layers.
        input_levels: the largest magnitude of an analog input in that unit.
    """

    def __init__(self, synapse: nn.Module):
        super().__init__()
        n = len(synapse.weight)
        self.register_buffer("weight", torch.zeros_like(synapse.weight, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(n))
        for name in ("bias", "threshold", "initial"):
            self.register_buffer(name, torch.zeros(n, dtype=torch.int32))
        self.register_buffer("fraction", torch.tensor(0))
        self.register_buffer("multiple", torch.tensor(1))
        self.register_buffer("input_unit", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("input_levels", torch.tensor(0))
        self._arranged: dict[object, tuple[Tensor, int, Any]] = {}

    def arranged(self, key: object, arrange: Callable[[], Any]) -> Any:
        """What `arrange` makes of the weights, kept until they change."""
        version = 0 if self.weight.is_inference() else self.weight._version
        weight, then, value = self._arranged.get(key, (None, None, None))
        if weight is not self.weight or then != version:
            value = arrange()
            self._arranged[key] = self.weight, version, value
        return value

    def _apply(self, *arguments, **options) -> "FixedPoint":
        self._arranged.clear()
        return super()._apply(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be arranged again."""
        return {**self.__dict__, "_arranged": {}}

    def reach(self) -> int:
        """The largest magnitude that sums of any of an output channel's weights can have."""
        return self.arranged("reach", lambda: _reach(self.weight))

    def most(self, units: int, times: int, n_steps: int) -> float:
        """The largest magnitude that a potential can have on its way: `units` arrive through every weight, `times`
        times within the window."""
        arriving = float(self.reach()) * units * times * 2.0 ** int(self.fraction)
        return arriving + float(
            (n_steps * self.bias.double().abs() + 2 * self.threshold.double()).max()
        )

    def plan(self, multiples: list[int]) -> Plan:
        """For sources of these multiples."""
        gain = np.int32(1 << int(self.fraction))
        return Plan(
            self.weight,
            self.bias,
            self.threshold,
            self.initial,
            np.array(multiples, np.int32),
            gain,
        )


def dequantized(weight: Tensor, scale: Tensor) -> Tensor:
    """The float weights that integers [C_out, ...] with scales [C_out] stand for."""
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))


def _reach(weight: Tensor) -> int:
    """The largest magnitude that sums of any of an output channel's integer weights can have."""
    rows = weight.flatten(1).long()
    return int(torch.maximum(rows.clamp(min=0).sum(1), rows.clamp(max=0).sum(1).abs()).max())
