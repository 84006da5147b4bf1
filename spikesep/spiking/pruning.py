"""Giving up inputs so that a potential hardly changes: each layer keeps the inputs that its potential misses most, and
their weights are fitted anew, by least squares, to the potential that the analog network has with all of them.

Which inputs go is said by the optimal brain surgeon's saliency, w^2 / [H^-1] with H the second moments of the inputs
(Hassibi and Stork, "Second order derivatives for network pruning", NIPS 1992), a layer at a time as in Frantar and
Alistarh, "Optimal brain compression", arXiv 2208.11580. Layers are taken in order and see what those before them make
now, pruned and rounded, so that each makes up for what was lost before it, as in Li et al., "A free lunch from ANN",
arXiv 2106.06984.
"""

import copy
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.errors import SpikeSepError
from spikesep.spiking.connections import divisor, padding_of
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.quantize import strongest
from spikesep.spiking.signal import Signal

Pruning = Literal["magnitude", "refit"]
"""How inputs are given up: the weakest at a layer's stage, or as here, before the first."""
RIDGE = 1e-3
"""Pull toward the old weights, in mean powers of an input: it decides where inputs tell nothing."""
ROWS = 32
"""Neurons whose equations are solved at once."""


def prune(network: SpikingNetwork, batches: Iterable[Tensor], fan_in: int) -> list[Tensor]:
    """Fit all layers and the readout anew to at most `fan_in` inputs a neuron, in place.

    Args:
        network: its layers analog or discrete; their norms are folded.
        batches: of its analog input, [batch, ...]: in all, more positions than a neuron has inputs.
        fan_in: most inputs of a neuron, those that pooling joins counted one by one.

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
                moments, n = _moments(module, model.synapse, [(now.value, then.value) for now, then in signals])
            except NotImplementedError as error:
                raise SpikeSepError(
                    f"layer {name}: {error} cannot be fitted anew; set ptl.pruning to magnitude"
                ) from error
            n_inputs = module.synapse.weight[0].numel()
            if n < n_inputs:
                raise SpikeSepError(
                    f"layer {name}: {n} positions are too few to fit {n_inputs} inputs; give more "
                    "ptl.calibration_examples"
                )
            kept.append(_fit(module.synapse, *moments, fan_in // int(divisor(module))))
            if index < len(network):
                signals = [
                    (network.propagate(now, index, index + 1), meant.propagate(then, index, index + 1))
                    for now, then in signals
                ]
    return kept


def _moments(
    module: nn.Module, synapse: nn.Module, values: list[tuple[Tensor, Tensor]]
) -> tuple[tuple[Tensor, Tensor], int]:
    """Mean products of the inputs there are with each other, [groups, n + 1, n + 1], and with the potentials that
    `synapse` makes of the inputs that are meant, [groups, n + 1, C_out / groups]; the last input is the bias's one.
    And over how many positions."""
    before = module.before or nn.Identity()
    among, across, n = 0.0, 0.0, 0
    for now, then in values:
        columns = _columns(synapse, before(now))
        potential = synapse(before(then)).movedim(-1 if isinstance(synapse, nn.Linear) else 1, 0).flatten(1)
        potential = potential.unflatten(0, (len(columns), -1))
        among = among + (columns @ columns.mT).double()
        across = across + (columns @ potential.mT).double()
        n += columns.shape[2]
    return (among / n, across / n), n


def _columns(synapse: nn.Module, value: Tensor) -> Tensor:
    """What a neuron receives at each position, in the order of its weights, then a one: [groups, n + 1, positions]."""
    if isinstance(synapse, nn.Linear):
        columns = value.movedim(-1, 0).flatten(1)[None]
    else:
        image = value if value.ndim == 4 else value[:, :, None]
        ones = [1] * (image.ndim - value.ndim)
        kernel, dilation, stride = (
            (*ones, *numbers) for numbers in (synapse.kernel_size, synapse.dilation, synapse.stride)
        )
        padding = (*[0] * len(ones), *padding_of(synapse))
        patches = F.unfold(image, kernel, dilation, padding, stride)
        columns = patches.movedim(1, 0).flatten(1).unflatten(0, (synapse.groups, -1))
    return torch.cat([columns, columns.new_ones(len(columns), 1, columns.shape[2])], 1)


def _fit(synapse: nn.Module, among: Tensor, across: Tensor, fan_in: int) -> Tensor:
    """Weights and bias of least squares on the inputs that are kept; which those are."""
    n_groups, n = len(among), among.shape[1] - 1
    old = torch.cat([synapse.weight.flatten(1), synapse.bias[:, None]], 1).double().unflatten(0, (n_groups, -1))
    ridge = RIDGE * among.diagonal(dim1=1, dim2=2)[:, :-1].mean(1)[:, None, None].clamp(min=1e-12)
    among = among + ridge * torch.eye(n + 1, dtype=among.dtype, device=among.device)
    across = across + ridge * old.mT
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(among))
    full = (inverse @ across).mT  # [groups, C_out / groups, n + 1]
    saliency = full[..., :n].square() / inverse.diagonal(dim1=1, dim2=2)[:, None, :n]
    kept = strongest(saliency.flatten(0, 1), fan_in)
    weight = torch.zeros_like(full).flatten(0, 1)
    always = torch.ones(len(kept), 1, dtype=torch.bool, device=kept.device)  # the bias
    solved = torch.cat([kept, always], 1).nonzero()[:, 1].view(len(kept), -1)
    for rows in torch.arange(len(kept), device=kept.device).split(ROWS):
        inputs, group = solved[rows], rows // (len(kept) // n_groups)
        matrix = among[group[:, None, None], inputs[:, :, None], inputs[:, None, :]]
        wanted = across[group[:, None], inputs, (rows % (len(kept) // n_groups))[:, None]]
        weight[rows[:, None], inputs] = torch.cholesky_solve(wanted[:, :, None], torch.linalg.cholesky(matrix))[..., 0]
    synapse.weight.copy_(weight[:, :n].view_as(synapse.weight))
    synapse.bias.copy_(weight[:, n])
    return kept.view_as(synapse.weight)
