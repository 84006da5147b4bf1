"""Maps whose form depends on their arguments: moves of activations, and adaptive pooling."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.spiking.from_torch.modules import MOVES, refusal
from spikesep.spiking.wiring.maps import Rearrangement


class Move(nn.Module):
    """A function that moves activations, as a module.

    Args:
        rearrangement: the function.
    """

    def __init__(self, rearrangement: Rearrangement):
        super().__init__()
        self.rearrangement = rearrangement


def move_of(path: str, module: nn.Module) -> Rearrangement | None:
    """The map of a module; None if it does not move activations.

    Raises:
        NotConvertibleError: it computes new values.
    """
    if isinstance(module, Move):
        return module.rearrangement
    if not isinstance(module, MOVES):
        return None
    if isinstance(module, nn.Upsample):
        if module.mode != "nearest" or module.scale_factor is None:
            why = "only mode='nearest' with a whole scale_factor converts"
            raise refusal(path, module, f"{why}; use that, or a transposed convolution")
        return upsampling(path, module, module.scale_factor)
    if getattr(module, "value", 0) != 0:
        raise refusal(path, module, "only padding with zeros converts; use value=0")
    return Rearrangement(_moved, type(module).__name__, module=module)


def upsampling(path: str, module: object, factor: float | tuple[float, ...]) -> Rearrangement:
    """Nearest-neighbor upsampling by a whole factor.

    Raises:
        NotConvertibleError: the factor is not whole.
    """
    factors = factor if isinstance(factor, (tuple, list)) else (factor,)
    if any(f != int(f) for f in factors):
        raise refusal(path, module, f"its scale_factor {factor} is not whole; use a whole number")
    return Rearrangement(_repeated, "Upsample", factors=tuple(int(f) for f in factors))


def _repeated(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    n_dims = x.ndim - 2
    for axis, factor in enumerate(factors if len(factors) == n_dims else factors * n_dims):
        x = x.repeat_interleave(factor, 2 + axis)
    return x


def _moved(x: Tensor, module: nn.Module) -> Tensor:
    """What a module makes of numbers of any format, of which those of spikes are small."""
    return module(x) if x.is_floating_point() else module(x.float()).to(x.dtype)


def padded(x: Tensor, pad: tuple[int, ...]) -> Tensor:
    """`x` with zeros around, or fewer elements where a number is negative."""
    return F.pad(x, pad)


def reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Each example of `x` in another shape."""
    return x.reshape(len(x), *shape)


def taken(x: Tensor, index: tuple) -> Tensor:
    """Elements of `x` at an index; the same for all examples."""
    return x[index]


def chunk(x: Tensor, number: int, chunks: int, dim: int) -> Tensor:
    """One of several equal parts of `x`."""
    return torch.chunk(x, chunks, dim)[number]


PLAIN = {
    nn.AdaptiveAvgPool1d: nn.AvgPool1d,
    nn.AdaptiveAvgPool2d: nn.AvgPool2d,
    nn.AdaptiveMaxPool1d: nn.MaxPool1d,
    nn.AdaptiveMaxPool2d: nn.MaxPool2d,
}


def fixed_window(path: str, module: nn.Module, shape: tuple[int, ...] | None) -> nn.Module:
    """The pooling that an adaptive one is for inputs [batch, C, ...] of a shape.

    Raises:
        NotConvertibleError: windows differ in size, or the shape is not known.
    """
    if shape is None:
        why = "its window depends on the input; give an example: from_module(network, example)"
        raise refusal(path, module, why)
    kind = next(plain for adaptive, plain in PLAIN.items() if isinstance(module, adaptive))
    given: Any = module.output_size
    wanted = given if isinstance(given, (tuple, list)) else (given,) * (len(shape) - 2)
    pairs = list(zip(shape[2:], wanted, strict=True))
    pairs = [(n, n if size is None else size) for n, size in pairs]
    if any(n % size for n, size in pairs):
        sizes = " x ".join(f"{n} to {size}" for n, size in pairs)
        raise refusal(path, module, f"its windows differ in size ({sizes}); use {kind.__name__}")
    window = tuple(n // size for n, size in pairs)
    return nn.Identity() if set(window) == {1} else kind(window)
