"""Normal equations of a layer's weights, for least squares in pruning and in rounding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikesep.spiking.synapses.connectivity import Connectivity
from spikesep.spiking.synaptic import Synaptic

RIDGE = 1e-3
"""Regularization toward the old weights, in mean powers of an input; decides where inputs carry no
information.
"""


@dataclass(frozen=True)
class NormalEquations:
    """Normal equations of the weights W with the best potentials: W @ among = across^T per group.

    Attributes:
        among: mean products of the inputs with each other, [groups, n + 1, n + 1]; the last input
            is the constant one of the bias.
        across: mean products of the inputs with the desired potentials,
            [groups, n + 1, C_out / groups].
        n_positions: number of positions averaged over.
    """

    among: Tensor
    across: Tensor
    n_positions: int


def normal_equations(
    module: Synaptic, original: Synaptic, values: list[tuple[Tensor, Tensor]]
) -> NormalEquations:
    """Normal equations for the weights of a layer or readout, regularized toward given weights.

    Args:
        module: the layer, for its connectivity.
        original: gives the desired potentials; its weights are those that regularization favors.
        values: batches of the present inputs, and of the inputs that `original` is applied to.

    Raises:
        NotImplementedError: the synapse pads with values other than zeros.
    """
    bare = module.connectivity.without_map()
    pool = module.connectivity.pool
    channels = -1 if bare.out_channels_last else 1
    synapse = original.synapse
    n_inputs, n_outputs = synapse.weight[0].numel() + 1, len(synapse.weight) // bare.groups
    among = synapse.weight.new_zeros(bare.groups, n_inputs, n_inputs, dtype=torch.float64)
    across = among.new_zeros(bare.groups, n_inputs, n_outputs)
    n = 0
    for now, then in values:
        columns = _columns(bare, pool(now))
        potential = synapse(pool(then)).movedim(channels, 0).flatten(1)
        potential = potential.unflatten(0, (len(columns), -1))
        among = among + (columns @ columns.mT).double()
        across = across + (columns @ potential.mT).double()
        n += columns.shape[2]
    old = torch.cat([synapse.weight.flatten(1), original.bias[:, None]], 1).double()
    old = old.unflatten(0, (len(among), -1))
    powers = (among / n).diagonal(dim1=1, dim2=2)[:, :-1].mean(1)
    ridge = RIDGE * powers[:, None, None].clamp(min=1e-12)
    identity = torch.eye(among.shape[1], dtype=among.dtype, device=among.device)
    return NormalEquations(among / n + ridge * identity, across / n + ridge * old.mT, n)


def _columns(connectivity: Connectivity, value: Tensor) -> Tensor:
    """Inputs of a neuron at each position in the order of its weights, then a one.

    Returns:
        [groups, n + 1, positions].
    """
    table = connectivity.table(value.shape[1:])
    rows = connectivity.to_rows(value[None])[0]
    rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])  # padding is a row of zeros
    entries = torch.from_numpy(table.rows(len(value))).long().to(value.device)
    columns = rows[torch.where(entries < 0, len(rows) - 1, entries)]  # [positions, taps, C_in]
    columns = columns.permute(2, 1, 0).flatten(0, 1).unflatten(0, (connectivity.groups, -1))
    return torch.cat([columns, columns.new_ones(len(columns), 1, columns.shape[2])], 1)
