"""Layer-wise pruning: drop the inputs that affect the potential least, then refit the rest.

Each layer keeps the inputs that its potential depends on most. Least squares fit their weights to
the potential that the analog network has with all inputs. Inputs are chosen by the saliency of the
optimal brain surgeon, w^2 / [H^-1] with H the second moments of the inputs (Hassibi and Stork,
"Second order derivatives for network pruning", NIPS 1992), layer by layer as in Frantar and
Alistarh, "Optimal brain compression", arXiv 2208.11580, and in a few rounds, since the remaining
inputs matter more once others are gone. If spikes have a price, an input is dropped when its spikes
cost more than its saliency is worth. Layers are taken in order and see the pruned and rounded
output of the layers before them, so that each compensates for earlier losses, as in Li et al., "A
free lunch from ANN", arXiv 2106.06984.
"""

import copy
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.least_squares import NormalEquations, normal_equations
from spikesep.spiking.conversion.spike_budget import ConnectionValue
from spikesep.spiking.network import Cut, SpikingNetwork, require_stack
from spikesep.spiking.signal import Signal
from spikesep.spiking.synaptic import Synaptic
from spikesep.spiking.wiring.wires import INPUT

Pruning = Literal["magnitude", "refit"]
"""Drop the weakest inputs at a layer's stage, or as in this module before the first stage."""
ROUNDS = 4
"""In which inputs are given up, as many in each; saliencies are those of the weights fitted in the
round before.
"""


def prune(
    network: SpikingNetwork,
    batches: Iterable[Tensor],
    fan_in: int,
    worth: list[ConnectionValue] | None = None,
) -> list[Tensor]:
    """Fit all layers and the readout to at most `fan_in` inputs per neuron, in place.

    Args:
        network: layers analog or discrete.
        batches: analog inputs of the network, [batch, ...]; together, more positions than a neuron
            has inputs.
        fan_in: largest number of inputs of a neuron; inputs joined by pooling count one by one.
        worth: value of the connections into each layer and the readout; if given, inputs that are
            not worth their spikes are dropped, too. Rates are those of the network as it stands.

    Returns:
        The connections kept for each layer and the readout: bool, the shape of the weight. The
        weights of the others are zero.

    Raises:
        ValueError: a layer is converted already.
        SpikeSepError: `fan_in` is smaller than the pooling before a layer, a layer pads with values
            other than zeros, or there are fewer positions than inputs of a neuron.
    """
    if network.n_converted:
        raise ValueError("only layers that are not converted yet can be refitted")
    require_stack(network, "convert.pruning refit")
    with torch.no_grad():
        for part in network.parts:
            part.fold()
        reference = copy.deepcopy(network)
        for layer in reference.layers.values():
            layer.mode = "analog"
        cuts: list[tuple[Cut, Cut]] = [({INPUT: Signal(x)}, {INPUT: Signal(x)}) for x in batches]
        kept = []
        names = [*network.names, "readout"]
        for index, (part, original) in enumerate(zip(network.parts, reference.parts, strict=True)):
            values = [
                (network.arriving(now, index)[0].value, reference.arriving(then, index)[0].value)
                for now, then in cuts
            ]
            equations = _equations(names[index], part, original, values)
            most = fan_in // part.connectivity.divisor
            if most < 1:
                raise SpikeSepError(
                    "convert.fan_in: smaller than the pooling before a layer; set a larger limit"
                )
            kept.append(_fit(part, equations, most, worth[index] if worth else None))
            if index < len(network):
                stop = index + 1
                cuts = [
                    (network.propagate(now, index, stop), reference.propagate(then, index, stop))
                    for now, then in cuts
                ]
    return kept


def _equations(
    name: str, part: Synaptic, original: Synaptic, values: list[tuple[Tensor, Tensor]]
) -> NormalEquations:
    """Normal equations of one layer or the readout, with enough positions behind them."""
    try:
        equations = normal_equations(part, original, values)
    except NotImplementedError as error:
        raise SpikeSepError(
            f"layer {name}: {error} cannot be refitted; set convert.pruning to magnitude"
        ) from error
    n_inputs = part.synapse.weight[0].numel()
    if equations.n_positions < n_inputs:
        raise SpikeSepError(
            f"layer {name}: {equations.n_positions} positions are too few to fit {n_inputs} "
            "inputs; give more convert.calibration_examples"
        )
    return equations


def _fit(
    module: Synaptic, equations: NormalEquations, fan_in: int, value: ConnectionValue | None
) -> Tensor:
    """Least-squares weights and bias for the inputs that are kept; returns which those are."""
    synapse = module.synapse
    among, across = equations.among, equations.across
    n, n_neurons = among.shape[1] - 1, across.shape[2]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(among))
    weight = (inverse @ across).mT.flatten(0, 1)  # [C_out, n + 1]
    spread = (
        inverse.diagonal(dim1=1, dim2=2)[:, None].expand(-1, n_neurons, -1).flatten(0, 1).clone()
    )
    kept = torch.ones_like(weight[:, :n], dtype=torch.bool)
    gain, price = (1.0, None) if value is None else _gain_of_inputs(module, value, weight.device)
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
            bias = kept.new_tensor([n], dtype=torch.long)
            inputs = torch.cat([kept[row].nonzero()[:, 0], bias])
            moments = among[group][inputs[:, None], inputs]
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
            weight[row] = 0
            weight[row, inputs] = inverse @ across[group, inputs, neuron]
            spread[row, inputs] = inverse.diagonal()
    synapse.weight.copy_((weight[:, :n] * kept).view_as(synapse.weight))
    module.bias.copy_(weight[:, n])
    return kept.view_as(synapse.weight)


def _gain_of_inputs(
    module: Synaptic, value: ConnectionValue, device: torch.device
) -> tuple[Tensor, float]:
    """Factor from saliency to value per spike, [C_out, n], and the price of a spike."""
    connectivity, weight = module.connectivity, module.synapse.weight
    n_weights = weight[0].numel()
    n_taps = n_weights * connectivity.groups // len(value.spikes)
    spikes = connectivity.spread(value.spikes, n_weights) / connectivity.phases(n_taps)
    per_neuron = spikes.repeat_interleave(len(weight) // connectivity.groups, 0).clamp(min=1e-30)
    return (value.sensitivity[:, None] / per_neuron).to(device), value.price
