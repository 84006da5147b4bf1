"""Base of layers and readout: synapses, their connectivity, hardware limits."""

import copy
from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.folding import fold
from spikesep.spiking.hardware_limits import HardwareLimits, Limiter
from spikesep.spiking.synapses.connectivity import Connectivity
from spikesep.spiking.synapses.kinds import as_synapse, connectivity_of
from spikesep.spiking.synapses.modules import Synapse


class Synaptic(nn.Module):
    """A module with a synapse and, before it, a linear map without weights.

    Args:
        synapse: a module of one of the kinds in `synapses.kinds`.
        before: flattening, average pooling, or None.
        shortcuts: further synapses onto the same neurons, each with an input of its own. Their
            currents add up.

    Raises:
        ValueError: a part that cannot be converted.
    """

    def __init__(
        self,
        synapse: nn.Module,
        before: nn.Module | None = None,
        shortcuts: "Iterable[Synaptic]" = (),
    ):
        super().__init__()
        self.synapse: Synapse = as_synapse(synapse)
        self.before = before
        self.connectivity = connectivity_of(self.synapse, before)
        self.limiter: Limiter | None = None
        self.shortcuts = nn.ModuleList(shortcuts)

    @property
    def branches(self) -> "list[Synaptic]":
        """The module itself for its first synapse, then its shortcuts."""
        return [self, *self._shortcuts()]

    def connected(self, connectivity: Connectivity) -> Self:
        """The same module, sharing all tensors, with other connections of its first synapse."""
        twin = copy.copy(self)
        twin.connectivity = connectivity
        return twin

    def side_currents(self, values: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """Yield the currents of the shortcuts, given the inputs of all synapses."""
        for shortcut, value in zip(self._shortcuts(), values[1:], strict=True):
            yield shortcut.synapse(shortcut.connectivity.pool(value))

    @property
    def bias(self) -> Tensor:
        """The bias of the synapse, [C_out].

        Raises:
            ValueError: it has none; `fold` gives it one.
        """
        if self.synapse.bias is None:
            raise ValueError("the synapse has no bias; fold the layer first")
        return self.synapse.bias

    @property
    def kept(self) -> Tensor | None:
        """The synapses that pruning left, bool, the shape of the weight; None for all."""
        return None if self.limiter is None else self.limiter.kept

    def fold(self) -> None:
        """Give the synapse a bias, of zeros where it has none; those of shortcuts go into it."""
        self.synapse = fold(self.synapse, None)
        self._fold_side_biases()

    def prune(self, kept: Tensor, fan_in: int) -> None:
        """Keep only these synapses. The weights go on learning.

        Args:
            kept: bool, the shape of the weight. Norms are folded already.
            fan_in: the limit that `kept` obeys.
        """
        limits = HardwareLimits(fan_in=fan_in)
        self.limiter = Limiter(limits, self.synapse.weight, self.bias, kept=kept)

    def impose(self, limits: HardwareLimits) -> None:
        """Compute with weights that the hardware can hold. Synapses pruned before stay pruned.

        Raises:
            SpikeSepError: the fan-in is smaller than the pooling, or there are shortcuts.
        """
        if self.shortcuts:
            raise SpikeSepError(
                "hardware limits (fan_in, qat_bits) on neurons of several synapses are not "
                "supported; set them to 0"
            )
        n_pooled = self.connectivity.divisor
        self.limiter = Limiter(limits, self.synapse.weight, self.bias, n_pooled, self.kept)

    def reserve(self, limits: HardwareLimits) -> None:
        """Make room for the tensors of limits, which are loaded next."""
        weight = self.synapse.weight
        kept = torch.ones_like(weight, dtype=torch.bool) if limits.fan_in else None
        self.limiter = Limiter(limits, weight, self.bias, kept=kept)

    def _shortcuts(self) -> "Iterator[Synaptic]":
        for shortcut in self.shortcuts:
            assert isinstance(shortcut, Synaptic)
            yield shortcut

    def _fold_side_biases(self) -> None:
        for shortcut in self._shortcuts():
            bias = shortcut.synapse.bias
            if bias is None:
                continue
            with torch.no_grad():
                self.bias.add_(bias)
            bare: nn.Module = copy.deepcopy(shortcut.synapse)
            bare.register_parameter("bias", None)
            shortcut.synapse = bare  # type: ignore[assignment]
