"""A plain simulator of the NIR graphs that `to_nir` writes, in numpy and float64.

It is the reference for other simulators and for chips. It reads the graph alone and knows nothing
of this package's layers and engines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from spikesep.errors import SpikeSepError
from spikesep.spiking.export.nir_out import NEURONS, RESETS


@dataclass(frozen=True)
class NirRun:
    """Result of running a graph on a batch of inputs.

    Attributes:
        potential: the output summed over the steps, [batch, ...].
        counts: spike counts within the window by node of neurons, [batch, ...] int64.
    """

    potential: np.ndarray
    counts: dict[str, np.ndarray]


def run_nir(graph: Any, x: np.ndarray) -> NirRun:
    """Simulate a `nir.NIRGraph` for inputs x, [batch, ...].

    Raises:
        SpikeSepError: it is not a graph that `to_nir` writes; the message names the node.
    """
    trains, counts, end = {}, {}, ""
    for name, sources in in_order(graph).items():
        node = graph.nodes[name]
        kind = type(node).__name__
        if kind == "Input":
            trains[name] = nir_input(graph, x)
            continue
        if not sources:
            raise SpikeSepError(f"node {name} ({kind}): reads nothing")
        arriving = reduce(np.add, (trains[source] for source in sources))
        if kind in NEURONS:
            trains[name] = _fire(name, node, arriving)
            counts[name] = trains[name].sum(0).astype(np.int64)
        elif kind == "Output":
            end, trains[name] = name, arriving
        elif kind in NODES:
            steps = NODES[kind](node, arriving.reshape(-1, *arriving.shape[2:]))
            trains[name] = steps.reshape(*arriving.shape[:2], *steps.shape[1:])
        else:
            raise SpikeSepError(f"node {name} ({kind}): give a graph of to_nir, which has none")
    return NirRun(trains[end].sum(0), counts)


def in_order(graph: Any) -> dict[str, list[str]]:
    """The nodes that each node of a graph reads, from the input to the output.

    Raises:
        SpikeSepError: the graph has a cycle, or not one input and one output.
    """
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        before[target].append(source)
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise SpikeSepError(
            f"node {error.args[1][0]}: is part of a cycle; recurrent networks are not supported"
        ) from error
    for kind in ("Input", "Output"):
        found = [name for name in order if type(graph.nodes[name]).__name__ == kind]
        if len(found) != 1:
            raise SpikeSepError(f"the graph has {len(found)} {kind} nodes; give a graph with one")
    return {name: before[name] for name in order}


def nir_input(graph: Any, x: np.ndarray) -> np.ndarray:
    """Return the input of a graph in each step, [n_steps, batch, ...] float64.

    Inputs are rounded as a network in fixed-point form rounds them. They are then repeated in every
    step (encoding `constant`) or given in the first step alone (`impulse`).

    Raises:
        SpikeSepError: the graph does not say how many steps its neurons run.
    """
    entries = graph.metadata
    if "n_steps" not in entries:
        raise SpikeSepError("the graph has no metadata n_steps: it was not written by to_nir")
    value = np.asarray(x, np.float64)
    if "input_unit" in entries:
        unit, levels = float(entries["input_unit"]), int(entries["input_levels"])
        value = np.rint(value / unit).clip(-levels, levels) * unit
    steps = np.zeros((int(entries["n_steps"]), *value.shape))
    steps[: 1 if entries["encoding"] == "impulse" else None] = value
    return steps


def _fire(name: str, node: Any, current: np.ndarray) -> np.ndarray:
    """Spikes, 0 or 1, for a current [n_steps, batch, ...]."""
    entries, kind = node.metadata, type(node).__name__
    if entries.get("reset") not in RESETS:
        raise SpikeSepError(
            f"node {name} ({kind}): is not marked with its reset; run_nir takes graphs of to_nir"
        )
    beta, to_zero = np.ones(()), entries["reset"] == "zero"
    current = current * np.asarray(node.r)
    if kind == "LIF":
        tau = np.asarray(node.tau)
        beta = np.exp(-1 / tau) if entries["integration"] == "exponential" else 1 - 1 / tau
        current = (1 - beta) * (np.asarray(node.v_leak) + current)
    threshold = np.asarray(node.v_threshold)
    if entries.get("deferred"):  # all charge before the first spike
        current = np.concatenate([current.sum(0, keepdims=True), 0 * current[1:]])
    potential = np.asarray(entries["initial_potential"]) + 0 * current[0]
    spikes = np.empty_like(current)
    for z, s in zip(current, spikes, strict=True):
        potential = beta * potential + z
        s[...] = potential >= threshold
        potential = (
            np.where(s, np.asarray(node.v_reset), potential)
            if to_zero
            else (potential - s * threshold)
        )
    return spikes


def _affine(node: Any, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(node.weight).T + np.asarray(node.bias)


def _convolution(node: Any, x: np.ndarray) -> np.ndarray:
    weight = np.asarray(node.weight)
    n_dims = weight.ndim - 2
    kernel = weight.shape[2:]
    dilation = _sizes(node.dilation, n_dims)
    if isinstance(node.padding, str):
        totals = [
            d * (k - 1) * (node.padding == "same") for d, k in zip(dilation, kernel, strict=True)
        ]
        margins = [(total // 2, total - total // 2) for total in totals]
    else:
        margins = [(size, size) for size in _sizes(node.padding, n_dims)]
    cells = _windows(x, kernel, _sizes(node.stride, n_dims), margins, dilation)
    contracted = tuple(range(2 + n_dims, 2 + 2 * n_dims))
    sums = np.tensordot(cells, weight, axes=((1, *contracted), tuple(range(1, weight.ndim))))
    return np.moveaxis(sums + np.asarray(node.bias), -1, 1)


def _pooling(node: Any, x: np.ndarray) -> np.ndarray:
    kernel = _sizes(node.kernel_size, 2)
    margins = [(size, size) for size in _sizes(node.padding, 2)]
    cells = _windows(x, kernel, _sizes(node.stride, 2), margins, (1, 1))
    return cells.sum((-2, -1)) / (1 if type(node).__name__ == "SumPool2d" else np.prod(kernel))


def _windows(x: np.ndarray, kernel, stride, margins, dilation) -> np.ndarray:
    """Windows that slide over the padded last dimensions of x, [batch, C, *positions, *kernel]."""
    spans = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    axes = tuple(range(2, x.ndim))
    cells = sliding_window_view(np.pad(x, [(0, 0), (0, 0), *margins]), spans, axes)
    steps = [slice(None, None, int(step)) for step in (*stride, *dilation)]
    return cells[(slice(None), slice(None), *steps)]


def _flatten(node: Any, x: np.ndarray) -> np.ndarray:
    begin, end = (int(dim) for dim in (node.start_dim, node.end_dim))
    n_dims = x.ndim - 1
    begin, end = begin % n_dims + 1, end % n_dims + 1
    return x.reshape(*x.shape[:begin], -1, *x.shape[end + 1 :])


def _sizes(size: Any, n_dims: int) -> tuple[int, ...]:
    return tuple(int(n) for n in np.broadcast_to(np.asarray(size), (n_dims,)))


NODES: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "Affine": _affine,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "AvgPool2d": _pooling,
    "SumPool2d": _pooling,
    "Flatten": _flatten,
}
"""Linear nodes, applied to [steps * batch, ...]."""
