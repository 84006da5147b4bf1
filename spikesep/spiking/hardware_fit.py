"""Check of a converted network against the limits of a chip."""

import torch
from torch import Tensor

from spikesep.hardware_profiles import HardwareProfile
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Signal
from spikesep.spiking.synaptic import Synaptic


class Occupancy:
    """Observer of a `SpikingNetwork` that counts what its layers need of a chip.

    Attributes:
        neurons: neurons by layer, for one example.
        fan_in: largest number of inputs of a neuron by layer, and of the readout.
    """

    def __init__(self):
        self.neurons: dict[str, int] = {}
        self.fan_in: dict[str, int] = {}

    def __call__(
        self, name: str, module: Synaptic, signals: tuple[Signal, ...], out: Signal
    ) -> None:
        """See `spikesep.spiking.network.Observer`."""
        self.fan_in[name] = sum(_fan_in(branch) for branch in module.branches)
        if name != "readout":
            self.neurons[name] = out.shape[1:].numel()


def _fan_in(branch: Synaptic) -> int:
    """Largest number of inputs of a neuron through one synapse."""
    connectivity, kept = branch.connectivity, branch.kept
    n_kept = branch.synapse.weight[0].numel() if kept is None else int(kept.flatten(1).sum(1).max())
    return n_kept * int(connectivity.divisor)


def check_fit(network: SpikingNetwork, x: Tensor, profile: HardwareProfile) -> list[str]:
    """Say what of a converted network fits a chip.

    Args:
        network: the converted network.
        x: one input, [1, ...], whose size determines the number of neurons.
        profile: the chip.

    Returns:
        One line per finding; the first names the chip and the source of its limits.
    """
    occupancy = Occupancy()
    with torch.no_grad():
        network(x, observe=occupancy)
    lines = [f"{profile.title} ({profile.source}):"]
    bits = weight_bits(network)
    lines.append(_finding(f"weights of {bits} bits", bits, profile.weight_bits))
    if profile.fan_in:
        name, fan_in = max(occupancy.fan_in.items(), key=lambda item: item[1])
        lines.append(
            _finding(f"up to {fan_in:,} inputs per neuron ({name})", fan_in, profile.fan_in)
        )
    if profile.neurons:
        n = sum(occupancy.neurons.values())
        shape = " x ".join(map(str, x.shape[1:]))
        lines.append(_finding(f"{n:,} neurons for an input of {shape}", n, profile.neurons))
    coding = network.coding
    if coding is not None and coding.deferred and not profile.graded:
        lines.append("  deferred neurons: each window is sent as single spikes")
    elif coding is not None and profile.graded:
        lines.append("  graded spikes: a spike can carry the count of a window")
    return lines


def weight_bits(network: SpikingNetwork) -> int:
    """Bits that the weights of all spiking layers need; 32 for a network with float weights."""
    if not network.is_fixed_point:
        return network.limits.weight_bits or 32
    fixed = [layer.fixed for layer in network.layers.values() if layer.fixed is not None]
    weights = (weight for numbers in fixed for weight in numbers.weights)
    return max(int(weight.abs().max()).bit_length() + 1 for weight in weights)


def _finding(what: str, needed: int, limit: int) -> str:
    return f"  {what}: {'fit' if needed <= limit else 'exceed'} its {limit:,}"
