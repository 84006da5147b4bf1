"""Interface of the models that can be converted."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from spikesep.spiking.network import SpikingNetwork


class ConvertibleModel(Protocol):
    """An `nn.Module` around a `SpikingNetwork`: prediction = decode(network(features), context)."""

    network: SpikingNetwork

    def encode(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the network's input for a batch, and the context that `decode` needs."""
        ...

    def decode(self, potential: Tensor, context: Any) -> Tensor:
        """Return predictions from the network's readout."""
        ...

    def front(self) -> list[nn.Module]:
        """Return the modules that `encode` runs, which conversion leaves unchanged."""
        ...

    # What conversion uses of nn.Module:
    def to(self, device: Any, /) -> Any: ...  # noqa: D102
    def cpu(self) -> Any: ...  # noqa: D102
    def eval(self) -> Any: ...  # noqa: D102
    def train(self, mode: bool = True, /) -> Any: ...  # noqa: D102
    def parameters(self) -> Iterator[nn.Parameter]: ...  # noqa: D102
    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...  # noqa: D102
