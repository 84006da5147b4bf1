"""An ordered stack of convertible layers with an analog readout; which of them spike; what cannot be converted."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from spikesep.spiking.conversion.equivalence import require_same
from spikesep.spiking.conversion.sequential import NotConvertibleError, group
from spikesep.spiking.engines import ENGINES, require_gpu
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.layer import Readout, SpikingLayer
from spikesep.spiking.signal import Coding, Signal

Observer = Callable[[str, nn.Module, Signal, Signal], None]


class SpikingNetwork(nn.Module):
    """Layers that can be converted one by one, and the readout behind them.

    Args:
        layers: the convertible layers in order, by name or in a list.
        readout: reads the potential of the last layer's neurons, which do not fire (eq. 9).

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
                "the first layer cannot hand on its input: it is analog, and a sum with spikes is not spiking"
            )
        self.layers = nn.ModuleDict(named)
        self.readout = readout

    @classmethod
    def from_sequential(
        cls, network: nn.Sequential, example: Tensor | None = None
    ) -> "SpikingNetwork":
        """Make a network of a Sequential of known modules; its last synapse, which has no ReLU, is
        the readout.

        Weights are taken as they are, not copied; weights that are computed (weight norm, pruning
        masks) are taken at their present value. Both networks are run once, to see that they
        compute the same.

        Args:
            network: of Linear, Conv1d, Conv2d, batch norm, ReLU, average pooling, Flatten and what
                does nothing in inference; Sequentials may be nested.
            example: an input for that run, [batch, ...]; None makes one up that fits the layers.

        Raises:
            NotConvertibleError: a module has no spiking counterpart or computes something of its
                own; the message names it by its path.
        """
        layers, readout = group(network)
        spiking = cls(layers, readout)
        spiking.require_float32()
        require_same(network, spiking, example)
        return spiking

    def forward(self, x: Tensor | Signal, observe: Observer | None = None) -> Tensor:
        """Readout potential for an analog input or a signal, [batch, ...].

        `observe`, if given, is called with (name, module, input signal, output signal) for each layer and the readout.
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
    def parts(self) -> list[SpikingLayer | Readout]:
        """The layers in order, then the readout."""
        return [*self.layers.values(), self.readout]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> SpikingLayer:
        return list(self.layers.values())[index]

    def thaw(self) -> None:
        """Have a network whose layers all spike learn on, as before its first stage: all layers round (eq. 10).

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
        """How many layers, from the first on, are tandem or spiking."""
        return sum(layer.mode in ("tandem", "spiking") for layer in self.layers.values())

    @property
    def is_fixed_point(self) -> bool:
        """Whether the layers compute in integers."""
        return all(layer.fixed is not None for layer in self.layers.values())

    @property
    def coding(self) -> Coding | None:
        """How the converted layers code values as spikes; None where all are analog."""
        return self[0].coding

    @property
    def limits(self) -> HardwareLimits:
        """The hardware's limits that the converted layers keep to."""
        return self[0].limiter.limits if self[0].limiter is not None else HardwareLimits()

    def conversion_settings(self) -> dict[str, Any]:
        """What `restore_conversion` needs beside the tensors, for JSON."""
        return {
            "coding": asdict(self.coding) if self.coding else None,
            "limits": asdict(self.limits),
            "n_converted": self.n_converted,
            "fixed_point": self.is_fixed_point,
        }

    def restore_conversion(self, settings: dict[str, Any]) -> None:
        """Bring a network that is still analog to the state in which another was saved; its tensors come after."""
        limits = HardwareLimits(**settings.get("limits", {}))
        for index in range(settings["n_converted"]):
            # The true threshold and the limits' grid are among the tensors.
            self[index].convert(1.0, Coding(**settings["coding"]), limits=limits)
            self[index].freeze()
        if limits and settings["n_converted"] == len(self):
            self.readout.limit(limits)
            self.readout.freeze()
        if settings.get("fixed_point"):
            for layer in self.layers.values():
                layer.fixed = FixedPoint(layer.synapse)

    def require_float32(self) -> None:
        """See that all weights are float32, the numbers in which spiking layers compute.

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
        """Run the spiking layers on `auto`, `dense`, `event` or `gpu`, see `spikesep.spiking.engines`.

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
        """What conversion makes of each layer, a line each."""
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
            lines.append(f"{name}: {_shape(layer.synapse)}{norm} -> integrate-and-fire{path}")
        return "\n".join(
            [
                *lines,
                f"readout: {_shape(self.readout.synapse)} -> aggregate membrane potential (analog)",
            ]
        )


def _shape(synapse: nn.Module) -> str:
    kind = type(synapse).__name__
    if isinstance(synapse, nn.Linear):
        return f"{kind} {synapse.in_features}->{synapse.out_features}"
    groups = f" g{synapse.groups}" if synapse.groups > 1 else ""
    kernel, dilation = ("x".join(map(str, n)) for n in (synapse.kernel_size, synapse.dilation))
    return f"{kind} {synapse.in_channels}->{synapse.out_channels} k{kernel} d{dilation}{groups}"
