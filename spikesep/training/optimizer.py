"""The optimizers that the settings name."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def optimizer_of(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, fused: bool = False
) -> torch.optim.Optimizer:
    """`adam`, or `muon` for kernels and Adam for all else.

    Args:
        name: of these.
        parameters: all that learns.
        learning_rate: of Adam's scale.
        fused: one pass over the parameters, which Lightning refuses beside its clipping of gradients.
    """
    if name == "muon":
        return KernelMuon(parameters, learning_rate)
    return torch.optim.Adam(parameters, learning_rate, fused=fused)


class KernelMuon(torch.optim.Optimizer):
    """Muon for weights with inputs and outputs, convolutions among them; Adam for gains and biases.

    A kernel [out, in, taps...] is a matrix [out, in * taps] to Muon, which takes its gradient's momentum to the nearest
    orthogonal matrix. Steps are scaled to the size of Adam's, so that both take one learning rate (Liu et al., "Muon is
    scalable for LLM training", arXiv 2502.16982).

    Args:
        parameters: all that learns.
        learning_rate: of Adam's scale.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float):
        super().__init__(list(parameters), {"lr": learning_rate})
        learning = self.param_groups[0]["params"]
        self._kernels = [p for p in learning if p.ndim > 1 and min(p.shape[0], p[0].numel()) > 1]
        self._matrices = [p.detach().view(len(p), -1) for p in self._kernels]  # the same memory
        chosen = {id(p) for p in self._kernels}
        others = [p for p in learning if id(p) not in chosen]
        self._parts: list[torch.optim.Optimizer] = []
        if self._matrices:
            muon = torch.optim.Muon(self._matrices, learning_rate, weight_decay=0, adjust_lr_fn="match_rms_adamw")
            self._parts.append(muon)
        if others:
            self._parts.append(torch.optim.Adam(others, learning_rate, fused=True))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of each at the learning rate of `param_groups`; returns what the closure does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for matrix, kernel in zip(self._matrices, self._kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)
        for part in self._parts:
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Of both."""
        return super().state_dict() | {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up."""
        state = dict(state_dict)
        parts = state.pop("parts")
        super().load_state_dict(state)
        for part, its in zip(self._parts, parts, strict=True):
            part.load_state_dict(its)
