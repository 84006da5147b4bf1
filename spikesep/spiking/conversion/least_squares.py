"""What a layer's neurons receive, as the second moments that least squares need to choose the weights anew."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.spiking.connections import padding_of

RIDGE = 1e-3
"""Pull toward the old weights, in mean powers of an input: it decides where inputs tell nothing."""


@dataclass(frozen=True)
class Moments:
    """The normal equations of the weights W that give potentials back best: W @ among = across^T, a group at a time.

    Attributes:
        among: mean products of the inputs with each other, [groups, n + 1, n + 1]; the last is the bias's, always one.
        across: of the inputs with the wanted potentials, [groups, n + 1, C_out / groups].
        n_positions: of which these are means.
    """

    among: Tensor
    across: Tensor
    n_positions: int


def moments_of(
    module: nn.Module, synapse: nn.Module, values: list[tuple[Tensor, Tensor]]
) -> Moments:
    """Of a layer's or readout's inputs, with a pull toward the weights of `synapse`.

    Args:
        module: what comes before its synapse, and the synapse's geometry, are looked at.
        synapse: makes the wanted potentials.
        values: batches of the inputs that there are now, and of those that it makes them of.

    Raises:
        NotImplementedError: the synapse pads with other than zeros.
    """
    before = module.before or nn.Identity()
    among, across, n = 0.0, 0.0, 0
    for now, then in values:
        columns = _columns(synapse, before(now))
        potential = (
            synapse(before(then)).movedim(-1 if isinstance(synapse, nn.Linear) else 1, 0).flatten(1)
        )
        potential = potential.unflatten(0, (len(columns), -1))
        among = among + (columns @ columns.mT).double()
        across = across + (columns @ potential.mT).double()
        n += columns.shape[2]
    old = (
        torch.cat([synapse.weight.flatten(1), synapse.bias[:, None]], 1)
        .double()
        .unflatten(0, (len(among), -1))
    )
    ridge = RIDGE * (among / n).diagonal(dim1=1, dim2=2)[:, :-1].mean(1)[:, None, None].clamp(
        min=1e-12
    )
    identity = torch.eye(among.shape[1], dtype=among.dtype, device=among.device)
    return Moments(among / n + ridge * identity, across / n + ridge * old.mT, n)


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
