"""What layers and the readout have in common: a synapse, its connectivity, its hardware limits."""

from torch import Tensor, nn

from spikesep.spiking.folding import fold
from spikesep.spiking.hardware_limits import HardwareLimits, Limiter
from spikesep.spiking.synapses.kinds import Synapse, as_synapse, connectivity_of


class Synaptic(nn.Module):
    """A module with one synapse and, before it, a linear map without weights.

    Args:
        synapse: Linear, Conv1d, Conv2d or ConvTranspose1d.
        before: flattening, average pooling, or None.

    Raises:
        ValueError: a part that cannot be converted.
    """

    def __init__(self, synapse: nn.Module, before: nn.Module | None = None):
        super().__init__()
        self.synapse: Synapse = as_synapse(synapse)
        self.before = before
        self.connectivity = connectivity_of(self.synapse, before)
        self.limiter: Limiter | None = None

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
        """Give the synapse a bias, of zeros where it has none."""
        self.synapse = fold(self.synapse, None)

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
            SpikeSepError: the fan-in is smaller than the pooling.
        """
        n_pooled = self.connectivity.divisor
        self.limiter = Limiter(limits, self.synapse.weight, self.bias, n_pooled, self.kept)
