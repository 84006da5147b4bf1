"""Functions and methods of torch, each as the module or map that computes the same."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from spikesep.spiking.from_torch import moves
from spikesep.spiking.from_torch.moves import Move
from spikesep.spiking.wiring.maps import Rearrangement


def module_of(name: str, args: Sequence[Any], options: dict[str, Any]) -> nn.Module | None:
    """The module that computes a function of one activation; None if there is none.

    Args:
        name: of the function or method.
        args: positional arguments behind the activation.
        options: keyword arguments.
    """
    make = _MAKERS.get(name.rstrip("_"))
    if make is None:
        return None
    try:
        return make(*args, **options)
    except (TypeError, ValueError, NotImplementedError):
        return None


def _pooling(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    def make(kernel_size, stride=None, *args, **options) -> nn.Module:
        return kind(kernel_size, stride or None, *args, **options)

    return make


def _clamp(min=None, max=None) -> nn.Module | None:
    if min != 0:
        return None
    return nn.ReLU() if max is None else nn.Hardtanh(0, max)


def _hardtanh(min_val=-1.0, max_val=1.0, inplace=False) -> nn.Module:
    return nn.Hardtanh(min_val, max_val)


def _flatten(start_dim=0, end_dim=-1) -> nn.Module | None:
    return nn.Flatten(start_dim, end_dim) if start_dim else None


def _view(*shape) -> nn.Module | None:
    """Flatten, or another shape of each example; the first size is that of the batch."""
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    batch, *others = sizes
    if len(others) == 1:
        return nn.Flatten()  # the check on an example finds a size that is not that of the rest
    if isinstance(batch, int) and batch != -1:
        return None
    if not all(isinstance(size, int) for size in others):
        return None
    return Move(Rearrangement(moves.reshaped, "reshape", shape=tuple(others)))


def _pad(pad, mode="constant", value=None) -> nn.Module | None:
    if mode != "constant" or value:
        return None
    return Move(Rearrangement(moves.padded, "pad", pad=tuple(pad)))


def _interpolate(size=None, scale_factor=None, mode="nearest", **options) -> nn.Module | None:
    if size is not None or mode != "nearest" or scale_factor is None:
        return None
    return nn.Upsample(scale_factor=scale_factor)


def _unsqueeze(dim) -> nn.Module | None:
    if dim == 0:
        return None
    return Move(Rearrangement(torch.unsqueeze, "unsqueeze", dim=dim))


def _squeeze(dim=None) -> nn.Module | None:
    if dim is None or dim == 0:
        return None
    return Move(Rearrangement(torch.squeeze, "squeeze", dim=dim))


def _transpose(dim0, dim1) -> nn.Module | None:
    if 0 in (dim0, dim1):
        return None
    return Move(Rearrangement(torch.transpose, "transpose", dim0=dim0, dim1=dim1))


def _permute(*dims) -> nn.Module | None:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    if order[0] != 0:
        return None
    return Move(Rearrangement(torch.permute, "permute", dims=tuple(order)))


def _getitem(index) -> nn.Module | None:
    parts = index if isinstance(index, tuple) else (index,)
    if parts[0] not in (slice(None), Ellipsis):
        return None
    if not all(isinstance(p, (slice, int, type(None), type(Ellipsis))) for p in parts):
        return None
    bounds = [b for p in parts if isinstance(p, slice) for b in (p.start, p.stop, p.step)]
    if not all(b is None or isinstance(b, int) for b in bounds):
        return None
    return Move(Rearrangement(moves.taken, "slice", index=tuple(parts)))


_MAKERS: dict[str, Callable[..., nn.Module | None]] = {
    "relu": lambda inplace=False: nn.ReLU(),
    "relu6": lambda inplace=False: nn.ReLU6(),
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda min: _clamp(min),
    "max_pool1d": _pooling(nn.MaxPool1d),
    "max_pool2d": _pooling(nn.MaxPool2d),
    "avg_pool1d": _pooling(nn.AvgPool1d),
    "avg_pool2d": _pooling(nn.AvgPool2d),
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "dropout": lambda p=0.5, training=True, inplace=False: nn.Dropout(p),
    "dropout1d": lambda p=0.5, training=True, inplace=False: nn.Dropout1d(p),
    "dropout2d": lambda p=0.5, training=True, inplace=False: nn.Dropout2d(p),
    "alpha_dropout": lambda p=0.5, training=True, inplace=False: nn.AlphaDropout(p),
    "contiguous": lambda **options: nn.Identity(),
    "flatten": _flatten,
    "view": _view,
    "reshape": _view,
    "unflatten": lambda dim, sizes: nn.Unflatten(dim, sizes) if dim else None,
    "pad": _pad,
    "interpolate": _interpolate,
    "upsample": _interpolate,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "permute": _permute,
    "getitem": _getitem,
    "pixel_shuffle": nn.PixelShuffle,
    "pixel_unshuffle": nn.PixelUnshuffle,
    "channel_shuffle": nn.ChannelShuffle,
}
"""The module of each function, made from its arguments behind the activation."""
ADDITIONS = {"add", "iadd", "sum"}
CONCATENATIONS = {"cat", "concat", "concatenate"}
