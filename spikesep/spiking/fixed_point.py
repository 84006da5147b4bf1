"""The fixed-point form of a converted network: integer weights, biases, thresholds and potentials, the same to the bit
in every engine and on every machine.

Weights have `bits` bits and one scale an output channel. Spikes that meet in one sum carry thresholds that are small
integer multiples of a common unit, so that what arrives in a step is an integer. Potentials, biases and thresholds are
int32 on a grid up to 256 times finer than weight scale * unit, for biases are spread thinly over the steps.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from spikesep.spiking.connections import divisor

if TYPE_CHECKING:
    from spikesep.spiking.network import SpikingNetwork

MULTIPLES = 15  # thresholds of one sum are 1..15 units
FRACTION_BITS = 8  # of the potential's grid below weight scale * unit, where int32 has room for them
INPUT_LEVELS = 2047  # an analog input's largest magnitude, in its unit
LIMIT = 2**31 - 1


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
        weight: int8 or less, [C_out, C_in / groups, ...].
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
        self._arranged: dict[object, tuple[int, Any]] = {}

    def arranged(self, key: object, arrange: Callable[[], Any]) -> Any:
        """What `arrange` makes of the weights, kept until they change."""
        version, value = self._arranged.get(key, (None, None))
        if version != self.weight._version:
            version, value = self.weight._version, arrange()
            self._arranged[key] = version, value
        return value

    def reach(self) -> int:
        """The largest magnitude that sums of any of an output channel's weights can have."""
        return self.arranged("reach", lambda: _reach(self.weight))

    def plan(self, multiples: list[int]) -> Plan:
        """For sources of these multiples."""
        gain = np.int32(1 << int(self.fraction))
        return Plan(self.weight, self.bias, self.threshold, self.initial, np.array(multiples, np.int32), gain)


def to_fixed_point(
    network: "SpikingNetwork", inputs: Iterable[Tensor], bits: int = 8, scales: dict[str, Tensor] | None = None
) -> None:
    """Bring a converted network into fixed-point form, in place; its float weights become those that the integers mean.

    Args:
        network: all layers spiking.
        inputs: batches of its analog input, of which the largest magnitude is taken; larger ones will be clipped.
        bits: of the weights, 2..8.
        scales: of the weights' grids by layer, [C_out] or scalar, where training has put them on one; else each output
            channel's largest weight is the largest integer.

    Raises:
        ValueError: a layer is not spiking yet, `bits` is out of range, or an analog value travels beside the spikes.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must lie in 2..8, not {bits}")
    layers = list(network.layers.values())
    if any(layer.mode != "spiking" for layer in layers):
        raise ValueError("only a network whose layers all spike has a fixed-point form; convert it first")
    if layers[0].identity:
        raise ValueError("the first layer hands on its analog input: such a sum has no fixed-point form")
    units = _common_units(layers)
    largest = max(float(x.detach().abs().max()) for x in inputs)
    reaching = 0  # the sum of the multiples that meet before a layer
    for index, (name, layer) in enumerate(network.layers.items()):
        bound = 2 ** (bits - 1) - 1
        scale = (scales or {}).get(name)
        if index:
            layer.fixed = _fixed(layer, units[index - 1], reaching, bound, scale)
        else:
            layer.fixed = _fixed_first(layer, largest, bound, scale)
        multiple = round(float(layer.threshold) / units[index])
        layer.fixed.multiple.fill_(multiple)
        reaching = multiple + (reaching if layer.identity else 0)


def _fixed_first(layer: nn.Module, largest: float, bound: int, scale: Tensor | None) -> FixedPoint:
    """A layer with an analog input: the input's unit is as fine as int32 potentials allow."""
    levels = INPUT_LEVELS
    while levels:
        unit = largest / levels or 1.0
        fixed = _fixed(layer, unit, levels, bound, scale, steps=1 if layer.coding.encoding == "impulse" else None)
        if fixed is not None:
            fixed.input_unit.fill_(unit)
            fixed.input_levels.fill_(levels)
            return fixed
        levels //= 2
    raise ValueError("the first layer's sums do not fit 32 bits")


def _fixed(
    layer: nn.Module, unit: float, reaching: int, bound: int, scale: Tensor | None, steps: int | None = 0
) -> FixedPoint | None:
    """The integers of a layer to which at most `reaching` units come from each place in a step; None: they do not fit.

    `steps` is 0 behind spikes. A constant analog current (None) is kept as its sum over the window, with thresholds
    N_s times as high; an impulse (1) arrives in one step.
    """
    n_steps, threshold, unit = layer.coding.n_steps, float(layer.threshold), unit / divisor(layer)
    unit = unit / n_steps if steps is None else unit
    fixed = FixedPoint(layer.synapse)
    weight = layer.synapse.weight.detach().double()
    channels = weight.flatten(1)
    scale = channels.abs().amax(1) / bound if scale is None else scale.double().expand(len(weight)).clone()
    scale = scale.clamp(min=max(threshold / unit * 2.0**-20, 1e-30))  # a channel of tiny weights: they round to zero
    fixed.scale.copy_(scale)
    scale = fixed.scale.double()
    along = scale.view(-1, *[1] * (weight.ndim - 1))
    fixed.weight.copy_((weight / along).round().clamp(-bound, bound))
    reach = _reach(fixed.weight) * reaching * divisor(layer)
    for fraction in range(FRACTION_BITS, -1, -1):
        grid = scale * unit * 2.0**-fraction
        bias = (layer.synapse.bias.detach().double() / n_steps / grid).round()
        fire_at = (threshold / grid).round().clamp(min=1)
        arrivals = reach * 2**fraction * (1 if steps == 1 else n_steps)
        if arrivals + float((n_steps * bias.abs() + 2 * fire_at).max()) < LIMIT:
            break
    else:
        return None
    fixed.fraction.fill_(fraction)
    fixed.bias.copy_(bias)
    fixed.threshold.copy_(fire_at)
    fixed.initial.copy_((fire_at * layer.coding.initial_potential).round())
    with torch.no_grad():
        layer.synapse.weight.copy_(dequantized(fixed.weight, fixed.scale))
        layer.synapse.bias.copy_(bias * grid * n_steps)
    return fixed


def dequantized(weight: Tensor, scale: Tensor) -> Tensor:
    """The float weights that integers [C_out, ...] with scales [C_out] stand for."""
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))


def _reach(weight: Tensor) -> int:
    """The largest magnitude that sums of any of an output channel's integer weights can have."""
    rows = weight.flatten(1).long()
    return int(torch.maximum(rows.clamp(min=0).sum(1), rows.clamp(max=0).sum(1).abs()).max())


def _common_units(layers: list[nn.Module]) -> list[float]:
    """Round the thresholds of layers that meet in one sum to multiples of a unit; the unit of each layer."""
    begins = [i for i, layer in enumerate(layers) if not layer.identity]
    units = []
    for begin, end in zip(begins, [*begins[1:], len(layers)], strict=True):
        group = layers[begin:end]
        unit = max(float(layer.threshold) for layer in group) / (MULTIPLES if len(group) > 1 else 1)
        for layer in group:
            layer.threshold.fill_(max(1, round(float(layer.threshold) / unit)) * unit)
        units += [unit] * len(group)
    return units
