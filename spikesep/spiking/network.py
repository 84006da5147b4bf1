"""A stack of layers that convert one by one, with an analog readout behind them."""

from collections.abc import Callable, ItemsView, ValuesView
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.engines import ENGINES, require_gpu
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal
from spikesep.spiking.synaptic import Synaptic

Observer = Callable[[str, Any, Signal, Signal], None]
"""Called with the name of a layer or "readout", the module, its input and its output."""


class NotConvertibleError(SpikeSepError):
    """A part of a network has no spiking counterpart; the message names it and the remedy."""


class Layers(nn.ModuleDict):
    """Spiking layers by name, in order."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> SpikingLayer: ...
        def values(self) -> ValuesView[SpikingLayer]: ...  # noqa: D102
        def items(self) -> ItemsView[str, SpikingLayer]: ...  # noqa: D102


class SpikingNetwork(nn.Module):
    """Layers that convert one by one, and the readout behind them.

    Args:
        layers: the layers in order, by name or in a list.
        readout: gives the potential of output neurons that do not fire (eq. 9).

    Raises:
        ValueError: there is no layer, or the first has an identity path.
    """

    def __init__(self, layers: "dict[str, SpikingLayer] | list[SpikingLayer]", readout: Readout):
        super().__init__()
        named = (
            layers
            if isinstance(layers, dict)
            else {str(i): layer for i, layer in enumerate(layers)}
        )
        if not named:
            raise ValueError("a network has at least one layer before its readout")
        if next(iter(named.values())).identity:
            raise ValueError(
                "the first layer cannot have an identity path: its input is analog, and the sum of "
                "an analog signal and spikes does not spike"
            )
        self.layers = Layers(named)
        self.readout = readout

    def forward(self, x: Tensor | Signal, observe: Observer | None = None) -> Tensor:
        """Readout potential for an analog input or a signal, [batch, ...].

        Args:
            x: the input.
            observe: called after each layer and the readout.
        """
        return self.read(self.propagate(x, 0, len(self.layers), observe), observe)

    def propagate(
        self, x: Tensor | Signal, start: int, stop: int, observe: Observer | None = None
    ) -> Signal:
        """The signal behind layers start..stop-1, given the signal before layer `start`."""
        signal = x if isinstance(x, Signal) else Signal(x)
        for name, layer in list(self.layers.items())[start:stop]:
            out = layer(signal)
            if observe is not None:
                observe(name, layer, signal, out)
            signal = signal + out if layer.identity else out
        return signal

    def read(self, signal: Signal, observe: Observer | None = None) -> Tensor:
        """The free aggregate membrane potential (eq. 9) of the signal behind the last layer."""
        out = self.readout(signal)
        if observe is not None:
            observe("readout", self.readout, signal, out)
        return out.value

    @property
    def parts(self) -> list[Synaptic]:
        """The layers in order, then the readout."""
        return [*self.layers.values(), self.readout]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> SpikingLayer:
        return list(self.layers.values())[index]

    def thaw(self) -> None:
        """Let a network whose layers all spike learn on: all layers round (eq. 10).

        Raises:
            ValueError: a layer does not spike, or its weights have few bits.
        """
        for layer in self.layers.values():
            layer.thaw()
        self.readout.requires_grad_(True)

    @property
    def names(self) -> list[str]:
        """The layers' names, in order."""
        return list(self.layers)

    @property
    def n_converted(self) -> int:
        """Number of layers, from the first on, that are tandem or spiking."""
        return sum(layer.mode in ("tandem", "spiking") for layer in self.layers.values())

    @property
    def is_fixed_point(self) -> bool:
        """Whether all layers compute in integers."""
        return all(layer.fixed is not None for layer in self.layers.values())

    @property
    def coding(self) -> Coding | None:
        """Coding of the converted layers; None while all are analog."""
        return self[0]._coding

    @property
    def limits(self) -> HardwareLimits:
        """Hardware limits of the converted layers."""
        return self[0].limiter.limits if self[0].limiter is not None else HardwareLimits()

    def conversion_settings(self) -> dict[str, Any]:
        """Plain values for JSON that `restore_conversion` needs beside the tensors."""
        return {
            "coding": asdict(self.coding) if self.coding else None,
            "limits": asdict(self.limits),
            "n_converted": self.n_converted,
            "fixed_point": self.is_fixed_point,
        }

    def restore_conversion(self, settings: dict[str, Any]) -> None:
        """Bring an analog network into the state in which another was saved.

        Load the tensors afterwards.
        """
        limits = HardwareLimits(**settings.get("limits", {}))
        for index in range(settings["n_converted"]):
            # The true threshold and the limits' grid are among the tensors.
            self[index].convert(1.0, Coding(**settings["coding"]), limits=limits)
            self[index].freeze()
        if limits and settings["n_converted"] == len(self):
            self.readout.impose(limits)
            self.readout.freeze()
        if settings.get("fixed_point"):
            for layer in self.layers.values():
                layer.fixed = FixedPoint(layer.synapse)

    def require_float32(self) -> None:
        """Check that all weights are float32, the numbers that spiking layers compute in.

        Raises:
            NotConvertibleError: they are not.
        """
        for name, part in zip([*self.names, "readout"], self.parts, strict=True):
            if part.synapse.weight.dtype != torch.float32:
                dtype = str(part.synapse.weight.dtype).removeprefix("torch.")
                raise NotConvertibleError(
                    f"layer {name}: its weights are {dtype}; call .float() on the network first"
                )

    def use_engine(self, name: str) -> None:
        """Run spiking layers on `auto`, `dense`, `event` or `gpu`; see `spikesep.spiking.engines`.

        Raises:
            ValueError: there is no such engine.
            SpikeSepError: it is `gpu`, and the network is not on an accelerator.
        """
        if name not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {name!r}")
        if name == "gpu":
            require_gpu(self.readout.synapse.weight.device)
        for layer in self.layers.values():
            layer.engine = name

    def plan(self) -> str:
        """One line per layer: what conversion makes of it."""
        lines = []
        for name, layer in self.layers.items():
            norm = "" if layer.norm is None else " + norm folded"
            path = (
                ", beside an identity path"
                if layer.identity
                else ", its input added"
                if layer.residual
                else ""
            )
            lines.append(f"{name}: {layer.connectivity.describe}{norm} -> integrate-and-fire{path}")
        readout = self.readout.connectivity.describe
        lines.append(f"readout: {readout} -> aggregate membrane potential (analog)")
        return "\n".join(lines)
