"""Conversion without fine-tuning: thresholds and biases from a look at some data."""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.threshold import ThresholdChoice, choose_threshold
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.levels.network import settle_levels
from spikesep.spiking.network import Cut, SpikingNetwork
from spikesep.spiking.signal import Coding, Signal
from spikesep.spiking.synaptic import Synaptic
from spikesep.spiking.wiring.wires import INPUT

GAIN_ROUNDS, GAINS = 3, (0.5, 2.0)
"""Corrections of the gain of neurons that leak or reset to zero, and the range of each."""


def calibrate(
    network: SpikingNetwork,
    inputs: Iterable[Tensor],
    coding: Coding,
    *,
    percentile: float | str = "auto",
    correct_biases: bool = True,
) -> list[ThresholdChoice]:
    """Convert all layers of an analog network, in order and in place, without training.

    Each layer is calibrated on the spikes of the layers before it. Its bias is then shifted by the
    mean error of each channel, which rounding and clipping leave, as in Li et al., "A free lunch
    from ANN: towards efficient, accurate spiking neural networks calibration", ICML 2021.
    Neurons that leak or reset to zero lose charge in proportion to their activity: before that, the
    weights into each of their channels are scaled by least squares.

    Args:
        network: all layers analog; or with levels, whose steps become the thresholds.
        inputs: batches of its analog input.
        coding: N_s, encoding, initial potential.
        percentile: of the activations that sets the upper bound, or "auto" for the one with the
            least error of clipping and rounding.
        correct_biases: whether biases are shifted, also that of the readout, and weights scaled.

    Returns:
        The choice of each layer's threshold.

    Raises:
        SpikeSepError: a layer is silent, or activations are not finite; names the layer.
    """
    network.eval()
    settle_levels(network, coding)
    analog, choices = copy.deepcopy(network), []
    with torch.no_grad():
        cuts: list[tuple[Cut, Cut]] = [({INPUT: Signal(x)}, {INPUT: Signal(x)}) for x in inputs]
        for index, (name, layer) in enumerate(network.layers.items()):
            activations = (
                layer.activation(*(signal.value for signal in network.arriving(now, index)))
                for now, _ in cuts
            )
            learned = layer.mode == "discrete"
            settled = float(layer.threshold) * coding.n_steps if learned else None
            try:
                choice = choose_threshold(activations, percentile, coding, settled)
            except SpikeSepError as error:
                raise SpikeSepError(f"layer {name}: {error}") from error
            choices.append(choice)
            layer.convert(choice.upper_bound / coding.n_steps, coding)
            if correct_biases and not coding.conserves_charge:
                for _ in range(GAIN_ROUNDS):
                    _rescale(layer, _outputs(network, analog, cuts, index))
            if correct_biases:
                _correct(layer, _outputs(network, analog, cuts, index))
            layer.freeze()
            cuts = [
                (network.propagate(now, index, index + 1), analog.propagate(then, index, index + 1))
                for now, then in cuts
            ]
        if correct_biases:
            network.readout.fold()
            _correct(network.readout, _outputs(network, analog, cuts, len(network)))
    return choices


def _outputs(
    network: SpikingNetwork, analog: SpikingNetwork, cuts: list[tuple[Cut, Cut]], index: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Output of a layer or the readout, and what the analog network puts out there."""
    part, original = network.parts[index], analog.parts[index]
    for now, then in cuts:
        found = part(*network.arriving(now, index)).value
        yield found, original(*analog.arriving(then, index)).value


def _rescale(layer: SpikingLayer, outputs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Scale the weights into each channel by what its output falls short, by least squares."""
    across, power = (torch.zeros_like(layer.bias, dtype=torch.float64) for _ in range(2))
    for found, wanted in outputs:
        across += layer.connectivity.sum_outputs((wanted * found).double())
        power += layer.connectivity.sum_outputs(found.double().square())
    gain = torch.where(power > 0, across / power.clamp(min=1e-30), 1.0).clamp(*GAINS)
    gain = gain.to(layer.bias)
    layer.bias.mul_(gain)
    for branch in layer.branches:
        weight = branch.synapse.weight
        weight.mul_(gain.view(-1, *[1] * (weight.ndim - 1)))


def _correct(part: Synaptic, outputs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Shift the biases by the mean error of each channel."""
    total, n = torch.zeros_like(part.bias, dtype=torch.float64), 0
    for found, wanted in outputs:
        total += part.connectivity.sum_outputs((wanted - found).double())
        n += found.numel() // len(total)
    part.bias.add_((total / n).to(part.bias))
