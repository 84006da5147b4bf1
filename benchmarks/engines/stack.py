"""Stacks of dilated convolutions that fire at a given rate, here and in other simulators.

The networks are in fixed-point form. Peers get the integers as float32; sums stay below 2^24, so
that their spikes can be compared exactly.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal

FRAMES_PER_SECOND = 800


def build_stack(
    n_channels: int,
    dilations: list[int],
    n_steps: int,
    rate: float,
    seconds: float = 1.0,
    deferred: bool = False,
):
    """Return a network and the spikes after its first, analog layer.

    Weights are random; biases are set so that the neurons of each layer fire `rate` spikes per step
    on average.
    """
    torch.manual_seed(0)
    layers = [SpikingLayer(nn.Conv1d(n_channels, n_channels, 1))]
    layers += [
        SpikingLayer(nn.Conv1d(n_channels, n_channels, 3, padding=d, dilation=d)) for d in dilations
    ]
    network = SpikingNetwork(layers, Readout(nn.Conv1d(n_channels, 2, 1))).eval()
    x = torch.randn(1, n_channels, round(seconds * FRAMES_PER_SECOND))
    signal = Signal(x)
    with torch.no_grad():
        for layer in layers:
            nn.init.normal_(layer.synapse.weight)
            nn.init.zeros_(layer.synapse.bias)
            drive = layer.synapse(signal.value)
            layer.synapse.weight /= drive.std()
            bias, upper = _bias_and_upper_bound(drive / drive.std(), rate)
            layer.synapse.bias.fill_(bias)
            layer.convert(upper / n_steps, Coding(n_steps, deferred=deferred))
            layer.freeze()
            signal = layer(signal)
        scales = {
            name: layer.synapse.weight.abs().max() / 127 for name, layer in network.layers.items()
        }
        to_fixed_point(network, [x], scales=scales)
        return network, network.arriving(network.propagate(x, 0, 1), 1)[0]


def ours(network: SpikingNetwork, engine: str) -> Callable[[Signal], Tensor]:
    """Return a function that computes the counts of the last layer on one of our engines."""

    def run(signal: Signal) -> Tensor:
        network.use_engine(engine)
        signals = network.propagate({network.names[0]: signal}, 1, len(network))
        return network.arriving(signals, len(network))[0].count[0]

    return run


def plain_loop(network: SpikingNetwork) -> Callable[[Tensor], Tensor]:
    """Loop over steps, then layers, like the paper's reference code; input [N_s, 1, C, K]."""
    numbers = [_numbers(layer) for layer in list(network.layers.values())[1:]]

    def run(spikes: Tensor) -> Tensor:
        potentials, count = [None] * len(numbers), 0
        for x in spikes:
            for k, (synapse, threshold, initial) in enumerate(numbers):
                z = synapse(x)
                v = z + initial if potentials[k] is None else potentials[k] + z
                x = (v >= threshold).float()
                potentials[k] = v - threshold * x
            count = count + x
        return count[0].int()

    return run


def batched_float(network: SpikingNetwork) -> Callable[[Tensor], Tensor]:
    """Convolve all steps of a layer at once in float32, then loop over the steps."""
    numbers = [_numbers(layer) for layer in list(network.layers.values())[1:]]

    def run(spikes: Tensor) -> Tensor:
        x = spikes
        for synapse, threshold, initial in numbers:
            v, out = initial, []
            for z in synapse(x.flatten(0, 1)).unflatten(0, x.shape[:2]):
                v = v + z
                s = (v >= threshold).float()
                v = v - threshold * s
                out.append(s)
            x = torch.stack(out)
        return x.sum(0)[0].int()

    return run


def spikingjelly(network: SpikingNetwork) -> Callable[[Tensor], Tensor]:
    """Run SpikingJelly in multi-step mode.

    Its neurons are torch operations on a CPU and Triton kernels on an accelerator.
    """
    from spikingjelly.activation_based import functional, layer, neuron

    modules, initials = [], []
    for own in list(network.layers.values())[1:]:
        synapse, threshold, initial = _numbers(own)
        modules += [
            layer.SeqToANNContainer(synapse),
            neuron.IFNode(v_threshold=threshold, v_reset=None, step_mode="m"),
        ]
        initials.append(initial)
    net = nn.Sequential(*modules).eval()

    def run(spikes: Tensor) -> Tensor:
        functional.reset_net(net)
        for node, initial in zip(net[1::2], initials, strict=True):
            node.v = initial
        return net(spikes).sum(0)[0].int()

    return run


def snntorch(network: SpikingNetwork) -> Callable[[Tensor], Tensor]:
    """Run snnTorch's Leaky neurons without a leak.

    They fire above the threshold, not at it, so V[0] is half a unit larger. V[0] must have the
    shape of the input; otherwise snnTorch takes it for zero.
    """
    import snntorch

    layers = []
    for own in list(network.layers.values())[1:]:
        synapse, threshold, initial = _numbers(own)
        half = 0.5 / 2 ** int(own.fixed.fraction)
        node = snntorch.Leaky(beta=1.0, threshold=threshold, reset_mechanism="subtract")
        layers.append((synapse, node, initial + half))

    def run(spikes: Tensor) -> Tensor:
        potentials: list[Tensor] = []
        count = 0
        for x in spikes:
            for k, (synapse, node, initial) in enumerate(layers):
                z = synapse(x)
                if len(potentials) == k:
                    potentials.append(torch.full_like(z, initial))
                x, potentials[k] = node(z, potentials[k])
            count = count + x
        return count[0].int()

    return run


def _numbers(layer: SpikingLayer) -> tuple[nn.Conv1d, float, float]:
    """Return synapse, threshold and V[0] of a layer in units of its integer weights."""
    fixed, grid, own = layer.fixed, 2 ** int(layer.fixed.fraction), layer.synapse
    synapse = nn.Conv1d(
        own.in_channels, own.out_channels, own.kernel_size, 1, own.padding, own.dilation
    )
    synapse.weight.data, synapse.bias.data = fixed.weight.float(), fixed.bias.float() / grid
    return (
        synapse.requires_grad_(False),
        float(fixed.threshold[0]) / grid,
        float(fixed.initial[0]) / grid,
    )


def _bias_and_upper_bound(drive: Tensor, rate: float) -> tuple[float, float]:
    """Find the bias at which the mean of the clipped activation is `rate` times its upper bound.

    The upper bound is the 99.9th percentile.
    """
    sample = drive.flatten()[:: max(1, drive.numel() // 100_000)]
    low, high = -4.0, 4.0
    for _ in range(30):
        bias = (low + high) / 2
        activation = F.relu(sample + bias)
        upper = float(activation.quantile(0.999))
        found = float(activation.clamp(max=upper).mean()) / upper if upper > 0 else 0.0
        low, high = (bias, high) if found < rate else (low, bias)
    return bias, upper
