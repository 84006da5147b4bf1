"""What flows between layers: a value in activation units and, behind spiking layers, the spikes it stands for.

Because the value is threshold * spike count, an analog layer can follow a spiking one, and the other way round,
without rescaling anything (the paper multiplies the threshold into the next layer's weights instead, section 3.2). A
signal can be the sum of several layers' spikes, each weighed with its own threshold: that is an identity path.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spikesep.spiking.neuron import spike_count


@dataclass(frozen=True)
class SpikeTrains:
    """The spikes of one layer within an encoding window.

    Attributes:
        spikes: [N_s, batch, ...] bool.
        threshold: of its neurons, a scalar.
    """

    spikes: Tensor
    threshold: Tensor

    @cached_property
    def count(self) -> Tensor:
        """Spike counts, [batch, ...] int32."""
        return spike_count(self.spikes)

    @cached_property
    def value(self) -> Tensor:
        """threshold * count, [batch, ...]."""
        return self.count.to(self.threshold.dtype) * self.threshold


class Signal:
    """Activations for one encoding window.

    Args:
        value: [batch, ...], activation units.
        trains: the spikes whose values add up to `value`, one entry a layer; none for an analog signal.
    """

    def __init__(self, value: Tensor, trains: tuple[SpikeTrains, ...] = ()):
        self.value = value
        self.trains = trains
        self._drive: Tensor | None = None

    @classmethod
    def from_spikes(cls, spikes: Tensor, threshold: Tensor) -> "Signal":
        """The signal of one layer's neurons that fired `spikes`, [N_s, batch, ...] bool."""
        trains = SpikeTrains(spikes, threshold)
        return cls(trains.value, (trains,))

    def __add__(self, other: "Signal") -> "Signal":
        """Both signals on one wire; a sum of an analog and a spiking signal is analog."""
        if not (self.trains and other.trains):
            return Signal(self.value + other.value)
        total = Signal(self.value + other.value, self.trains + other.trains)
        if self._drive is not None:
            total._drive = _add_trains(self._drive.clone(), other.trains)
        return total

    def with_value(self, value: Tensor) -> "Signal":
        """The same spikes under a value that carries a gradient."""
        return Signal(value, self.trains)

    @property
    def is_spiking(self) -> bool:
        """Whether spikes stand behind the value."""
        return bool(self.trains)

    @property
    def count(self) -> Tensor:
        """Spikes that arrive from each place, of all layers together, [batch, ...] int32.

        Raises:
            ValueError: the signal is analog.
        """
        if not self.trains:
            raise ValueError("an analog signal has no spike count")
        return sum(trains.count for trains in self.trains)

    @property
    def drive(self) -> Tensor:
        """What is sent in each step, sum of threshold * spike, [N_s, batch, ...]; over all steps it is the value.

        It is computed once, and a longer sum goes on from a shorter one.
        """
        if self._drive is None:
            first = self.trains[0]
            self._drive = _add_trains(torch.mul(first.spikes, first.threshold), self.trains[1:])
        return self._drive


@dataclass(frozen=True)
class Coding:
    """How values become spikes.

    Attributes:
        n_steps: encoding time window N_s.
        encoding: an analog input enters the first layer as a `constant` current or as one `impulse` at t = 1.
        initial_potential: V[0] as a share of the threshold. One half makes the count round to nearest, as eq. 10
            writes it; zero, the paper's own choice, makes it floor.
    """

    n_steps: int = 8
    encoding: str = "constant"
    initial_potential: float = 0.5

    def __post_init__(self):
        if self.n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, not {self.n_steps}")
        if self.encoding not in ("constant", "impulse"):
            raise ValueError(f"encoding must be 'constant' or 'impulse', not {self.encoding!r}")
        if not 0 <= self.initial_potential < 1:
            raise ValueError(f"initial_potential must lie in [0, 1), not {self.initial_potential}")


def straight_through(value: Tensor, twin: Tensor) -> Tensor:
    """`value` in the forward pass, the gradient of its analog `twin` in the backward pass (section 4.1)."""
    return twin + (value - twin).detach()


def _add_trains(drive: Tensor, trains: tuple[SpikeTrains, ...]) -> Tensor:
    for source in trains:
        drive.add_(source.spikes, alpha=float(source.threshold))
    return drive
