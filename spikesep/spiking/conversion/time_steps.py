"""Another number of time steps for a network that spikes already."""

from dataclasses import replace

from spikesep.spiking.conversion.fixed_point import LIMIT, check_fixed_point, most
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.network import SpikingNetwork


def use_steps(network: SpikingNetwork, n_steps: int) -> None:
    """Give the neurons another window N_s, in place; what a neuron stands for at most, a_u = threshold * N_s, stays.

    Fewer steps round coarser, for the weights have learned with another number. In fixed-point form the integers stay,
    weights, biases and thresholds, for the unit in which spikes are told changes with the thresholds; but behind an
    impulse, whose unit does not, and where more steps leave 32 bits no room for the finest grid of potentials, biases
    and thresholds are rounded anew.

    Raises:
        ValueError: a layer does not spike, `n_steps` is below 1, or potentials would not fit 32 bits; the network may
            then be changed in part.
    """
    if any(layer.mode != "spiking" for layer in network.layers.values()):
        raise ValueError("only a network whose layers all spike has time steps")
    for index, layer in enumerate(network.layers.values()):
        coding = replace(layer.coding, n_steps=n_steps)
        ratio = layer.coding.n_steps / n_steps
        layer.coding = coding
        layer.threshold.mul_(ratio)
        if layer.fixed is None:
            continue
        if index == 0 and coding.encoding == "impulse":
            _rescale(layer.fixed, ratio)
        while most(network, index) >= LIMIT and layer.fixed.fraction > 0:
            layer.fixed.fraction -= 1
            _rescale(layer.fixed, 0.5)
    if network.is_fixed_point:
        check_fixed_point(network)


def _rescale(fixed: FixedPoint, ratio: float) -> None:
    """Biases and thresholds on another grid."""
    for numbers, least in ((fixed.bias, -LIMIT), (fixed.threshold, 1), (fixed.initial, 0)):
        numbers.copy_((numbers.double() * ratio).round().clamp(least, LIMIT))
