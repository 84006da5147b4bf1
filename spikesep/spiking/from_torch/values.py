"""Values between the operations of a traced network: activations and currents."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from spikesep.spiking.folding import BatchNorm, fold, moments
from spikesep.spiking.from_torch.modules import AVERAGES, refusal
from spikesep.spiking.synapses.kinds import NO_OPS, as_synapse
from spikesep.spiking.synapses.modules import OneToOne
from spikesep.spiking.wiring.maps import Rearrangement, SpikeMap
from spikesep.spiking.wiring.wires import INPUT, Concatenation, Mapped, Sum, Wire

Named = tuple[str, nn.Module]
"""A module and its path."""


@dataclass(frozen=True)
class Activation:
    """Outputs of neurons, or the network's input, on their way to a synapse.

    Attributes:
        wire: whose outputs, and how they are joined.
        before: linear maps that only a synapse can follow, and dropout.
        norms: batch norms that the next synapse takes up.
    """

    wire: Wire
    before: tuple[Named, ...] = ()
    norms: tuple[Named, ...] = ()

    def behind(self, path: str, module: nn.Module) -> "Activation":
        """Behind a linear map without weights."""
        return replace(self, before=(*self.before, (path, module)))

    def joined(self, what: str) -> Wire:
        """The wire alone, as a sum, a concatenation or max pooling takes it.

        Args:
            what: takes it, for the message.

        Raises:
            NotConvertibleError: average pooling or a norm stands before.
        """
        wire = self.wire
        for own, module in self.before:
            if isinstance(module, AVERAGES):
                raise refusal(own, module, f"stands before {what}; move it behind")
            if isinstance(module, nn.Flatten):
                start, end = module.start_dim, module.end_dim
                move = Rearrangement(torch.flatten, "flatten", start_dim=start, end_dim=end)
                wire = Mapped(wire, move)
        for own, module in self.norms:
            raise refusal(
                own, module, f"stands before {what}; put it behind a Linear or Conv layer"
            )
        return wire

    def mapped(self, module: SpikeMap, what: str) -> "Activation":
        """Behind a map of spikes to spikes.

        Raises:
            NotConvertibleError: average pooling or a norm stands before, or the map does not suit.
        """
        return Activation(Mapped(self.joined(what), module), self._dropout())

    def _dropout(self) -> tuple[Named, ...]:
        return tuple(named for named in self.before if isinstance(named[1], NO_OPS))

    @property
    def is_input(self) -> bool:
        """Whether the network's input is among it: it may be negative."""
        return INPUT in self.wire.names


@dataclass(frozen=True)
class Term:
    """One synapse of a current.

    Attributes:
        path: of the synapse.
        synapse: a module.
        wire: what it receives.
        before: linear maps before it, and dropout.
        norm: batch norm behind it, or None.
    """

    path: str
    synapse: nn.Module
    wire: Wire
    before: tuple[Named, ...] = ()
    norm: nn.Module | None = None

    @property
    def map(self) -> nn.Sequential | None:
        """The maps before the synapse, as a layer takes them."""
        return nn.Sequential(*(module for _, module in self.before)) if self.before else None


@dataclass(frozen=True)
class Current:
    """Synaptic current of neurons before they fire: a sum over synapses.

    Attributes:
        terms: the synapses.
        behind: dropout, and maps that must move behind the ReLU.
        maps: maps of spikes that apply to the neurons' output: they commute with a ReLU.
    """

    terms: tuple[Term, ...]
    behind: tuple[Named, ...] = ()
    maps: tuple[tuple[str, SpikeMap], ...] = field(default=())


def concatenation(wires: Sequence[Wire], dim: int) -> Activation:
    """Activations side by side."""
    return Activation(Concatenation(tuple(wires), dim))


def addition(wires: Sequence[Wire]) -> Activation:
    """The sum of activations."""
    parts = tuple(p for wire in wires for p in (wire.parts if isinstance(wire, Sum) else (wire,)))
    return Activation(Sum(parts))


def shortcut(path: str, activation: Activation, like: Term) -> Term:
    """Synapses of weight one that hand activations on to the neurons of another synapse."""
    wire = activation.joined("an addition")
    weight = like.synapse.weight
    assert isinstance(weight, Tensor)
    n_channels = _n_outputs(like.synapse)
    ones = torch.ones(n_channels, dtype=weight.dtype, device=weight.device)
    return Term(path, OneToOne(ones, isinstance(like.synapse, nn.Linear)), wire)


def with_norm_before(path: str, norm: BatchNorm, synapse: nn.Module, own: str) -> nn.Module:
    """A copy of a synapse that takes up a batch norm over its input.

    Raises:
        NotConvertibleError: the synapse pads its input with zeros, which the norm would shift.
    """
    variance, mean = moments(norm)
    scale = torch.rsqrt(variance + norm.eps)
    scale = (scale if norm.weight is None else norm.weight * scale).detach()
    shift = (-mean * scale if norm.bias is None else norm.bias.detach() - mean * scale).detach()
    if _pads(synapse) and (shift.is_meta or bool((shift != 0).any())):
        raise refusal(
            path,
            norm,
            f"stands before '{own}', which pads with zeros: its shift cannot be folded; put the "
            "norm behind a Linear or Conv layer, or take padding=0",
        )
    whole: Any = copy.deepcopy(synapse)
    weight = whole.weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        rows = weight.detach()
        n_groups = getattr(synapse, "groups", 1)
        per_weight = rows.shape[1] * n_groups // len(scale)  # positions of a flattened map
        scales, shifts = (
            v.repeat_interleave(per_weight).view(n_groups, 1, -1, *[1] * (rows.ndim - 2))
            for v in (scale, shift)
        )
        grouped = rows.unflatten(0, (n_groups, -1))
        offset = (grouped * shifts).flatten(2).sum(2).flatten()
        whole.weight = nn.Parameter((grouped * scales).flatten(0, 1))
        bias = whole.bias
        whole.bias = nn.Parameter(offset if bias is None else offset + bias)
    return whole


def folded(term: Term) -> Term:
    """A term whose norm is folded into a copy of its synapse."""
    if term.norm is None:
        return term
    assert isinstance(term.norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    return replace(term, synapse=fold(as_synapse(term.synapse), term.norm), norm=None)


def _pads(synapse: nn.Module) -> bool:
    if isinstance(synapse, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        return True  # outputs at the borders receive fewer taps
    if isinstance(synapse, nn.Linear) or getattr(synapse, "padding", 0) == "valid":
        return False
    if getattr(synapse, "padding_mode", "zeros") != "zeros":
        return False
    padding: Any = getattr(synapse, "padding", 0)
    return padding == "same" or any(padding)


def _n_outputs(synapse: nn.Module) -> int:
    if isinstance(synapse, OneToOne):
        return len(synapse.weight)
    return int(getattr(synapse, "out_channels", getattr(synapse, "out_features", 0)))
