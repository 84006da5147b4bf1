"""Architectures of the image tasks, in a notation close to the paper's (section 5.1).

    28x28 or 3x32x32   input: height x width of one channel, or channels x height x width; one
                       number for a flat input
    c64s2              convolution with 64 filters, batch norm and ReLU; kernel size 3 unless
                       given, as in c64k11s4; stride 1 unless given; padding preserves the size
                       at stride 1
    p2                 average pooling of 2x2
    800                linear layer, batch norm and ReLU, after flattening
    the last part      linear readout, without norm and ReLU

Pooling uses averages and strides.
"""

import math
import re

from torch import nn

from spikesep.checks import brief
from spikesep.errors import SpikeSepError

ARCHITECTURES = {
    "mnist-cnn": "28x28-c16s1-c32s2-c32s1-c64s2-800-10",  # paper, section 5.1
    "autoencoder": "784-128-64-32-64-128-784",  # paper, section 6.3
    # The paper names these two alone; widths and strides are those of its authors' release,
    # https://github.com/deepspike/progressive_tandem_learning.
    "cifar10-alexnet": "3x32x32-c96-c256s2-c384s2-c384-c256s2-2048-10",
    "vgg11": "3x32x32-c64-c128s2-c256-c256s2-c512-c512s2-c512-c512s2-4096-4096-10",
    # Fig. 4 has three more. VGG-9 as in Lee et al. (the paper's [44]), VGG-13 and VGG-16 as in
    # Simonyan and Zisserman ([41]); the last convolution of a block has stride 2 in place of max
    # pooling, as in the release's VGG-11.
    "vgg9": "3x32x32-c64-c64s2-c128-c128s2-c256-c256-c256s2-1024-10",
    "vgg13": ("3x32x32-c64-c64s2-c128-c128s2-c256-c256s2-c512-c512s2-c512-c512s2-4096-4096-10"),
    "vgg16": (
        "3x32x32-c64-c64s2-c128-c128s2-c256-c256-c256s2-c512-c512-c512s2-c512-c512-c512s2"
        "-4096-4096-10"
    ),
    "imagenet-alexnet": "3x224x224-c64k11s4-p2-c192k5-p2-c384-c256-c256-p2-4096-4096-1000",
    "imagenet-vgg16": (
        "3x224x224-c64-c64-p2-c128-c128-p2-c256-c256-c256-p2-c512-c512-c512-p2-c512-c512-c512-p2"
        "-4096-4096-1000"
    ),
}

MOST_LAYERS = 1_000
LARGEST = 2**24
"""Limit of each number in the notation, and of the size of an input."""

_INPUT = re.compile(r"(\d+x)?\d+x\d+|\d+")
_CONVOLUTION = re.compile(r"c(?P<filters>\d+)(k(?P<kernel>\d+))?(s(?P<stride>\d+))?")
_POOLING = re.compile(r"p(?P<size>\d+)")


def build(name: str) -> nn.Sequential:
    """Return the named or described architecture, with random weights.

    Raises:
        SpikeSepError: `name` is neither a name nor in the notation.
    """
    shape, parts = input_shape(name), ARCHITECTURES.get(name, name).split("-")[1:]
    modules: list[nn.Module] = []
    for k, part in enumerate(parts):
        if len(shape) == 3 and (match := _CONVOLUTION.fullmatch(part)):
            sizes = {key: int(size) for key, size in match.groupdict().items() if size}
            shape = _add_convolution(modules, shape, **sizes)
        elif len(shape) == 3 and (match := _POOLING.fullmatch(part)):
            size = int(match["size"])
            modules.append(nn.AvgPool2d(size))
            shape = (shape[0], shape[1] // size, shape[2] // size)
        elif part.isdecimal():
            shape = _add_linear(modules, shape, int(part), last=k == len(parts) - 1)
        else:
            raise SpikeSepError(
                f"architecture {name}: '{part}' is not a layer, or is in the wrong place"
            )
        if min(shape) < 1:
            raise SpikeSepError(f"architecture {name}: nothing is left of the image at '{part}'")
    return nn.Sequential(*modules)


def input_shape(name: str) -> tuple[int, ...]:
    """Return channels, height and width of the input, or the length of a flat one.

    Raises:
        SpikeSepError: `name` is neither a name nor in the notation.
    """
    first, *parts = ARCHITECTURES.get(name, name).split("-")
    _check_sizes(name, [first, *parts])
    if not _INPUT.fullmatch(first) or not parts or not parts[-1].isdecimal():
        raise SpikeSepError(
            f"architecture {name}: neither one of {', '.join(ARCHITECTURES)} nor in their notation"
        )
    sizes = tuple(int(n) for n in first.split("x"))
    if math.prod(sizes) > LARGEST:
        raise SpikeSepError(
            f"architecture {brief(name)}: inputs of {first} are too large; give at most "
            f"{LARGEST:,} numbers"
        )
    return (1, *sizes) if len(sizes) == 2 else sizes


def _check_sizes(name: str, parts: list[str]) -> None:
    """Check numbers and length of a description before anything is built."""
    numbers = re.findall(r"\d+", name) if len(parts) <= MOST_LAYERS else []
    if len(parts) > MOST_LAYERS or any(len(n) > 9 or not 0 < int(n) <= LARGEST for n in numbers):
        raise SpikeSepError(
            f"architecture {brief(name)}: must have at most {MOST_LAYERS:,} layers, of sizes from "
            f"1 to {LARGEST:,}"
        )


def short_name(name: str) -> str:
    """Return the name of a known architecture, otherwise its number of layers with weights."""
    n_layers = sum(not _POOLING.fullmatch(part) for part in name.split("-")[1:])
    return name if name in ARCHITECTURES else f"{n_layers} layers"


def _add_convolution(
    modules: list[nn.Module], shape: tuple[int, ...], filters: int, kernel: int = 3, stride: int = 1
) -> tuple[int, ...]:
    """Append convolution, norm and ReLU to `modules`; return the output shape."""
    convolution = nn.Conv2d(shape[0], filters, kernel, stride, kernel // 2, bias=False)
    modules += [convolution, nn.BatchNorm2d(filters), nn.ReLU()]
    return (filters, *((n + 2 * (kernel // 2) - kernel) // stride + 1 for n in shape[1:]))


def _add_linear(
    modules: list[nn.Module], shape: tuple[int, ...], width: int, last: bool
) -> tuple[int, ...]:
    """Append a linear layer, with norm and ReLU unless it is the last; return the output shape."""
    if len(shape) == 3:
        modules.append(nn.Flatten())
    linear = nn.Linear(math.prod(shape), width, bias=last)
    modules += [linear] if last else [linear, nn.BatchNorm1d(width), nn.ReLU()]
    return (width,)
