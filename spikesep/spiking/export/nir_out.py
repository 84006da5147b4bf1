"""From a spiking network to a NIR graph (Pedersen et al., Nature Communications 15, 2024).

All neurons of the graph fire unit spikes at threshold 1: thresholds are divided out of the weights
before the neurons and multiplied into those behind them, as in section 3.2 of the paper. What NIR
cannot say is in the metadata: neurons subtract the threshold, begin at a potential of their own,
and see the input for a given number of steps. Leaking neurons are LIF with v_leak = 0; what holds
them at their initial potential is part of the bias. `docs/other-simulators.md` lists the entries.
"""

import math
import re
from typing import Any

import numpy as np

from spikesep.spiking.export import nir_nodes
from spikesep.spiking.export.extras import require
from spikesep.spiking.export.nir_readers import require_reader
from spikesep.spiking.export.stages import (
    Currents,
    Stage,
    currents,
    meeting_unequal,
    own_factor,
    spike_factor,
    stages,
)
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork
from spikesep.spiking.signal import Coding
from spikesep.spiking.synapses.table import Size

INTEGERS = ("threshold", "initial", "scale", "fraction", "multiple")
"""What the metadata of neurons hold of a layer in fixed-point form, beside weight and bias."""
NEURONS = ("IF", "LIF")
"""Nodes of neurons that fire."""
RESETS = ("subtract", "zero")
"""Values of the entry "reset": a spike subtracts the threshold, or sets the potential to v_reset,
which is 0, as NIR says.
"""
INTEGRATIONS = ("euler", "exponential")
"""Values of the entry "integration": how a step of length 1 follows from `tau`."""


def to_nir(
    network: SpikingNetwork,
    input_shape: Size,
    *,
    deferred: bool = False,
    reader: str | None = None,
) -> Any:
    """Make a NIR graph of a network whose layers all spike.

    Args:
        network: the network.
        input_shape: shape of its input, without the batch, as in [channels, frames].
        deferred: export a network of deferred neurons; by default it is refused, because no other
            simulator waits for a whole window.
        reader: `sinabs`, `spikingjelly` or `snntorch`: write what this simulator reads, or say
            why it reads the network otherwise or not at all. Sinabs solves a leak exactly in each
            step; without it, `tau` is that of Euler steps.

    Returns:
        A `nir.NIRGraph`.

    Raises:
        NotConvertibleError: NIR, or its reader, has no counterpart for a part of the network.
        SpikeSepError: the package `nir` is not installed.
        ValueError: there is no such reader.
    """
    require("nir", "nir")
    coding = _coding_of(network, deferred)
    if reader is not None:
        require_reader(network, reader)
    found = stages(network)
    writer = _Writer(coding, tuple(input_shape), reader, meeting_unequal(found))
    for stage in found:
        writer.add(stage)
    return writer.finish(_graph_metadata(network, coding))


def _coding_of(network: SpikingNetwork, deferred: bool) -> Coding:
    """The coding that all layers of a network share."""
    for name, layer in network.layers.items():
        if layer.mode != "spiking":
            raise NotConvertibleError(
                f"layer {name}: is {layer.mode}, and NIR exchanges spiking networks; convert it "
                "first, or export the analog network to ONNX"
            )
        if layer.fixed is not None and layer.coding.beta < 1:
            raise NotConvertibleError(
                f"layer {name}: a leak in integers rounds in every step, which NIR cannot hold; "
                "export the network with weight_bits: 0"
            )
    coding = network[0].coding
    if coding.deferred and not deferred:
        raise NotConvertibleError(
            "neurons are deferred, and no simulator that reads NIR waits for a whole window; "
            "convert with deferred: false, or export it marked as deferred (deferred=True, "
            "--deferred) for readers that heed the mark, such as run_nir"
        )
    return coding


def time_constant(beta: float, integration: str) -> float:
    """The time constant of a leak, in steps.

    A step is V <- beta * V + (1 - beta) * r * I. Euler steps are beta = 1 - 1 / tau, exact
    solutions are beta = exp(-1 / tau).
    """
    return 1 / (1 - beta) if integration == "euler" else -1 / math.log(beta)


def share_kept(tau: float, integration: str) -> float:
    """Inverse of `time_constant`."""
    return 1 - 1 / tau if integration == "euler" else math.exp(-1 / tau)


def _graph_metadata(network: SpikingNetwork, coding: Coding) -> dict[str, Any]:
    entries: dict[str, Any] = {
        "n_steps": coding.n_steps,
        "encoding": coding.encoding,
        "initial_potential": coding.initial_potential,
        "deferred": coding.deferred,
        "output": "sum over steps",
    }
    fixed = network[0].fixed
    if fixed is not None:
        entries["input_unit"] = float(fixed.input_unit)
        entries["input_levels"] = int(fixed.input_levels)
    return entries


class _Writer:
    """The nodes and edges of a graph in the making.

    Args:
        coding: of all neurons.
        input_shape: of the network.
        reader: the simulator to write for. For Sinabs, average pooling in two dimensions is written
            as `SumPool2d`, and `tau` is that of exact solutions.
        scaled: layers whose spikes are scaled by their threshold right behind the neurons, because
            they meet spikes of other thresholds. Elsewhere the next weights are scaled.
    """

    def __init__(self, coding: Coding, input_shape: Size, reader: str | None, scaled: set[str]):
        self._nir = require("nir", "nir")
        self._coding, self._scaled = coding, scaled
        self._sum_pooling = reader == "sinabs"
        self._integration = INTEGRATIONS[reader == "sinabs"]
        self._nodes: dict[str, Any] = {"input": self._nir.Input({"input": np.array(input_shape)})}
        self._edges: list[tuple[str, str]] = []
        # What each layer ends in, and the shape of its output; the input of the network is "".
        self._ends, self._shapes = {"": "input"}, {"": input_shape}

    def add(self, stage: Stage) -> None:
        """Append a layer or the readout.

        Raises:
            NotConvertibleError: NIR has no nodes for it, or its input does not fit.
        """
        part, sources = stage.part, list(stage.sources or {"": None})
        shape = self._shapes[sources[0]]
        nir_nodes.require_nodes(stage.name, part.connectivity, shape)
        numbers = currents(stage, self._coding.n_steps)
        try:
            end = self._add_synapse(stage, numbers, shape, [self._ends[s] for s in sources])
        except ValueError as error:
            raise NotConvertibleError(f"layer {stage.name}: {error}") from error
        if isinstance(part, SpikingLayer):
            self._add_neurons(stage, part, numbers.initial.numpy(), end)
        else:
            shape = self._shapes[stage.name]
            self._put("output", self._nir.Output({"output": np.array(shape)}), [end])

    def finish(self, metadata: dict[str, Any]) -> Any:
        """The graph."""
        return self._nir.NIRGraph(self._nodes, self._edges, metadata=metadata)

    def _add_synapse(self, stage: Stage, numbers: Currents, shape: Size, ends: list[str]) -> str:
        """Append the map before a synapse and the synapse; return the name of its node."""
        connectivity = stage.part.connectivity
        nodes, pooled = nir_nodes.map_nodes(connectivity, shape, self._sum_pooling)
        self._shapes[stage.name] = connectivity.output_shape(pooled)
        weight = numbers.weight / nir_nodes.map_gain(connectivity, self._sum_pooling)
        weight = weight * self._spike_gain(stage)
        synapse = nir_nodes.synapse_node(connectivity, weight, numbers.bias, pooled)
        for kind, node in [*nodes, ("synapse", synapse)]:
            ends = [self._put(f"{kind}_{stage.name}", node, ends)]
        return ends[0]

    def _spike_gain(self, stage: Stage) -> float:
        """Return the remaining factor of the spikes of all sources."""
        if not stage.sources:
            return 1.0
        name, source = next(iter(stage.sources.items()))
        done = own_factor(source) if name in self._scaled else 1.0
        return spike_factor(source, stage.part) / done

    def _add_neurons(
        self, stage: Stage, layer: SpikingLayer, initial: np.ndarray, end: str
    ) -> None:
        """Append the neurons of a layer and, where needed, the scale of their spikes."""
        name, shape = stage.name, self._shapes[stage.name]
        ones, beta = np.ones(shape), self._coding.beta
        if not layer.connectivity.out_channels_last:
            initial = initial.reshape(-1, *[1] * (len(shape) - 1))
        metadata = _neuron_metadata(layer, initial * ones)
        metadata["deferred"] = self._coding.deferred and bool(stage.sources)
        common = {"v_threshold": ones, "v_reset": 0 * ones, "metadata": metadata}
        if beta == 1:
            node = self._nir.IF(r=ones, **common)
        else:
            metadata["integration"] = self._integration
            tau = time_constant(beta, self._integration) * ones
            node = self._nir.LIF(tau=tau, r=ones / (1 - beta), v_leak=0 * ones, **common)
        end = self._put(f"neurons_{name}", node, [end])
        if name in self._scaled:
            scale = nir_nodes.scale_node(own_factor(layer), shape)
            end = self._put(f"scale_{name}", scale, [end])
        self._ends[name] = end

    def _put(self, name: str, node: Any, ends: list[str]) -> str:
        """Add a node behind others, under a name that HDF5 and torch take."""
        name = re.sub(r"\W", "_", name)
        while name in self._nodes:
            name += "_"
        self._nodes[name] = node
        self._edges += [(end, name) for end in ends]
        return name


def _neuron_metadata(layer: SpikingLayer, initial: np.ndarray) -> dict[str, Any]:
    """Return metadata that NIR's neuron lacks, and the integers of a layer in fixed point."""
    entries: dict[str, Any] = {
        "reset": layer.coding.reset,
        "initial_potential": initial,
        "threshold": float(layer.threshold),
    }
    if layer.fixed is not None:
        numbers = {name: getattr(layer.fixed, name).cpu() for name in INTEGERS}
        entries["integers"] = {
            name: number.numpy().copy() if number.ndim else number.item()  # as HDF5 takes them
            for name, number in numbers.items()
        }
    return entries
