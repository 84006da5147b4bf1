"""An ordered stack of convertible layers with an analog readout; which of them spike; what cannot be converted."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.engines import ENGINES, require_gpu
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.layer import NORMS, SYNAPSES, Readout, SpikingLayer
from spikesep.spiking.quantize import HardwareLimits
from spikesep.spiking.signal import Coding, Signal

Observer = Callable[[str, nn.Module, Signal, Signal], None]

BEFORE = (nn.Flatten, nn.AvgPool1d, nn.AvgPool2d, nn.Dropout, nn.Identity)
REMEDIES = {
    nn.MaxPool1d: "take AvgPool1d or a stride",
    nn.MaxPool2d: "take AvgPool2d or a stride",
    nn.PReLU: "take ReLU and train again: a spiking neuron has no negative output",
    nn.LeakyReLU: "take ReLU and train again: a spiking neuron has no negative output",
    nn.GELU: "take ReLU and train again",
    nn.SiLU: "take ReLU and train again",
    nn.Sigmoid: "take ReLU inside the stack; a sigmoid may follow the readout, outside of it",
    nn.LayerNorm: "take batch norm: a norm over the input at hand cannot be folded into weights",
    nn.GroupNorm: "take batch norm: a norm over the input at hand cannot be folded into weights",
    nn.InstanceNorm1d: "take batch norm: a norm over the input at hand cannot be folded into weights",
}


class NotConvertibleError(SpikeSepError):
    """A part of a network that integrate-and-fire neurons cannot stand for; the message names it and the remedy."""


class SpikingNetwork(nn.Module):
    """Layers that can be converted one by one, and the readout behind them.

    Args:
        layers: the convertible layers in order, by name or in a list.
        readout: reads the potential of the last layer's neurons, which do not fire (eq. 9).

    Raises:
        ValueError: the first layer has an identity path.
    """

    def __init__(self, layers: "dict[str, SpikingLayer] | list[SpikingLayer]", readout: Readout):
        super().__init__()
        named = layers if isinstance(layers, dict) else {str(i): layer for i, layer in enumerate(layers)}
        if any(layer.identity for layer in list(named.values())[:1]):
            raise ValueError(
                "the first layer cannot hand on its input: it is analog, and a sum with spikes is not spiking"
            )
        self.layers = nn.ModuleDict(named)
        self.readout = readout

    @classmethod
    def from_sequential(cls, network: nn.Sequential) -> "SpikingNetwork":
        """Group a Sequential of known modules into layers; its last synapse, without ReLU, is the readout.

        Weights are taken as they are, not copied.

        Raises:
            NotConvertibleError: a module has no spiking counterpart, or hides its operations in its own `forward`.
        """
        layers, before, synapse, norm, name, seen = {}, [], None, None, "", set()
        for key, module in network._modules.items():  # not named_children(), which leaves out a module's second place
            if isinstance(module, (*SYNAPSES, *NORMS)):
                if module in seen:
                    raise NotConvertibleError(f"layer '{key}': its weights are used twice; give each layer its own")
                seen.add(module)
            if isinstance(module, SYNAPSES):
                if synapse is not None:
                    raise NotConvertibleError(
                        f"layer '{key}': follows synapse '{name}' without a ReLU between; merge the two"
                    )
                synapse, name = module, key
            elif isinstance(module, NORMS) and synapse is not None and norm is None:
                norm = module
            elif isinstance(module, nn.ReLU) and synapse is not None:
                layers[name] = SpikingLayer(synapse, norm, _sequential(before))
                before, synapse, norm = [], None, None
            elif isinstance(module, BEFORE):
                if synapse is not None:
                    raise NotConvertibleError(f"layer '{key}' ({type(module).__name__}): move it behind the ReLU")
                before.append(module)
            else:
                raise NotConvertibleError(f"layer '{key}' ({type(module).__name__}): {_remedy(module)}")
        if synapse is None or norm is not None:
            raise NotConvertibleError(
                "the network must end in a Linear or Conv layer without norm and ReLU: the readout"
            )
        return cls(layers, Readout(synapse, _sequential(before)))

    def forward(self, x: Tensor | Signal, observe: Observer | None = None) -> Tensor:
        """Readout potential for an analog input or a signal, [batch, ...].

        `observe`, if given, is called with (name, module, input signal, output signal) for each layer and the readout.
        """
        return self.read(self.propagate(x, 0, len(self.layers), observe), observe)

    def propagate(self, x: Tensor | Signal, start: int, stop: int, observe: Observer | None = None) -> Signal:
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
            path = ", beside an identity path" if layer.identity else ", its input added" if layer.residual else ""
            lines.append(f"{name}: {_shape(layer.synapse)}{norm} -> integrate-and-fire{path}")
        return "\n".join([*lines, f"readout: {_shape(self.readout.synapse)} -> aggregate membrane potential (analog)"])


def _sequential(modules: list[nn.Module]) -> nn.Module | None:
    return nn.Sequential(*modules) if modules else None


def _remedy(module: nn.Module) -> str:
    for kind, remedy in REMEDIES.items():
        if isinstance(module, kind):
            return remedy
    if isinstance(module, NORMS):
        return "a batch norm must stand right behind its Linear or Conv layer"
    if isinstance(module, nn.ReLU):
        return "a ReLU must stand behind a Linear or Conv layer"
    return "its forward() hides what it does; write it as Linear/Conv, batch norm and ReLU modules in one Sequential"


def _shape(synapse: nn.Module) -> str:
    text = f"{type(synapse).__name__} {synapse.weight.shape[1]}->{synapse.weight.shape[0]}"
    if isinstance(synapse, nn.Linear):
        return text
    return f"{text} k{'x'.join(map(str, synapse.kernel_size))} d{'x'.join(map(str, synapse.dilation))}"
