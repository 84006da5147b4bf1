"""Conversion by quantization clip-floor-shift activations in plain torch.

Bu et al., "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural
networks", ICLR 2022. ReLU is replaced by an activation that clips at a learned bound and rounds to
L levels. After fine-tuning, neurons take its place whose threshold is the bound and whose potential
begins at half of it.
"""

import copy

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.converters.simulation import Stepper
from benchmarks.converters.tasks import Task, train


class QuantizedRelu(nn.Module):
    """ReLU that clips at `bound` and rounds to `n_levels` levels, with the identity's gradient."""

    def __init__(self, bound: float, n_levels: int):
        super().__init__()
        self.bound = nn.Parameter(torch.tensor(bound))
        self.n_levels = n_levels

    def forward(self, x: Tensor) -> Tensor:
        """Clip, then round to the nearest of the levels."""
        scaled = self.n_levels * (x / self.bound).clamp(0, 1)
        rounded = scaled + ((scaled + 0.5).floor() - scaled).detach()
        return rounded / self.n_levels * self.bound


class IntegrateAndFire(nn.Module):
    """Neurons with reset by subtraction whose potential begins at half the threshold."""

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.potential: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        """Return threshold times spikes of one step."""
        if self.potential is None:
            self.potential = torch.full_like(current, 0.5 * self.threshold)
        potential = self.potential + current
        fired = (potential >= self.threshold) * self.threshold
        self.potential = potential - fired
        return fired


def quantized(network: nn.Sequential, bounds: list[float], n_levels: int) -> nn.Sequential:
    """Return a trainable copy of a network with quantized activations.

    Args:
        network: the analog network.
        bounds: initial bound of each ReLU.
        n_levels: L.
    """
    left = iter(bounds)
    modules = [
        QuantizedRelu(next(left), n_levels) if isinstance(m, nn.ReLU) else copy.deepcopy(m)
        for m in network
    ]
    return nn.Sequential(*modules).requires_grad_(True)


def fine_tune(
    task: Task, network: nn.Sequential, *, epochs: int, learning_rate: float, n_train: int
) -> None:
    """Train a quantized network in place on the first `n_train` training examples."""
    features, targets = (tensor[:n_train] for tensor in task.train.tensors)
    examples = TensorDataset(features, torch.arange(n_train))

    def loss(output: Tensor, indices: Tensor) -> Tensor:
        return task.loss(task.decode(output, features[indices]), targets[indices])

    train(network, examples, loss, epochs=epochs, learning_rate=learning_rate)


def spiking(network: nn.Sequential) -> Stepper:
    """Put neurons in the place of quantized activations."""
    modules = [
        IntegrateAndFire(m.bound.item()) if isinstance(m, QuantizedRelu) else m for m in network
    ]
    neurons = [m for m in modules if isinstance(m, IntegrateAndFire)]

    def reset(_: Tensor) -> None:
        for neuron in neurons:
            neuron.potential = None

    return Stepper(nn.Sequential(*modules), neurons, reset)
