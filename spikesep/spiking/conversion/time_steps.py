"""Change of the number of time steps of a network that spikes."""

from dataclasses import replace

from spikesep.spiking.conversion.fixed_point import check_fixed_point, most, reads_input
from spikesep.spiking.conversion.rounding import LIMIT
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.network import SpikingNetwork


def set_time_steps(network: SpikingNetwork, n_steps: int) -> None:
    """Set another window N_s, in place, so each neuron's maximum output, threshold * N_s, is
    unchanged.

    Fewer steps round more coarsely: the weights learned with another number. In fixed-point form
    the integers stay, since the unit of spikes changes with the thresholds. They are rounded anew
    behind an impulse, whose unit does not change, and where more steps leave 32 bits no room for
    the finest grid of potentials or of the analog input.

    Args:
        network: all layers spiking.
        n_steps: N_s.

    Raises:
        ValueError: a layer does not spike, `n_steps` is below 1, or potentials would not fit 32
            bits; the network may then be changed in part.
    """
    if any(layer.mode != "spiking" for layer in network.layers.values()):
        raise ValueError("only a network whose layers all spike has time steps")
    for index, (name, layer) in enumerate(network.layers.items()):
        coding = replace(layer.coding, n_steps=n_steps)
        ratio = layer.coding.n_steps / n_steps
        layer.coding = coding
        layer.threshold.mul_(ratio)
        fixed = layer.fixed
        if fixed is None:
            continue
        if coding.encoding == "impulse" and reads_input(network, name):
            _rescale(fixed, ratio)
        while most(network, index, signed=ratio < 1) >= LIMIT and _coarsen(fixed):
            _rescale(fixed, 0.5)
    if network.is_fixed_point:
        check_fixed_point(network)


def _coarsen(fixed: FixedPoint) -> bool:
    """Halve the fineness of the potentials' grid, or else of the analog input's, if there is any.

    Returns:
        Whether there was; biases and thresholds are then to be halved.
    """
    if fixed.fraction > 0:
        fixed.fraction -= 1
    elif fixed.input_levels > 1:
        fixed.input_levels //= 2
        fixed.input_unit *= 2
    else:
        return False
    return True


def _rescale(fixed: FixedPoint, ratio: float) -> None:
    """Put biases and thresholds on another grid."""
    for numbers, least in ((fixed.bias, -LIMIT), (fixed.threshold, 1), (fixed.initial, 0)):
        numbers.copy_((numbers.double() * ratio).round().clamp(least, LIMIT))
