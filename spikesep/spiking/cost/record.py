"""Operations of a network, counted: what passes cost, added up."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

PROPERTIES = ("n_steps", "deferred", "leaky")
"""Fields of a cost that describe the network and do not add up."""


@dataclass(frozen=True)
class Operations:
    """Multiplications and additions.

    Attributes:
        multiplications: number of multiplications.
        additions: number of additions.
    """

    multiplications: float = 0.0
    additions: float = 0.0

    @classmethod
    def macs(cls, n: float) -> "Operations":
        """The operations of n multiply-accumulates."""
        return cls(n, n)

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(
            self.multiplications + other.multiplications, self.additions + other.additions
        )

    def __mul__(self, factor: float) -> "Operations":
        return Operations(self.multiplications * factor, self.additions * factor)


@dataclass(frozen=True)
class Cost:
    """Operations of one or more forward passes; costs of several passes add up.

    Counts that records of earlier versions lack are None.

    Attributes:
        macs: multiply-accumulates of the analog network.
        kept_macs: multiply-accumulates of the analog network without pruned synapses.
        analog_macs: MACs that remain in the spiking network: those of the first layer, or all while
            the network is analog.
        synops: synaptic operations of the spiking network: spikes that arrive through synapses
            that pruning left.
        n_steps: N_s; 0 for an analog network.
        spikes: spikes fired by each spiking layer.
        neurons: neurons of each spiking layer, summed over the passes.
        readout_synops: those of the synaptic operations that arrive at the readout.
        full_synops: synaptic operations if spikes arrived through pruned synapses, too.
        active_macs: those of `kept_macs` whose input is not zero. Behind a spiking layer, they are
            the synaptic operations of one event per active neuron that carries its spike count.
        deferred: whether the neurons wait for the whole window before they fire.
        leaky: whether the neurons leak.
        encoder: operations before the network, where the model counts them.
        decoder: operations behind the network, where the model counts them.
    """

    macs: float = 0.0
    kept_macs: float = 0.0
    analog_macs: float = 0.0
    synops: float = 0.0
    n_steps: int = 0
    spikes: tuple[float, ...] = field(default=())
    neurons: tuple[float, ...] = field(default=())
    readout_synops: float | None = None
    full_synops: float | None = None
    active_macs: float | None = None
    deferred: bool = False
    leaky: bool = False
    encoder: Operations | None = None
    decoder: Operations | None = None

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Cost":
        """The cost behind the record that `dataclasses.asdict` gives, of this version or earlier.

        Raises:
            TypeError: the record has fields that a cost does not have.
        """
        values = dict(record)
        for name in ("spikes", "neurons"):
            values[name] = tuple(values.get(name, ()))
        for name in ("encoder", "decoder"):
            values[name] = None if values.get(name) is None else Operations(**values[name])
        return cls(**values)

    @classmethod
    def of_layers(cls, layers: "Sequence[Cost]") -> "Cost":
        """The cost of a network, from those of its layers in order and of its readout."""
        if not layers:
            return cls()
        counts = ("macs", "kept_macs", "analog_macs", "synops")
        counts += ("readout_synops", "full_synops", "active_macs")
        sums: dict[str, Any] = {n: sum(getattr(layer, n) for layer in layers) for n in counts}
        return cls(
            **sums,
            n_steps=max(layer.n_steps for layer in layers),
            spikes=tuple(n for layer in layers for n in layer.spikes),
            neurons=tuple(n for layer in layers for n in layer.neurons),
            deferred=any(layer.deferred for layer in layers),
            leaky=any(layer.leaky for layer in layers),
        )

    def __add__(self, other: "Cost") -> "Cost":
        if Cost() in (self, other):
            return other if self == Cost() else self
        if (self.n_steps, len(self.spikes)) != (other.n_steps, len(other.spikes)):
            raise ValueError("costs of different networks do not add up")
        sums = {
            each.name: _sum(getattr(self, each.name), getattr(other, each.name))
            for each in fields(self)
            if each.name not in PROPERTIES
        }
        return replace(self, **sums)

    def __truediv__(self, n: float) -> "Cost":
        """The mean over n seconds, images or passes."""
        parts = {
            each.name: _scaled(getattr(self, each.name), 1 / n)
            for each in fields(self)
            if each.name not in PROPERTIES
        }
        return replace(self, **parts)

    @property
    def neuron_updates(self) -> float:
        """Updates if every neuron is updated in every step of the window."""
        return self.n_steps * sum(self.neurons)

    @property
    def synops_ratio(self) -> float:
        """Synaptic operations per MAC of the analog network (Fig. 6B of the paper)."""
        return self.synops / self.macs if self.macs else 0.0

    @property
    def firing_rate(self) -> list[float]:
        """Mean spikes per neuron and time step, for each spiking layer."""
        return [s / (n * self.n_steps) for s, n in zip(self.spikes, self.neurons, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with ratio and rates."""
        record = asdict(self)
        counted = {name: value for name, value in record.items() if value is not None}
        for name in ("spikes", "neurons"):
            del counted[name]
        return counted | {
            "neuron_updates": self.neuron_updates,
            "synops_ratio": self.synops_ratio,
            "firing_rate": self.firing_rate,
        }


def _sum(a: Any, b: Any) -> Any:
    """The sum of two counts; None where one is unknown."""
    if a is None or b is None:
        return None
    return tuple(map(sum, zip(a, b, strict=True))) if isinstance(a, tuple) else a + b


def _scaled(count: Any, factor: float) -> Any:
    if count is None:
        return None
    return tuple(n * factor for n in count) if isinstance(count, tuple) else count * factor
