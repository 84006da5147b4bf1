"""Batch norm folded into the weights of the synapse before it."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from spikesep.spiking.synapses.modules import Synapse

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def as_batch_norm(norm: nn.Module, synapse: Synapse) -> BatchNorm:
    """The norm, checked that it can be folded into a synapse.

    Raises:
        ValueError: it is no batch norm over the synapse's channels, or keeps no statistics.
    """
    if not isinstance(norm, NORMS):
        raise ValueError(f"a norm is batch norm, not {type(norm).__name__}")
    wanted = nn.BatchNorm2d if isinstance(synapse, nn.Conv2d) else nn.BatchNorm1d
    found, kind = type(norm).__name__, type(synapse).__name__
    if not isinstance(norm, wanted):
        raise ValueError(f"{found} behind {kind} is not over its channels; take {wanted.__name__}")
    if norm.num_features != len(synapse.weight):
        raise ValueError(
            f"{found} of {norm.num_features} features is not over the {len(synapse.weight)} "
            f"channels of {kind}; take {found}({len(synapse.weight)})"
        )
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            f"{found} keeps no running statistics, which conversion folds into weights; "
            "train it with track_running_stats=True"
        )
    return norm


def moments(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Running variance and mean of a norm that `as_batch_norm` accepts."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    return norm.running_var, norm.running_mean


def fold(synapse: Synapse, norm: BatchNorm | None) -> Synapse:
    """A copy of a synapse, with a bias, that computes norm(synapse(x)) in inference.

    Uses the running statistics of the norm and its eps.
    """
    weight = synapse.weight.detach().clone()
    bias = weight.new_zeros(len(weight)) if synapse.bias is None else synapse.bias.detach().clone()
    if norm is not None:
        with torch.no_grad():
            variance, mean = moments(norm)
            weight, bias = folded_weights(weight, bias, norm, mean, variance)
    whole: Any = copy.deepcopy(synapse)
    whole.weight = nn.Parameter(weight)
    whole.bias = nn.Parameter(bias)
    return whole


def folded_weights(
    weight: Tensor, bias: Tensor | None, norm: BatchNorm, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a synapse followed by a batch norm with these moments.

    Args:
        weight: [C_out, ...].
        bias: [C_out], or None.
        norm: the batch norm, for its gain, bias and eps.
        mean, variance: [C_out].
    """
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else norm.weight * scale
    shift = 0.0 if norm.bias is None else norm.bias
    rest = -mean if bias is None else bias - mean
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), rest * scale + shift
