"""Whether layers compute what they were made of, seen by running both on the same input."""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, reduce
from math import prod

import torch
from torch import Tensor, nn

from spikesep.spiking.connections import NO_OPS
from spikesep.spiking.conversion.sequential import NotConvertibleError
from spikesep.spiking.layer import SYNAPSES, Readout, SpikingLayer
from spikesep.spiking.signal import Signal

TOLERANCE = 1e-2
"""Largest difference, in largest outputs: far above rounding, far below another computation."""
LENGTHS = [2**k for k in range(5, 17)]
"""Sizes that are tried for an input without a size of its own."""
MOST_NUMBERS = 2**26
"""In the input or behind any layer of a probe."""

Part = SpikingLayer | Readout


def require_same(original: nn.Module, network: nn.Module, example: Tensor | None = None) -> None:
    """See that two networks compute the same, in inference.

    Args:
        original: what the user gave.
        network: a `SpikingNetwork` made of it, analog.
        example: an input, [batch, ...]; None has one made up that fits the layers.

    Raises:
        NotConvertibleError: they do not, or they cannot be run, or no input is found that fits.
    """
    weight = network.parts[0].synapse.weight
    if weight.is_meta:  # there are no numbers to compare
        return
    if example is None:
        noise = torch.Generator().manual_seed(0)
        example = torch.randn(1, *input_shape(network.parts), generator=noise)
    example = example.detach().to(weight)
    with inference(original, network), torch.autocast(example.device.type, enabled=False):
        try:
            expected = original(example.clone())
        except (RuntimeError, ValueError, TypeError) as error:
            raise NotConvertibleError(
                f"the network cannot be run on an input of {list(example.shape)}: {_line(error)}"
            ) from error
        found = network(example)
    if not _same(found, expected):
        raise NotConvertibleError(
            "the network computes something else than its modules one after the other; "
            "write all that it does as modules of one Sequential"
        )


def require_foldable(network: nn.Module, x: Tensor) -> None:
    """See that norms and residual paths can be folded into the weights: on real data, each analog
    layer computes the same with them folded.

    Args:
        network: a `SpikingNetwork`.
        x: its analog input, [batch, ...].

    Raises:
        NotConvertibleError: a layer does not; the message names it.
    """
    with inference(network):
        signal = Signal(x)
        for index, (name, layer) in enumerate(network.layers.items()):
            if layer.mode == "analog" and (layer.norm is not None or layer.residual):
                activation = layer.activation(signal.value)
                if not _same(torch.relu(layer.charge(signal)), activation):
                    raise NotConvertibleError(
                        f"layer {name}: {type(layer.norm or layer.synapse).__name__} cannot be "
                        f"folded into {type(layer.synapse).__name__} for inputs of "
                        f"{list(signal.shape)}: norms must be over the channels that it puts out"
                    )
            signal = network.propagate(signal, index, index + 1)


def input_shape(parts: list[Part]) -> tuple[int, ...]:
    """The shape of an input, without the batch, that passes through all parts.

    Images are as near to squares as the first Linear layer allows.

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
        "mend their sizes, or give an input: from_sequential(network, example)"
    )


@contextmanager
def inference(*networks: nn.Module) -> Iterator[None]:
    """Have networks in inference mode and without gradients, and then as they were."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        with torch.no_grad():
            for module, _ in modes:
                module.training = False
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _candidates(parts: list[Part]) -> Iterator[tuple[int, ...]]:
    synapse = parts[0].synapse
    if isinstance(synapse, nn.Linear):
        yield (synapse.in_features,)
        return
    n_dims, path, flattens, linear = synapse.weight.ndim - 2, [], False, None
    for module in _modules(parts):
        if isinstance(module, nn.Linear):
            linear = module
            break
        flattens = flattens or isinstance(module, nn.Flatten)
        path.append(module)
    if linear is None:
        yield from ((synapse.in_channels, *(n,) * n_dims) for n in LENGTHS)
        return
    convolutions = [module for module in path if isinstance(module, SYNAPSES)]
    wanted = [(*(1,) * (n_dims - 1), linear.in_features)]
    if flattens:
        wanted = _factors(linear.in_features // convolutions[-1].out_channels, n_dims)
    for places in wanted:
        yield (synapse.in_channels, *(_smallest(path, axis, n) for axis, n in enumerate(places)))


def _smallest(path: list[nn.Module], axis: int, wanted: int) -> int:
    """The smallest input along an axis of which at least `wanted` places are left at the end."""
    return bisect_left(
        range(LENGTHS[-1]), wanted, lo=1, key=lambda n: reduce(partial(_behind, axis), path, n)
    )


def _behind(axis: int, n: int, module: nn.Module) -> int:
    """How many places along an axis a convolution or pooling makes of n; 0 where it fits nowhere."""
    if n == 0 or not hasattr(module, "kernel_size"):
        return n
    kernel, stride = _along(module.kernel_size, axis), _along(module.stride, axis)
    span = _along(getattr(module, "dilation", 1), axis) * (kernel - 1)
    padding = {"same": span, "valid": 0}.get(module.padding)
    padding = 2 * _along(module.padding, axis) if padding is None else padding
    left = n + padding - span - 1
    if left < 0:
        return 0
    if getattr(module, "ceil_mode", False):  # no window begins in the padding behind
        places = -(-left // stride) + 1
        return places - ((places - 1) * stride >= n + padding // 2)
    return left // stride + 1


def _along(size: int | tuple[int, ...], axis: int) -> int:
    return size if isinstance(size, int) else size[axis]


def _shapes(parts: list[Part], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of an input and of what each module makes of it, without the batch.

    Raises:
        ValueError: one does not fit; the message says which.
    """
    shapes = [shape]
    for module in _modules(parts):
        kind = type(module).__name__
        if isinstance(module, nn.Flatten):
            shape = (prod(shape),)
        elif isinstance(module, nn.Linear):
            if shape[-1] != module.in_features:
                raise ValueError(f"{kind} of {module.in_features} inputs receives {shape[-1]}")
            shape = (*shape[:-1], module.out_features)
        else:
            n_dims = 2 if kind.endswith("2d") else 1
            channels = getattr(module, "in_channels", shape[0])
            if (len(shape), shape[0]) != (1 + n_dims, channels):
                raise ValueError(f"{kind} of {channels} channels receives {list(shape)}")
            places = [_behind(axis, n, module) for axis, n in enumerate(shape[1:])]
            if 0 in places:
                raise ValueError(f"{kind} is larger than the {list(shape)} that it receives")
            shape = (getattr(module, "out_channels", shape[0]), *places)
        shapes.append(shape)
    return shapes


def _modules(parts: list[Part]) -> Iterator[nn.Module]:
    """Synapses and the maps before them, in order, without what does nothing in inference."""
    for part in parts:
        yield from (module for module in part.before or () if not isinstance(module, NO_OPS))
        yield part.synapse


def _factors(n: int, n_dims: int) -> list[tuple[int, ...]]:
    """All ways to write n as a product of one or two numbers, the most alike first."""
    if n_dims == 1:
        return [(n,)]
    pairs = [(k, n // k) for k in range(1, n + 1) if n % k == 0]
    return sorted(pairs, key=lambda pair: abs(pair[0] - pair[1]))


def _same(found: Tensor, expected: Tensor) -> bool:
    if not isinstance(expected, Tensor) or found.shape != expected.shape:
        return False
    largest = float(expected.nan_to_num().abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0, atol=TOLERANCE * largest, equal_nan=True)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
