"""Hardware limits on a layer's synapses (section 4.3 and Fig. 3): few bits per weight, few inputs
per neuron.

The analog twin keeps full-precision weights and learns; the neurons get copies that the hardware
can hold. The grid is symmetric and explicit: weight = weight_scale * k with an integer |k| <=
2^(bits - 1) - 1, and the bias likewise with its own scale. Each layer has one scale of each, stored
as tensors of the model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.signal import straight_through
from spikesep.spiking.synapses.modules import Synapse

CANDIDATES = 64
"""Number of scales tried for a grid, from a quarter of the weights' range to all of it."""


@dataclass(frozen=True)
class HardwareLimits:
    """Limits that hold for each layer.

    Attributes:
        weight_bits: bits of weights and biases; 0 for float32.
        fan_in: largest number of inputs of a neuron; 0 for no limit.
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
    """Turns full-precision weights into weights that the hardware can hold.

    The inputs to keep and the scales are chosen at construction and stay fixed while the weights
    learn. Tensors: `kept` (bool, the shape of the weight; with a fan-in limit), `weight_scale` and
    `bias_scale` (scalars; with few bits).

    Args:
        limits: the limits.
        weight: [C_out, C_in, ...] of the synapse.
        bias: [C_out].
        n_pooled: inputs that each weight serves behind average pooling.
        kept: the inputs to keep; None for the strongest.

    Raises:
        SpikeSepError: the fan-in is too small for the pooling.
    """

    kept: Tensor | None
    weight_scale: Tensor
    bias_scale: Tensor

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
        self.register_buffer("kept", None)
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
        """The full-precision weight with zeros for pruned inputs."""
        return weight if self.kept is None else weight * self.kept

    def forward(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of the neurons; gradients pass to the full-precision weights that are
        kept.
        """
        weight, bits = self.pruned(weight), self.limits.weight_bits
        if not bits:
            return weight, bias
        return (
            straight_through(on_grid(weight.detach(), self.weight_scale, bits), weight),
            straight_through(on_grid(bias.detach(), self.bias_scale, bits), bias),
        )

    def apply_to(self, synapse: Synapse) -> None:
        """Replace the full-precision weight and bias by the limited ones."""
        with torch.no_grad():
            weight, bits = self.pruned(synapse.weight), self.limits.weight_bits
            synapse.weight.copy_(on_grid(weight, self.weight_scale, bits) if bits else weight)
            if bits and synapse.bias is not None:
                synapse.bias.copy_(on_grid(synapse.bias, self.bias_scale, bits))


def strongest(weight: Tensor, fan_in: int) -> Tensor:
    """The `fan_in` inputs of each output with the largest absolute weight: bool, the weight's
    shape.

    Raises:
        SpikeSepError: no input is left.
    """
    if fan_in < 1:
        raise SpikeSepError(
            "convert.fan_in: smaller than the pooling before a layer; set a larger limit"
        )
    flat = weight.abs().flatten(1)
    chosen = flat.topk(min(fan_in, flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(weight)


def grid_scale(values: Tensor, bits: int) -> Tensor:
    """Scale of the symmetric grid with the least mean squared error; it may clip some values."""
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
    """Nearest points scale * k of the grid, with |k| <= 2^(bits - 1) - 1."""
    levels = 2 ** (bits - 1) - 1
    return (values / scale).round().clamp(-levels, levels) * scale
