"""Search for an input shape that passes through all layers of a network."""

from bisect import bisect_left
from collections.abc import Iterator
from functools import partial, reduce
from math import prod

from torch import nn

from spikesep.spiking.network import NotConvertibleError
from spikesep.spiking.synapses.connectivity import Connectivity
from spikesep.spiking.synapses.kinds import NO_OPS, ConvConnectivity, LinearConnectivity
from spikesep.spiking.synapses.table import Size
from spikesep.spiking.synaptic import Synaptic

LENGTHS = [2**k for k in range(5, 17)]
"""Sizes tried for an input of free size."""
MOST_NUMBERS = 2**26
"""Largest number of elements of the input or of a layer's output."""

Step = nn.Module | Connectivity
"""A map before a synapse, or a synapse."""


def input_shape(parts: list[Synaptic]) -> Size:
    """The shape of an input, without the batch, that passes through all parts.

    Images are as close to squares as the first Linear layer allows.

    Raises:
        NotConvertibleError: none is found.
    """
    reason = "none"
    for shape in _candidates(parts):
        try:
            if max(map(prod, _shapes(parts, shape))) <= MOST_NUMBERS:
                return shape
            reason = "it would be too large to try"
        except ValueError as error:
            reason = str(error)
    raise NotConvertibleError(
        f"no input is found that passes through all layers ({reason}); "
        "mend their sizes, or give an input: from_module(network, example)"
    )


def _candidates(parts: list[Synaptic]) -> Iterator[Size]:
    first = parts[0].connectivity
    if not isinstance(first, ConvConnectivity):
        yield (first.in_channels,)
        return
    n_dims, path, linear = len(first.kernel_size), [], None
    for step in _steps(parts):
        if isinstance(step, LinearConnectivity):
            linear = step
            break
        path.append(step)
    if linear is None:
        yield from ((first.in_channels, *(n,) * n_dims) for n in LENGTHS)
        return
    sizes: list[Size] = [(*(1,) * (n_dims - 1), linear.in_channels)]
    if any(isinstance(step, nn.Flatten) for step in path):
        last = [step for step in path if isinstance(step, ConvConnectivity)][-1]
        sizes = _factors(linear.in_channels // last.out_channels, n_dims)
    for wanted in sizes:
        yield (first.in_channels, *(_smallest(path, axis, n) for axis, n in enumerate(wanted)))


def _smallest(path: list[Step], axis: int, wanted: int) -> int:
    """The smallest size along an axis that leaves at least `wanted` positions at the end."""
    return bisect_left(
        range(LENGTHS[-1]), wanted, lo=1, key=lambda n: reduce(partial(_resized, axis), path, n)
    )


def _resized(axis: int, n: int, step: Step) -> int:
    """Size along an axis behind a convolution or pooling; 0 where its window does not fit."""
    if isinstance(step, ConvConnectivity):
        return step.output_size(axis, n) if n else 0
    if n == 0 or not isinstance(step, (nn.AvgPool1d, nn.AvgPool2d)):
        return n
    kernel, stride, padding = (
        _along(size, axis) for size in (step.kernel_size, step.stride, step.padding)
    )
    left = n + 2 * padding - kernel
    if left < 0:
        return 0
    if step.ceil_mode:  # no window starts in the padding behind
        n_windows = -(-left // stride) + 1
        return n_windows - ((n_windows - 1) * stride >= n + padding)
    return left // stride + 1


def _along(size: int | Size, axis: int) -> int:
    return size if isinstance(size, int) else size[axis]


def _shapes(parts: list[Synaptic], shape: Size) -> list[Size]:
    """The shapes of an input and of each step's output, without the batch.

    Raises:
        ValueError: one does not fit; the message says which.
    """
    shapes = [shape]
    for step in _steps(parts):
        if isinstance(step, Connectivity):
            shape = step.output_shape(shape)
        elif isinstance(step, nn.Flatten):
            shape = (prod(shape),)
        else:
            kind = type(step).__name__
            if len(shape) != (3 if kind.endswith("2d") else 2):
                raise ValueError(f"{kind} receives {list(shape)}")
            sizes = [_resized(axis, n, step) for axis, n in enumerate(shape[1:])]
            if 0 in sizes:
                raise ValueError(f"{kind} is larger than the {list(shape)} that it receives")
            shape = (shape[0], *sizes)
        shapes.append(shape)
    return shapes


def _steps(parts: list[Synaptic]) -> Iterator[Step]:
    """Synapses and the maps before them, in order, without modules that do nothing."""
    for part in parts:
        maps = part.before if isinstance(part.before, nn.Sequential) else ()
        yield from (module for module in maps if not isinstance(module, NO_OPS))
        yield part.connectivity


def _factors(n: int, n_dims: int) -> list[Size]:
    """All ways to write n as a product of one or two numbers, the most alike first."""
    if n_dims == 1:
        return [(n,)]
    pairs = [(k, n // k) for k in range(1, n + 1) if n % k == 0]
    return sorted(pairs, key=lambda pair: abs(pair[0] - pair[1]))
