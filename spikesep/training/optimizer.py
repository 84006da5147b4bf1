"""Optimizers that can be selected in the settings."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from spikesep.training.precision import supports_bf16

MAX_GRADIENT_NORM = 5.0
"""Norm to which gradients are clipped in pre-training and conversion."""
SGD_MOMENTUM = 0.9
MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, chosen for the steepest slope at zero at which all
singular values still end near one."""
N_ITERATIONS = 5
LEAST_NORM = 1e-7


def optimizer_of(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Return the optimizer `adam`, `sgd`, or `muon`, which uses Adam for all but weight matrices.

    Args:
        name: name of the optimizer.
        parameters: parameters to optimize.
        learning_rate: learning rate; for `muon` on Adam's scale.
        weight_decay: L2 penalty of `adam` and `sgd` on parameters of two dimensions or more.
    """
    if name == "muon":
        return KernelMuon(parameters, learning_rate)
    groups: list[Any] = list(parameters)
    if weight_decay:
        groups = [
            {"params": [p for p in groups if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in groups if p.ndim <= 1]},
        ]
    if name == "sgd":
        return torch.optim.SGD(groups, learning_rate, SGD_MOMENTUM, nesterov=True)
    return torch.optim.Adam(groups, learning_rate)


class KernelMuon(torch.optim.Optimizer):
    """Muon for weight matrices and convolution kernels, Adam for gains and biases.

    Args:
        parameters: parameters to optimize.
        learning_rate: learning rate on Adam's scale.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float):
        super().__init__(list(parameters), {"lr": learning_rate})
        learning = self.param_groups[0]["params"]
        kernels = [p for p in learning if p.ndim > 1 and min(p.shape[0], p[0].numel()) > 1]
        chosen = {id(p) for p in kernels}
        others = [p for p in learning if id(p) not in chosen]
        self._parts: list[torch.optim.Optimizer] = []
        if kernels:
            self._parts.append(Muon(kernels, learning_rate))
        if others:
            self._parts.append(torch.optim.Adam(others, learning_rate, fused=True))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Step both optimizers at the rate of `param_groups`; return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers."""
        return super().state_dict() | {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of both optimizers."""
        state = dict(state_dict)
        parts = state.pop("parts")
        super().load_state_dict(state)
        for part, part_state in zip(self._parts, parts, strict=True):
            part.load_state_dict(part_state)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalized updates, for kernels [out, in, taps...].

    The equivalent of `torch.optim.Muon` without weight decay, for kernels flattened to [out, in *
    taps]. Updates are scaled to the size of Adam's, so that both use one learning rate (Liu et al.,
    "Muon is scalable for LLM training", arXiv 2502.16982). Torch always iterates in bf16; this
    class uses float32 on devices that only emulate bf16. The state is that of `torch.optim.Muon`.

    Args:
        kernels: parameters of two dimensions or more.
        learning_rate: learning rate on Adam's scale.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], learning_rate: float):
        super().__init__(kernels, {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all kernels."""
        for kernel in self.param_groups[0]["params"]:
            if kernel.grad is None:
                continue
            gradient = kernel.grad.flatten(1)
            state = self.state[kernel]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
            dtype = torch.bfloat16 if supports_bf16(kernel.device) else torch.float32
            update = orthogonalized(gradient.lerp(momentum, MOMENTUM), dtype)
            scale = 0.2 * max(update.shape) ** 0.5
            kernel.add_(update.view(kernel.shape), alpha=-self.param_groups[0]["lr"] * scale)


def orthogonalized(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an approximation of the nearest orthogonal matrix, by Newton-Schulz iteration.

    The singular values of the result are between about 0.7 and 1.2.

    Args:
        matrix: [rows, columns].
        dtype: dtype of the iteration and the result.

    Returns:
        [rows, columns].
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=LEAST_NORM)
    for _ in range(N_ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T.contiguous() if tall else x
