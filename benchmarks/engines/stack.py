"""Stacks of dilated convolutions that fire at a given rate.

The networks are in fixed-point form. Other simulators get the integers as float32; sums stay below
2^24, so that their spikes can be compared exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal, SpikeTrains

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


def repeated(signal: Signal, batch: int, device: str) -> Signal:
    """Return the spikes of one example as those of `batch` equal ones, on a device."""
    own = signal.trains[0]
    words = own.words.expand(-1, batch, -1, -1).contiguous().to(device)
    return Signal(trains=(SpikeTrains(words, own.n_steps, own.threshold.to(device), own.multiple),))


def ours(network: SpikingNetwork, engine: str) -> Callable[[Signal], Tensor]:
    """Return a function that computes the counts [B, C, K] of the last layer on our engine."""

    def run(signal: Signal) -> Tensor:
        network.use_engine(engine)
        signals = network.propagate({network.names[0]: signal}, 1, len(network))
        return network.arriving(signals, len(network))[0].count

    return run


@dataclass(frozen=True)
class PlainLayer:
    """A layer for other simulators: float numbers in units of its integer weights.

    Attributes:
        synapse: convolution whose weights are integers.
        threshold: of the potential.
        initial: V[0].
        half: half a step of the potential's grid, for neurons that fire above the threshold, not at
            it.
    """

    synapse: nn.Conv1d
    threshold: float
    initial: float
    half: float


def plain_layers(network: SpikingNetwork) -> list[PlainLayer]:
    """Return the spiking layers behind the first one."""
    found = []
    for layer in list(network.layers.values())[1:]:
        fixed, own = layer.fixed, layer.synapse
        grid = 2 ** int(fixed.fraction)
        synapse = nn.Conv1d(
            own.in_channels, own.out_channels, own.kernel_size, 1, own.padding, own.dilation
        )
        synapse.weight.data, synapse.bias.data = fixed.weight.float(), fixed.bias.float() / grid
        found.append(
            PlainLayer(
                synapse.requires_grad_(False),
                float(fixed.threshold[0]) / grid,
                float(fixed.initial[0]) / grid,
                0.5 / grid,
            )
        )
    return found


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
