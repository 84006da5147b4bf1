"""An activation that takes the values of spike counts, with a step that is learned.

Neurons with the step as their threshold, and an initial potential of the shift, put out the same
values (eq. 10), so that conversion adds no error of rounding or clipping.
"""

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Kind = Literal["qcfs", "lsq"]
"""What is learned: the upper bound, N_s steps (Bu et al., "Optimal ANN-SNN conversion for
high-accuracy and ultra-low-latency spiking neural networks", ICLR 2022); or the step, by a gradient
that is scaled down by the number of neurons and levels (Esser et al., "Learned step size
quantization", ICLR 2020)."""
LEAST_STEP = 1e-6


class Levels(nn.Module):
    """Clips and rounds to N_s + 1 levels: step * clip(floor(x / step + shift), 0, N_s).

    The gradient of rounding is that of the identity: inside the bounds 1 for x, and for the step
    its rounding error; above them 0 for x, and N_s for the step.

    Args:
        n_steps: N_s.
        kind: see `Kind`.
        n_channels: number of steps, one per channel; 1 for a step of all neurons.
        shift: initial potential of the neurons in thresholds; one half rounds to nearest.
        channels_last: whether inputs are [batch, ..., C] rather than [batch, C, ...].

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        n_steps: int,
        kind: Kind = "qcfs",
        n_channels: int = 1,
        shift: float = 0.5,
        *,
        channels_last: bool = False,
    ):
        super().__init__()
        if n_steps < 1 or n_channels < 1 or not 0 <= shift < 1 or kind not in ("qcfs", "lsq"):
            raise ValueError(
                f"levels need n_steps and n_channels from 1 on, a shift in [0, 1) and the kind "
                f"qcfs or lsq, not {n_steps}, {n_channels}, {shift}, {kind}"
            )
        self.n_steps, self.kind, self.shift = n_steps, kind, shift
        self.channels_last = channels_last
        self.learned = nn.Parameter(torch.ones(n_channels))

    @property
    def step(self) -> Tensor:
        """Distance of the levels, [1] or [C]; the threshold of the neurons."""
        size = self.learned.abs().clamp_min(LEAST_STEP)
        return size / self.n_steps if self.kind == "qcfs" else size

    def set_step(self, step: float | Tensor) -> None:
        """Set the step of all neurons, or of each channel, [C]."""
        with torch.no_grad():
            self.learned.copy_(torch.as_tensor(step) * (self.n_steps if self.kind == "qcfs" else 1))

    def forward(self, x: Tensor) -> Tensor:
        """Levels of potentials, [batch, ...]."""
        return self.rounded(torch.relu(x))

    def rounded(self, activation: Tensor) -> Tensor:
        """Levels of activations, none of which is negative, [batch, ...]."""
        step, share = self.step, 1.0
        if self.kind == "lsq":
            n_neurons = activation.shape[1:].numel() / len(step)
            share /= math.sqrt(n_neurons * self.n_steps)
        if not self.channels_last:
            step = step.view(-1, *[1] * (activation.ndim - 2))
        return cast(Tensor, _Round.apply(activation, step, self.n_steps, self.shift, share))

    def settings(self) -> dict[str, Any]:
        """Plain values for JSON, equal in all layers of a network that learned with one config."""
        per = "layer" if len(self.learned) == 1 else "channel"
        return {"n_steps": self.n_steps, "kind": self.kind, "per": per, "shift": self.shift}

    def extra_repr(self) -> str:
        """The settings."""
        return ", ".join(f"{name}={value}" for name, value in self.settings().items())


class _Round(torch.autograd.Function):
    """Rounding of activations with the gradients of `Levels`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, n_steps: int, shift: float, share: float):
        ratio = x / step
        count = (ratio + shift).floor_().clamp_(max=n_steps)
        inside = ratio < n_steps
        ctx.save_for_backward(inside, torch.where(inside, ratio.neg_().add_(count), count))
        ctx.share, ctx.of_step = share, step.shape
        return (count * step).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        inside, slope = ctx.saved_tensors
        (gradient,) = gradients
        if max(ctx.of_step) == 1:
            of_step = torch.dot(gradient.to(slope).flatten(), slope.flatten()).view(ctx.of_step)
        else:
            of_step = (gradient * slope).sum_to_size(ctx.of_step)
        return gradient * inside, of_step * ctx.share, None, None, None
