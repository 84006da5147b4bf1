"""Integers of a layer in fixed-point form, and the numbers that an engine computes with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikesep.spiking.synapses.modules import Synapse


@dataclass(frozen=True)
class Plan:
    """The numbers of one layer as an engine takes them, all integers or all float32.

    Attributes:
        bias: per step, [C_out].
        threshold: [C_out].
        initial: V[0], [C_out].
        factors: factor of each source's spikes, [n_sources].
        gain: factor from weight * factor to potential.
    """

    bias: Tensor
    threshold: Tensor
    initial: Tensor
    factors: np.ndarray
    gain: np.number


class FixedShortcut(nn.Module):
    """The integers of a further synapse of a layer, as buffers.

    Attributes:
        weight: at most 8 bits, in int8, [C_out, C_in / groups, ...].
        scale: value of one integer step of the weights, [C_out].
        shift: bits by which its products are shifted before they meet those of the first synapse.
    """

    weight: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, synapse: Synapse):
        super().__init__()
        self.register_buffer("weight", torch.zeros_like(synapse.weight, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(len(synapse.weight)))
        self.register_buffer("shift", torch.tensor(0))


class FixedPoint(nn.Module):
    """The integers of one layer, as buffers.

    Attributes:
        weight: at most 8 bits, in int8, [C_out, C_in / groups, ...].
        scale: value of one integer step of the weights, [C_out].
        bias, threshold, initial: int32 on the potential's grid, [C_out].
        fraction: bits of that grid below scale * unit.
        multiple: the layer's threshold in common units.
        input_unit: value of one integer step of an analog input; 0 behind spiking layers.
        input_levels: largest magnitude of an analog input, in that unit.

    Args:
        synapse: the layer's first synapse.
        shortcuts: its further synapses.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    threshold: Tensor
    initial: Tensor
    fraction: Tensor
    multiple: Tensor
    input_unit: Tensor
    input_levels: Tensor

    def __init__(self, synapse: Synapse, *shortcuts: Synapse):
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
        self.shortcuts = nn.ModuleList(map(FixedShortcut, shortcuts))
        self._arranged: dict[object, tuple[Tensor, int, Any]] = {}

    def sides(self) -> list[FixedShortcut]:
        """The integers of the further synapses."""
        return [side for side in self.shortcuts if isinstance(side, FixedShortcut)]

    @property
    def weights(self) -> list[Tensor]:
        """Integer weights of all synapses."""
        return [self.weight, *(side.weight for side in self.sides())]

    @property
    def shifts(self) -> list[int]:
        """Bits by which the products of each synapse are shifted."""
        return [0, *(int(side.shift) for side in self.sides())]

    def arranged(self, key: object, arrange: Callable[[], Any]) -> Any:
        """Result of `arrange`, cached until the weights change."""
        version = 0 if self.weight.is_inference() else self.weight._version
        weight, then, value = self._arranged.get(key, (None, None, None))
        if weight is not self.weight or then != version:
            value = arrange()
            self._arranged[key] = self.weight, version, value
        return value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FixedPoint":
        """As in torch, but `half`, `float` and `double` leave number formats as they are."""
        self._arranged.clear()

        def moved(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            return new if new.dtype == tensor.dtype else tensor.to(new.device)

        return super()._apply(moved, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """State without cached arrangements."""
        return {**self.__dict__, "_arranged": {}}

    def reaches(self) -> list[int]:
        """Return the largest magnitude of a sum of weights of an output channel, per synapse."""
        return self.arranged("reach", lambda: [_reach(weight) for weight in self.weights])

    def most(self, units: list[int], times: int, n_steps: int, *, signed: bool = False) -> float:
        """Largest magnitude of a potential on its way.

        Args:
            units: what arrives at most through every weight of each synapse at once.
            times: how often it arrives within the window.
            n_steps: N_s.
            signed: whether inputs may be negative, as analog ones.
        """
        reaches = [_reach(weight.abs()) for weight in self.weights] if signed else self.reaches()
        products = zip(reaches, units, self.shifts, strict=True)
        arriving = sum(float(reach) * n * 2.0**shift for reach, n, shift in products)
        arriving *= times * 2.0 ** int(self.fraction)
        return arriving + float(
            (n_steps * self.bias.double().abs() + 2 * self.threshold.double()).max()
        )

    def plan(self, factors: list[int]) -> Plan:
        """The numbers for sources with these factors."""
        gain = np.int32(1 << int(self.fraction))
        return Plan(
            self.bias,
            self.threshold,
            self.initial,
            np.array(factors, np.int32),
            gain,
        )


def dequantized(weight: Tensor, scale: Tensor) -> Tensor:
    """Float weights for integers [C_out, ...] with scales [C_out]."""
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))


def _reach(weight: Tensor) -> int:
    """Largest magnitude of a sum of any integer weights of one output channel."""
    rows = weight.flatten(1).long()
    return int(torch.maximum(rows.clamp(min=0).sum(1), rows.clamp(max=0).sum(1).abs()).max())
