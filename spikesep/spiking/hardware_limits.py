"""What hardware allows of a layer's synapses (paper, section 4.3 and Fig. 3): weights and biases of few bits, and a
limit on how many inputs a neuron can have. The analog twin keeps full-precision weights and learns; the neurons get
copies that the hardware can hold.

The grid is symmetric and explicit: weight = weight_scale * k with integer |k| <= 2^(bits - 1) - 1, bias likewise with
a scale of its own; the scales, one of each a layer, are tensors of the model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.signal import straight_through

CANDIDATES = 64
"""Scales that are tried for a grid, from a quarter of the range of the weights to all of it."""


@dataclass(frozen=True)
class HardwareLimits:
    """What each layer must keep to.

    Attributes:
        weight_bits: of weights and biases; 0 for float32.
        fan_in: most inputs of a neuron; 0 for any number.
    """

    weight_bits: int = 0
    fan_in: int = 0

    def __post_init__(self):
        if self.weight_bits and not 2 <= self.weight_bits <= 16:
            raise ValueError(f"weights of {self.weight_bits} bits: give 2 to 16, or 0 for float32")
        if self.fan_in < 0:
            raise ValueError(
                f"a fan-in of {self.fan_in}: give a positive number, or 0 for no limit"
            )

    def __bool__(self) -> bool:
        return bool(self.weight_bits or self.fan_in)


class Limiter(nn.Module):
    """Makes of a synapse's full-precision weights those that the hardware can hold.

    The inputs that are kept and the scales are chosen when it is made and stay, as the weights learn on. Its tensors
    are `kept` (bool, the shape of the weight; where the fan-in is limited), `weight_scale` and `bias_scale` (scalars;
    where the bits are).

    Args:
        limits: to keep to.
        weight: [out, in, ...] of the synapse.
        bias: [out].
        n_pooled: inputs that each weight serves, where average pooling comes before the synapse.
        kept: the inputs to keep, where they are not the strongest.

    Raises:
        SpikeSepError: the fan-in is too small for the pooling.
    """

    def __init__(
        self,
        limits: HardwareLimits,
        weight: Tensor,
        bias: Tensor,
        n_pooled: int = 1,
        kept: Tensor | None = None,
    ):
        super().__init__()
        self.limits = limits
        weight, bias = weight.detach(), bias.detach()
        if limits.fan_in:
            kept = strongest(weight, limits.fan_in // n_pooled) if kept is None else kept.clone()
            self.register_buffer("kept", kept)
        if limits.weight_bits:
            self.register_buffer(
                "weight_scale", grid_scale(self.pruned(weight), limits.weight_bits)
            )
            self.register_buffer("bias_scale", grid_scale(bias, limits.weight_bits))

    def pruned(self, weight: Tensor) -> Tensor:
        """The weight with zeros for the inputs that were given up, in full precision."""
        return weight * self.kept if self.limits.fan_in else weight

    def forward(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The neurons' weight and bias; the gradient is that of the full-precision ones that are kept."""
        weight, bits = self.pruned(weight), self.limits.weight_bits
        if not bits:
            return weight, bias
        return (
            straight_through(on_grid(weight.detach(), self.weight_scale, bits), weight),
            straight_through(on_grid(bias.detach(), self.bias_scale, bits), bias),
        )

    def apply_to(self, synapse: nn.Module) -> None:
        """Put the limited weight and bias in the place of the full-precision ones, for good."""
        with torch.no_grad():
            weight, bits = self.pruned(synapse.weight), self.limits.weight_bits
            synapse.weight.copy_(on_grid(weight, self.weight_scale, bits) if bits else weight)
            if bits:
                synapse.bias.copy_(on_grid(synapse.bias, self.bias_scale, bits))


def strongest(weight: Tensor, fan_in: int) -> Tensor:
    """For each output, which `fan_in` of its inputs have the largest absolute weight: bool, the weight's shape.

    Raises:
        SpikeSepError: no input is left.
    """
    if fan_in < 1:
        raise SpikeSepError(
            "convert.fan_in: smaller than the pooling before a layer; take a larger limit"
        )
    flat = weight.abs().flatten(1)
    chosen = flat.topk(min(fan_in, flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(weight)


def grid_scale(values: Tensor, bits: int) -> Tensor:
    """Scale of the symmetric grid of `bits` bits that is nearest to the values in the mean square; it may clip some."""
    top = float(values.abs().max())
    if top == 0:
        return torch.ones((), dtype=values.dtype, device=values.device)
    levels = 2 ** (bits - 1) - 1
    scales = [top / levels * (k + 1) / CANDIDATES for k in range(CANDIDATES // 4 - 1, CANDIDATES)]
    errors = [
        float((on_grid(values, torch.tensor(scale), bits) - values).square().sum())
        for scale in scales
    ]
    return torch.tensor(
        scales[min(range(len(scales)), key=errors.__getitem__)], dtype=values.dtype
    ).to(values.device)


def on_grid(values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The nearest points scale * k of the grid, k = -(2^(bits - 1) - 1) .. 2^(bits - 1) - 1."""
    levels = 2 ** (bits - 1) - 1
    return (values / scale).round().clamp(-levels, levels) * scale
