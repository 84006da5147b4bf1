"""A network of layers that convert one by one, with an analog readout behind them."""

from collections.abc import Callable, ItemsView, Mapping, Sequence, ValuesView
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.engines import engine_names, require_gpu
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal
from spikesep.spiking.synaptic import Synaptic
from spikesep.spiking.wiring.wires import INPUT, Wire, total

if TYPE_CHECKING:
    from spikesep.spiking.conversion.threshold import ThresholdChoice

READOUT = "readout"
Observer = Callable[[str, Any, tuple[Signal, ...], Signal], None]
"""Called with the name of a layer or "readout", the module, its inputs and its output."""
Wiring = dict[str, tuple[Wire, ...]]
"""For each layer and the readout, what each of its synapses receives."""
Cut = dict[str, Signal]
"""What passes between two layers: the outputs of all earlier layers that later ones read."""


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

    By default each layer receives the output of the one before it; behind an identity path, that
    of the layer and its input.

    Args:
        layers: the layers by name or in a list, each behind the layers that it reads.
        readout: gives the potential of output neurons that do not fire (eq. 9).
        wiring: what each synapse of each layer and of the readout receives.
        tail: analog function of the potential that gives the prediction, or None.

    Raises:
        ValueError: there is no layer, or a synapse reads what is not there: a later layer, or the
            sum of the analog input and spikes.
    """

    def __init__(
        self,
        layers: "dict[str, SpikingLayer] | list[SpikingLayer]",
        readout: Readout,
        wiring: Wiring | None = None,
        tail: nn.Module | None = None,
    ):
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
        self.tail = tail
        self.choices: list[ThresholdChoice] = []  # how thresholds were set, if `convert` set them
        self.wiring = _stack(named) if wiring is None else wiring
        _check_wiring(self.wiring, list(named), self.parts)
        self.is_stack = self.wiring == _stack(named)
        self._last_reader = {
            wire_name: index
            for index, name in enumerate([*named, READOUT])
            for wire in self.wiring[name]
            for wire_name in wire.names
        }

    def forward(self, x: Tensor | Signal, observe: Observer | None = None) -> Tensor:
        """Prediction for an analog input or a signal, [batch, ...].

        Args:
            x: the input.
            observe: called after each layer and the readout.
        """
        return self.read(self.propagate(x, 0, len(self.layers), observe), observe)

    def propagate(
        self, x: Tensor | Signal | Cut, start: int, stop: int, observe: Observer | None = None
    ) -> Cut:
        """Run layers start..stop-1 on the signals of a cut, and return those of the next cut.

        Args:
            x: the network's input or, from a later layer on, the signals of the cut.
            start, stop: numbers of layers.
            observe: called after each layer.
        """
        signals = self._cut(x)
        for index, (name, layer) in list(enumerate(self.layers.items()))[start:stop]:
            arriving = self.arriving(signals, index)
            out = signals[name] = layer(*arriving)
            if observe is not None:
                observe(name, layer, arriving, out)
            signals = {key: signals[key] for key in signals if self.is_read(key, index + 1)}
        return signals

    def arriving(self, x: Tensor | Signal | Cut, index: int) -> tuple[Signal, ...]:
        """Return the input of each synapse of layer `index`, or of the readout behind the last."""
        signals = self._cut(x)
        name = [*self.layers, READOUT][index]
        return tuple(wire.read(signals) for wire in self.wiring[name])

    def is_read(self, name: str, index: int) -> bool:
        """Whether layer `index`, a later one or the readout reads the output of a layer."""
        return self._last_reader.get(name, -1) >= index

    def read(self, x: Tensor | Signal | Cut, observe: Observer | None = None) -> Tensor:
        """Prediction from what passes behind the last layer.

        The readout gives the free aggregate membrane potential (eq. 9).
        """
        arriving = self.arriving(x, len(self))
        out = self.readout(*arriving)
        if observe is not None:
            observe(READOUT, self.readout, arriving, out)
        return out.value if self.tail is None else self.tail(out.value)

    @staticmethod
    def _cut(x: Tensor | Signal | Cut) -> Cut:
        return (
            dict(x) if isinstance(x, dict) else {INPUT: x if isinstance(x, Signal) else Signal(x)}
        )

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
            "coding": self.coding.settings() if self.coding else None,
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
            self[index].convert(1.0, Coding(**settings["coding"]))
            if limits:
                self[index].reserve(limits)
            self[index].freeze()
        if limits and settings["n_converted"] == len(self):
            self.readout.fold()
            self.readout.reserve(limits)
            self.readout.freeze()
        if settings.get("fixed_point"):
            for layer in self.layers.values():
                layer.fixed = FixedPoint(*(branch.synapse for branch in layer.branches))

    def require_float32(self) -> None:
        """Check that all weights are float32, the numbers that spiking layers compute in.

        Raises:
            NotConvertibleError: they are not.
        """
        branches = [
            (name, branch.synapse.weight)
            for name, part in zip([*self.names, READOUT], self.parts, strict=True)
            for branch in part.branches
        ]
        for name, weight in branches:
            if weight.dtype != torch.float32:
                dtype = str(weight.dtype).removeprefix("torch.")
                raise NotConvertibleError(
                    f"layer {name}: its weights are {dtype}; call .float() on the network first"
                )

    def use_engine(self, name: str) -> None:
        """Run spiking layers on `auto`, `dense`, `event`, `gpu` or a registered engine.

        See `spikesep.spiking.engines`.

        Raises:
            ValueError: there is no such engine.
            SpikeSepError: it is `gpu`, and the network is not on an accelerator.
        """
        if name not in engine_names():
            raise ValueError(f"engine must be one of {', '.join(engine_names())}, not {name!r}")
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
            synapses = self._described(name, layer, norm)
            neurons = "integrate-and-fire"
            if layer.mode != "analog" and not layer.coding.conserves_charge:
                neurons += f" (beta {layer.coding.beta:g}, reset {layer.coding.reset})"
            lines.append(f"{name}: {synapses} -> {neurons}{path}")
        synapses = self._described(READOUT, self.readout)
        lines.append(f"readout: {synapses} -> aggregate membrane potential (analog)")
        return "\n".join(lines)

    def _described(self, name: str, part: Synaptic, norm: str = "") -> str:
        """The synapses of a part and, except in a stack, what each receives."""
        described = []
        for branch, wire in zip(part.branches, self.wiring[name], strict=True):
            behind = "" if self.is_stack else f" of {wire}"
            described.append(f"{branch.connectivity.describe}{norm}{behind}")
            norm = ""
        return " + ".join(described)


def _stack(layers: Mapping[str, SpikingLayer]) -> Wiring:
    """The wiring of layers in a row, with the identity paths that they declare."""
    wiring: Wiring = {}
    reaching: tuple[str, ...] = (INPUT,)
    for name, layer in layers.items():
        wiring[name] = (total(reaching),)
        reaching = (*reaching, name) if layer.identity else (name,)
    return wiring | {READOUT: (total(reaching),)}


def _check_wiring(wiring: Wiring, names: Sequence[str], parts: Sequence[Synaptic]) -> None:
    for index, (name, part) in enumerate(zip([*names, READOUT], parts, strict=True)):
        if len(wiring[name]) != len(part.branches):
            raise ValueError(f"layer {name}: has {len(part.branches)} synapses, not as many wires")
        for wire in wiring[name]:
            if unknown := set(wire.names) - {INPUT, *names[:index]}:
                raise ValueError(f"layer {name}: reads {sorted(unknown)}, no earlier layer")
            if INPUT in wire.names and len(set(wire.names)) > 1 and name != READOUT:
                raise ValueError(
                    f"layer {name}: its input joins the network's input, which is analog, and "
                    "spikes, and does not spike"
                )


def require_stack(network: SpikingNetwork, setting: str) -> None:
    """Check that the layers of a network stand in a row.

    Raises:
        SpikeSepError: they do not; names the setting that needs it.
    """
    if not network.is_stack:
        raise SpikeSepError(
            f"{setting}: needs a sequence of layers, each reading the one before; this network has "
            "branches or max pooling. Leave it out"
        )
