"""Other simulators that read NIR, set up as docs/other-simulators.md says."""

import copy

import numpy as np
import torch

from spikesep.spiking import nir_input


def sinabs_run(graph, x):
    """Counts by node of neurons, and the summed output, of Sinabs for inputs x [batch, ...]."""
    import sinabs.layers as sl
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.nir import from_nir

    graph = copy.deepcopy(graph)
    for node in graph.nodes.values():
        if type(node).__name__ == "LIF":  # whose v_leak Sinabs compares as a vector, tau as one
            node.v_leak, node.tau = np.zeros(1), node.tau.flat[0]
        if type(node).__name__ == "Conv1d":  # which Sinabs takes as tensors only
            node.weight, node.bias = torch.as_tensor(node.weight), torch.as_tensor(node.bias)
    model = from_nir(graph, batch_size=len(x)).double()
    counts = {}

    def record(name):
        def take(module, arguments, out):
            counts[name] = out.unflatten(0, (len(x), -1)).sum(1).long().numpy()
            return out.double()  # spikes of Sinabs are float32

        return take

    for name, module in model.named_children():
        if isinstance(module, (sl.IAFSqueeze, sl.LIFSqueeze)):
            initial = torch.as_tensor(graph.nodes[name].metadata["initial_potential"])
            module.spike_fn, module.min_v_mem = SingleSpike, None
            if graph.nodes[name].metadata["reset"] == "zero":
                module.reset_fn = MembraneReset()
            module.init_state_with_shape((len(x), *initial.shape))
            module.v_mem = initial.double().expand(len(x), *initial.shape).clone()
            module.register_forward_hook(record(name))
    steps = torch.as_tensor(nir_input(graph, x)).transpose(0, 1)
    with torch.no_grad():
        out, _ = model(steps.flatten(0, 1))
    return counts, out.unflatten(0, (len(x), -1)).sum(1).numpy()


def spikingjelly_run(graph, x):
    """The same of SpikingJelly."""
    from spikingjelly.activation_based.neuron import IFNode, LIFNode
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    model = import_from_nir(graph, dt=1.0, dtype=torch.float64)
    counts, total, state = {}, 0, None
    for name, node in graph.nodes.items():
        if type(node).__name__ in ("IF", "LIF"):
            neurons = model.get_submodule(name).module
            assert isinstance(neurons, (IFNode, LIFNode))
            initial = torch.as_tensor(node.metadata["initial_potential"])
            neurons.v = initial.expand(len(x), *initial.shape).clone()
            if node.metadata["reset"] == "subtract":
                neurons.v_reset = None
            counts[name] = np.zeros((len(x), *initial.shape), np.int64)

            def add(module, arguments, out, count=counts[name]):
                count += out[0].long().numpy()

            model.get_submodule(name).register_forward_hook(add)
    with torch.no_grad():
        for step in torch.as_tensor(nir_input(graph, x)):
            out, state = model(step, state)
            total = total + out.numpy()
    return counts, total


def sinabs_model():
    """A small network of Sinabs whose neurons fire at most one spike a step, for [n, 2, 6, 6]."""
    import sinabs.layers as sl
    from sinabs.activation import SingleSpike
    from torch import nn

    def neurons():
        return sl.IAFSqueeze(batch_size=3, spike_fn=SingleSpike, min_v_mem=None)

    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        neurons(),
        sl.SumPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
        neurons(),
    )
