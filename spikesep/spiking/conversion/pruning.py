"""Giving up inputs so that a potential hardly changes: each layer keeps the inputs that its potential misses most, and
their weights are fitted anew, by least squares, to the potential that the analog network has with all of them.

Which inputs go is said by the optimal brain surgeon's saliency, w^2 / [H^-1] with H the second moments of the inputs
(Hassibi and Stork, "Second order derivatives for network pruning", NIPS 1992), a layer at a time as in Frantar and
Alistarh, "Optimal brain compression", arXiv 2208.11580; in a few rounds, for what is left has more to do once others
are gone. Where spikes have a price, an input goes whose spikes cost more than its saliency is worth to the predictions.
Layers are taken in order and see what those before them make now, pruned and rounded, so that each makes up for what
was lost before it, as in Li et al., "A free lunch from ANN", arXiv 2106.06984.
"""

import copy
from collections.abc import Iterable
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.connections import divisor
from spikesep.spiking.conversion.least_squares import Moments, moments_of
from spikesep.spiking.conversion.spike_budget import Worth
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Signal

Pruning = Literal["magnitude", "refit"]
"""How inputs are given up: the weakest at a layer's stage, or as here, before the first."""
ROUNDS = 4
"""In which inputs are given up, as many in each; saliencies are those of the weights fitted in the round before."""


def prune(
    network: SpikingNetwork,
    batches: Iterable[Tensor],
    fan_in: int,
    worth: list[Worth] | None = None,
) -> list[Tensor]:
    """Fit all layers and the readout anew to at most `fan_in` inputs a neuron, in place.

    Args:
        network: its layers analog or discrete; their norms are folded.
        batches: of its analog input, [batch, ...]: in all, more positions than a neuron has inputs.
        fan_in: most inputs of a neuron, those that pooling joins counted one by one.
        worth: of each layer's inputs and the readout's, where those go, too, that are not worth their spikes; the rates
            are those of the network as it stands.

    Returns:
        Which connections are kept, a tensor for each layer and the readout: bool, the shape of the weight; the weights
        of others are zero.

    Raises:
        ValueError: a layer is converted already.
        SpikeSepError: `fan_in` is smaller than the pooling before a layer, or a layer pads with other than zeros, or
            there are fewer positions than a neuron has inputs.
    """
    if network.n_converted:
        raise ValueError("only layers that are not converted yet are fitted anew")
    with torch.no_grad():
        for module in network.parts:
            module.fold()
        meant = copy.deepcopy(network)
        for layer in meant.layers.values():
            layer.mode = "analog"
        signals = [(Signal(batch), Signal(batch)) for batch in batches]
        kept = []
        for index, (module, model) in enumerate(zip(network.parts, meant.parts, strict=True)):
            name = [*network.names, "readout"][index]
            try:
                moments = moments_of(
                    module, model.synapse, [(now.value, then.value) for now, then in signals]
                )
            except NotImplementedError as error:
                raise SpikeSepError(
                    f"layer {name}: {error} cannot be fitted anew; set convert.pruning to magnitude"
                ) from error
            n_inputs = module.synapse.weight[0].numel()
            if moments.n_positions < n_inputs:
                raise SpikeSepError(
                    f"layer {name}: {moments.n_positions} positions are too few to fit {n_inputs} inputs; give more "
                    "convert.calibration_examples"
                )
            most = fan_in // int(divisor(module))
            if most < 1:
                raise SpikeSepError(
                    "convert.fan_in: smaller than the pooling before a layer; take a larger limit"
                )
            kept.append(_fit(module.synapse, moments, most, worth[index] if worth else None))
            if index < len(network):
                signals = [
                    (
                        network.propagate(now, index, index + 1),
                        meant.propagate(then, index, index + 1),
                    )
                    for now, then in signals
                ]
    return kept


def _fit(synapse: nn.Module, moments: Moments, fan_in: int, worth: Worth | None) -> Tensor:
    """Weights and bias of least squares on the inputs that are kept; which those are."""
    among, across = moments.among, moments.across
    n_groups, n, n_neurons = len(among), among.shape[1] - 1, across.shape[2]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(among))
    weight = (inverse @ across).mT.flatten(0, 1)  # [C_out, n + 1]
    spread = (
        inverse.diagonal(dim1=1, dim2=2)[:, None].expand(-1, n_neurons, -1).flatten(0, 1).clone()
    )
    kept = torch.ones_like(weight[:, :n], dtype=torch.bool)
    gain, price = (
        (1.0, None) if worth is None else _gain_of_inputs(synapse, worth, n_groups, weight.device)
    )
    for rounds_left in range(ROUNDS, 0, -1):
        score = torch.where(kept, weight[:, :n].square() / spread[:, :n] * gain, -1.0)
        wanted = kept.sum(1) if price is None else (score > price).sum(1)
        surplus = kept.sum(1) - wanted.clamp(min=1, max=fan_in)
        if not surplus.any():
            break
        n_kept = kept.sum(1) + (-surplus).div(rounds_left, rounding_mode="floor")
        kept = score.argsort(1, descending=True).argsort(1) < n_kept[:, None]
        for row in surplus.nonzero()[:, 0].tolist():
            group, neuron = divmod(row, n_neurons)
            inputs = torch.cat(
                [kept[row].nonzero()[:, 0], kept.new_tensor([n], dtype=torch.long)]
            )  # and the bias
            inverse = torch.cholesky_inverse(
                torch.linalg.cholesky(among[group][inputs[:, None], inputs])
            )
            weight[row] = 0
            weight[row, inputs] = inverse @ across[group, inputs, neuron]
            spread[row, inputs] = inverse.diagonal()
    synapse.weight.copy_((weight[:, :n] * kept).view_as(synapse.weight))
    synapse.bias.copy_(weight[:, n])
    return kept.view_as(synapse.weight)


def _gain_of_inputs(
    synapse: nn.Module, worth: Worth, n_groups: int, device: torch.device
) -> tuple[Tensor, float]:
    """By what saliencies are multiplied, [C_out, n], to be compared with the price of a spike; and that price."""
    if isinstance(synapse, nn.Linear):
        n_places = synapse.in_features // len(worth.spikes)
        spikes = worth.spikes.repeat_interleave(n_places)[None] / n_places
    else:
        n_taps = synapse.weight[0, 0].numel()
        spikes = worth.spikes.view(n_groups, -1).repeat_interleave(n_taps, 1) / prod(synapse.stride)
    per_neuron = spikes.repeat_interleave(len(synapse.weight) // n_groups, 0).clamp(min=1e-30)
    return (worth.sensitivity[:, None] / per_neuron).to(device), worth.price
