"""NIR nodes for the synapses of a network and the maps before them.

NIR checks the types of a graph as if convolutions had one group and square kernels, and has no
pooling in one dimension. Groups are therefore written as one convolution with zeros between them,
kernels are made square with zeros, and `AvgPool1d` is written as a convolution. Nodes pad both
sides alike, so a causal kernel gets zeros for what follows.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.spiking.export.extras import require
from spikesep.spiking.network import NotConvertibleError
from spikesep.spiking.synapses.connectivity import Connectivity, Pooling
from spikesep.spiking.synapses.kinds import (
    ConvConnectivity,
    LinearConnectivity,
    TransposedConvConnectivity,
    connectivity_of,
)
from spikesep.spiking.synapses.table import Size

Named = list[tuple[str, Any]]
"""Nodes in order, each with the kind that its name begins with."""


def require_nodes(name: str, connectivity: Connectivity, shape: Size) -> None:
    """Check that NIR has nodes for a synapse and the map before it.

    Args:
        name: of the layer.
        connectivity: its synapse.
        shape: of its input, without the batch.

    Raises:
        NotConvertibleError: NIR has none; the message says what to take instead.
    """
    obstacle = connectivity.obstacle
    if isinstance(connectivity, TransposedConvConnectivity):
        obstacle = "NIR has no transposed convolution; upsample outside of the network"
    elif isinstance(connectivity, ConvConnectivity) and connectivity.padding_mode != "zeros":
        obstacle = f"NIR pads with zeros, not with padding_mode={connectivity.padding_mode!r}"
    elif _reads_vectors(connectivity) and len(shape) > 1:
        obstacle = f"NIR's Affine takes vectors, not {list(shape)}; take Conv1d with kernel 1"
    if obstacle:
        raise NotConvertibleError(f"layer {name}: {obstacle}")


def map_nodes(connectivity: Connectivity, shape: Size, sum_pooling: bool) -> tuple[Named, Size]:
    """The nodes of the map before a synapse, and the shape behind it.

    Raises:
        ValueError: the input does not fit.
    """
    nir, nodes = require("nir", "nir"), []
    for pooling in connectivity.pooling:
        nodes.append(("pool", _pool_node(pooling, shape, sum_pooling)))
        shape = pooling.output_shape(shape)
    if connectivity.flattens:
        flatten = nir.Flatten({"input": torch.tensor(shape).numpy()}, start_dim=0, end_dim=-1)
        nodes.append(("flatten", flatten))
        shape = (prod(shape),)
    return nodes, shape


def map_gain(connectivity: Connectivity, sum_pooling: bool) -> float:
    """Return the divisor of the weights behind a map: the size of windows that are only summed."""
    two_dims = [p.kernel_size for p in connectivity.pooling if len(p.kernel_size) == 2]
    return float(prod(map(prod, two_dims))) if sum_pooling else 1.0


def synapse_node(connectivity: Connectivity, weight: Tensor, bias: Tensor, shape: Size) -> Any:
    """The node of a synapse for inputs of a shape.

    Raises:
        ValueError: its kernel cannot be made square.
    """
    nir = require("nir", "nir")
    if not isinstance(connectivity, ConvConnectivity):
        return nir.Affine(weight=weight.numpy(), bias=bias.numpy())
    weight = ungrouped(weight, connectivity.groups)
    weight, margins = _centered(weight, connectivity)
    is_symmetric = all(before == behind for before, behind in margins)
    padding: Any = tuple(before for before, _ in margins) if is_symmetric else "same"
    sizes = {"stride": connectivity.stride, "dilation": connectivity.dilation}
    if len(connectivity.kernel_size) == 1:
        numbers = {name: size[0] for name, size in sizes.items()}
        padding = padding[0] if is_symmetric else padding
        return nir.Conv1d(
            shape[1], weight.numpy(), padding=padding, groups=1, bias=bias.numpy(), **numbers
        )
    if is_symmetric:
        weight, padding = _square(weight, padding, connectivity.dilation)
    return nir.Conv2d(
        shape[1:], weight.numpy(), padding=padding, groups=1, bias=bias.numpy(), **sizes
    )


def _centered(
    weight: Tensor, connectivity: ConvConnectivity
) -> tuple[Tensor, list[tuple[int, int]]]:
    """A kernel that pads on one side alone, as one with zeros behind it that pads on both."""
    margins = connectivity.margins
    if len(margins) != 1 or margins[0][1] or not margins[0][0]:
        return weight, margins
    ((before, _),) = margins
    return F.pad(weight, (0, before // connectivity.dilation[0])), [(before, before)]


def scale_node(factor: float, shape: Size) -> Any:
    """A node that multiplies a signal of a shape: a synapse, because few readers know `Scale`."""
    n, ones = shape[0], (1,) * (len(shape) - 1)
    kind = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d}[len(ones)]
    weight = factor * torch.eye(n, dtype=torch.float64).view(n, n, *ones)
    sizes = connectivity_of(kind(n, n, *([ones] if ones else [])))
    node = synapse_node(sizes, weight, torch.zeros(n, dtype=torch.float64), shape)
    node.metadata["scale"] = factor
    return node


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """The weights of a grouped convolution as those of one without groups."""
    blocks = weight.unflatten(0, (groups, -1))
    dense = weight.new_zeros(groups, blocks.shape[1], groups, *weight.shape[1:])
    own = torch.arange(groups)
    dense[own, :, own] = blocks
    return dense.flatten(2, 3).flatten(0, 1)


def _reads_vectors(connectivity: Connectivity) -> bool:
    return isinstance(connectivity, LinearConnectivity) and not connectivity.flattens


def _pool_node(pooling: Pooling, shape: Size, sum_pooling: bool) -> Any:
    nir = require("nir", "nir")
    if len(pooling.kernel_size) == 2:
        kind = nir.SumPool2d if sum_pooling else nir.AvgPool2d
        sizes = (pooling.kernel_size, pooling.stride, pooling.padding)
        return kind(*(torch.tensor(size).numpy() for size in sizes))
    n_channels, (size,) = shape[0], pooling.kernel_size
    weight = torch.eye(n_channels, dtype=torch.float64)[..., None].repeat(1, 1, size) / size
    return nir.Conv1d(
        shape[1],
        weight.numpy(),
        stride=pooling.stride[0],
        padding=pooling.padding[0],
        dilation=1,
        groups=1,
        bias=torch.zeros(n_channels, dtype=torch.float64).numpy(),
        metadata={"averages": size},
    )


def _square(weight: Tensor, padding: Size, dilation: Size) -> tuple[Tensor, Size]:
    """A kernel [C_out, C_in, h, w] made square with zeros around it, and its padding."""
    size = max(weight.shape[2:])
    missing = [size - n for n in weight.shape[2:]]
    if any(n % 2 for n in missing):
        raise ValueError(
            f"NIR takes a kernel of {list(weight.shape[2:])} only if it can be made square by as "
            "many zeros on either side; take sizes that are both odd or both even"
        )
    rows, columns = (n // 2 for n in missing)
    wide = F.pad(weight, (columns, columns, rows, rows))
    more = (rows * dilation[0], columns * dilation[1])
    return wide, (padding[0] + more[0], padding[1] + more[1])
