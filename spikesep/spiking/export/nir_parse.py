"""The structure of a NIR graph: neurons, and the synapses and maps that reach them."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikesep.spiking.export.nir_out import NEURONS
from spikesep.spiking.export.nir_run import in_order
from spikesep.spiking.network import NotConvertibleError

SYNAPSES = ("Affine", "Linear", "Conv1d", "Conv2d")
MAPS = ("AvgPool2d", "SumPool2d", "Flatten")
ENDS = (*NEURONS, "Output")
FILTERS = ("CubaLIF", "LI", "CubaLI")


@dataclass(frozen=True)
class End:
    """Neurons or the output, the synapse that reaches them, and the maps before it.

    Attributes:
        name: node of the neurons or the output.
        synapse: a module that holds the sizes of the synapse.
        weight: current in a step for each unit that arrives, float64.
        bias: current in every step, [C_out], float64.
        before: the maps, or None.
        sources: what a spike of each source arrives as, by node of neurons or the input.
    """

    name: str
    synapse: nn.Linear | nn.Conv1d | nn.Conv2d
    weight: Tensor
    bias: Tensor
    before: nn.Sequential | None
    sources: dict[str, float]


def ends_of(graph: Any) -> list[End]:
    """The neurons of a graph in order, then its output.

    Raises:
        NotConvertibleError: the core has no counterpart for a node or its place.
        SpikeSepError: the graph has a cycle, or not one input and one output.
    """
    before = in_order(graph)
    _require_known(graph)
    return [_end(graph, before, name) for name in before if kind_of(graph, name) in ENDS]


def kind_of(graph: Any, name: str) -> str:
    """The kind of a node, as NIR names it."""
    return type(graph.nodes[name]).__name__


def refusal(graph: Any, name: str, why: str) -> NotConvertibleError:
    """The error that names a node."""
    return NotConvertibleError(f"node {name} ({kind_of(graph, name)}): {why}")


def _require_known(graph: Any) -> None:
    for name in graph.nodes:
        kind = kind_of(graph, name)
        if kind in FILTERS:
            why = "filters its input or does not fire; the core simulates IF and LIF"
            raise refusal(graph, name, why)
        if kind not in ("Input", *ENDS, *SYNAPSES, *MAPS):
            known = ", ".join((*NEURONS, *SYNAPSES, *MAPS))
            raise refusal(graph, name, f"has no counterpart; the core reads {known}")


def _end(graph: Any, before: dict[str, list[str]], name: str) -> End:
    kinds = {kind_of(graph, source) for source in before[name]}
    if kinds and kinds <= set(NEURONS) and kind_of(graph, name) == "Output":
        return _counting_end(graph, name, before[name])
    if len(before[name]) != 1 or not kinds <= set(SYNAPSES):
        why = "must read one synapse (Affine, Linear, Conv1d or Conv2d) and nothing else"
        raise refusal(graph, name, why)
    (synapse,) = before[name]
    maps: list[nn.Module] = []
    gain, sources = 1.0, before[synapse]
    while len(sources) == 1 and _is_map(graph, sources[0]):
        node = graph.nodes[sources[0]]
        maps.insert(0, _map(node))
        gain *= prod(_sizes(node.kernel_size)) if kind_of(graph, sources[0]) == "SumPool2d" else 1
        sources = before[sources[0]]
    if not sources:
        raise refusal(graph, synapse, "reads nothing")
    node = graph.nodes[synapse]
    weight = torch.as_tensor(np.asarray(node.weight), dtype=torch.float64)
    bias = torch.as_tensor(np.asarray(getattr(node, "bias", np.zeros(len(weight)))))
    return End(
        name,
        _synapse(node),
        gain * weight,
        bias.double(),
        nn.Sequential(*maps) if maps else None,
        dict(_source(graph, before, source, synapse) for source in sources),
    )


def _source(graph: Any, before: dict[str, list[str]], name: str, synapse: str) -> tuple[str, float]:
    """The neurons or input that a synapse reads, and what one of their spikes arrives as."""
    scale = graph.nodes[name].metadata.get("scale")
    if scale is not None:
        name = before[name][0]
    if kind_of(graph, name) not in ("Input", *NEURONS):
        raise refusal(graph, name, f"stands before {synapse} without neurons (IF, LIF) between")
    return name, 1.0 if scale is None else float(scale)


def _counting_end(graph: Any, name: str, sources: list[str]) -> End:
    """A readout that counts the spikes of the last neurons."""
    shape = graph.nodes[sources[0]].v_threshold.shape
    kinds = {1: nn.Linear, 2: nn.Conv1d, 3: nn.Conv2d}
    if len(shape) not in kinds:
        why = f"reads neurons of shape {list(shape)}; the core takes vectors, signals and images"
        raise refusal(graph, name, why)
    n, ones = shape[0], (1,) * (len(shape) - 1)
    synapse = kinds[len(shape)](n, n, *([ones] if ones else []))
    weight = torch.eye(n, dtype=torch.float64).view(n, n, *ones)
    return End(name, synapse, weight, 0 * weight[0].flatten(), None, dict.fromkeys(sources, 1.0))


def _is_map(graph: Any, name: str) -> bool:
    return kind_of(graph, name) in MAPS or "averages" in graph.nodes[name].metadata


def _map(node: Any) -> nn.Module:
    if type(node).__name__ == "Flatten":
        shape = (node.input_type or {}).get("input")
        begin, end = int(node.start_dim), int(node.end_dim)
        end = -1 if shape is not None and end == len(shape) - 1 else end
        return nn.Flatten(*(dim + 1 if dim >= 0 else dim for dim in (begin, end)))  # of a batch
    if "averages" in node.metadata:
        return nn.AvgPool1d(int(node.metadata["averages"]), int(node.stride), int(node.padding))
    return nn.AvgPool2d(_sizes(node.kernel_size), _sizes(node.stride), _sizes(node.padding))


def _synapse(node: Any) -> nn.Linear | nn.Conv1d | nn.Conv2d:
    weight = node.weight
    if type(node).__name__ in ("Affine", "Linear"):
        return nn.Linear(weight.shape[1], weight.shape[0])
    kind = nn.Conv1d if weight.ndim == 3 else nn.Conv2d
    groups, n_dims = int(node.groups), weight.ndim - 2
    stride, dilation = (_sizes(size, n_dims) for size in (node.stride, node.dilation))
    padding = node.padding if isinstance(node.padding, str) else _sizes(node.padding, n_dims)
    return kind(
        weight.shape[1] * groups, len(weight), weight.shape[2:], stride, padding, dilation, groups
    )


def _sizes(size: Any, n_dims: int = 2) -> Any:
    """A size as a tuple of one number per dimension."""
    return tuple(int(n) for n in np.broadcast_to(np.asarray(size), (n_dims,)))


def identities(ends: list[End]) -> list[bool]:
    """Whether each layer has an identity path, from what the next one reads.

    Raises:
        NotConvertibleError: the graph is no chain of layers.
    """
    found = []
    for end, follower in pairwise(ends):
        plain, whole, read = {end.name}, {end.name, *end.sources}, set(follower.sources)
        if read != plain and (end is ends[0] or read != whole):
            raise NotConvertibleError(
                f"node {follower.name}: reads {', '.join(sorted(read))}; the core runs "
                "chains of layers, with or without identity paths"
            )
        found.append(read != plain)
    return found
