"""Interface of the models that can be converted."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from spikesep.spiking.network import SpikingNetwork


class ConvertibleModel(nn.Module):
    """A module around a `SpikingNetwork`: prediction = decode(network(features), context).

    Any module with this attribute and these methods can be converted; to subclass helps type
    checkers.
    """

    network: SpikingNetwork

    @abstractmethod
    def encode(self, x: Tensor, /) -> tuple[Tensor, Any]:
        """Return the network's input for a batch, and the context that `decode` needs."""

    @abstractmethod
    def decode(self, potential: Tensor, context: Any, /) -> Tensor:
        """Return predictions from the network's readout."""

    @abstractmethod
    def front(self) -> list[nn.Module]:
        """Return the modules that `encode` runs, which conversion leaves unchanged."""
