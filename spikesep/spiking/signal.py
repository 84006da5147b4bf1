"""Signals between layers: a value in activation units and, behind spiking layers, its spikes.

Because the value is threshold * spike count, an analog layer can follow a spiking one, and the
other way round, without rescaling. (The paper multiplies the threshold into the next layer's
weights instead, section 3.2.) With identity paths, a signal is the sum of the spikes of several
layers, each weighted with its own threshold.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.neuron_options import Reset, conflict, leak_shift
from spikesep.spiking.neuron import integrate_and_fire, spike_count
from spikesep.spiking.spike_trains import packed

MOST_STEPS = 2**16
"""Largest encoding window; far more than any network needs, and few enough to run."""


class SpikeTrains:
    """The spikes of one layer within an encoding window.

    Args:
        fired: bit words [ceil(N_s / 8), batch, ...] uint8, see
            `spikesep.spiking.spike_trains.packed`; or, of deferred neurons, bursts, whose words are
            made when they are asked for.
        n_steps: N_s.
        threshold: firing threshold of the neurons, a scalar.
        multiple: the threshold in fixed-point form, in units common to all layers that meet.
    """

    def __init__(
        self, fired: Tensor | packed.Bursts, n_steps: int, threshold: Tensor, multiple: int = 1
    ):
        self.fired = fired
        self.n_steps = n_steps
        self.threshold = threshold
        self.multiple = multiple

    def with_spikes(self, fired: Tensor | packed.Bursts) -> "SpikeTrains":
        """Other spikes of neurons with the same threshold."""
        return SpikeTrains(fired, self.n_steps, self.threshold, self.multiple)

    @property
    def bursts(self) -> Tensor | None:
        """Spike counts [batch, ...] of neurons that fire in consecutive steps from the first.

        None if that is not known of them.
        """
        return self.fired.counts if isinstance(self.fired, packed.Bursts) else None

    @cached_property
    def words(self) -> Tensor:
        """Bit words, [ceil(N_s / 8), batch, ...] uint8."""
        if isinstance(self.fired, packed.Bursts):
            return packed.burst(self.fired.counts, self.n_steps)
        return self.fired

    @property
    def shape(self) -> torch.Size:
        """[batch, ...]."""
        return self.fired.shape[1:] if isinstance(self.fired, Tensor) else self.fired.counts.shape

    @property
    def device(self) -> torch.device:
        """Where the spikes are."""
        return self.fired.device if isinstance(self.fired, Tensor) else self.fired.counts.device

    @property
    def spikes(self) -> Tensor:
        """[N_s, batch, ...] bool."""
        return packed.unpack(self.words, self.n_steps)

    @cached_property
    def count(self) -> Tensor:
        """Spike counts, [batch, ...] int32."""
        return packed.count(self.words) if self.bursts is None else self.bursts.to(torch.int32)

    @cached_property
    def position_count(self) -> Tensor:
        """Spikes of all channels at each position, [batch, 1, ...] int64."""
        if self.bursts is None:
            return packed.count_positions(self.words)
        return packed.sum_positions(self.bursts)

    @cached_property
    def n_spikes(self) -> int:
        """Number of spikes.

        Summed by numpy, which wakes none of torch's threads: these would spin on the engines'
        cores.
        """
        return int(self.position_count.cpu().numpy().sum())

    @cached_property
    def value(self) -> Tensor:
        """threshold * count, [batch, ...]."""
        return (self.count if self.bursts is None else self.bursts) * self.threshold


class Signal:
    """Activations of one encoding window: an analog value, or spikes, or spikes with a value that
    carries a gradient.

    Args:
        value: [batch, ...], activation units; None for the value of the spikes.
        trains: the spikes whose values add up to `value`, one entry per layer; empty for an analog
            signal.
    """

    graded: Tensor | None = None
    """threshold * spike in each step with a gradient, [N_s, batch, ...]; see `GradedSignal`."""

    def __init__(self, value: Tensor | None = None, trains: tuple[SpikeTrains, ...] = ()):
        self._value = value
        self.trains = trains

    @classmethod
    def from_spikes(cls, spikes: Tensor, threshold: Tensor) -> "Signal":
        """The signal of one layer that fired `spikes`, [N_s, batch, ...] bool."""
        return cls(trains=(SpikeTrains(packed.pack(spikes), len(spikes), threshold),))

    def __add__(self, other: "Signal") -> "Signal":
        """Sum of two signals; the sum of an analog and a spiking signal is analog."""
        trains = self.trains + other.trains if self.trains and other.trains else ()
        if trains and not (self.has_value or other.has_value):
            return Signal(None, trains)
        return Signal(self.value + other.value, trains)

    def with_value(self, value: Tensor) -> "Signal":
        """The same spikes with a value that carries a gradient."""
        return Signal(value, self.trains)

    @property
    def value(self) -> Tensor:
        """[batch, ...], activation units."""
        if self._value is None:
            first, *others = self.trains
            self._value = sum((trains.value for trains in others), start=first.value)
        return self._value

    @property
    def has_value(self) -> bool:
        """Whether the value is known apart from the spikes, as where it carries a gradient."""
        return self._value is not None

    @property
    def shape(self) -> torch.Size:
        """[batch, ...]."""
        return self.trains[0].shape if self._value is None else self._value.shape

    @property
    def is_spiking(self) -> bool:
        """Whether the value comes from spikes."""
        return bool(self.trains)

    @property
    def count(self) -> Tensor:
        """Spikes of all layers together, [batch, ...] int32.

        Raises:
            ValueError: the signal is analog.
        """
        if not self.trains:
            raise ValueError("an analog signal has no spike count")
        first, *others = self.trains
        return sum((trains.count for trains in others), start=first.count)

    def drive(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Sum of threshold * spike in each step, [N_s, batch, ...]; the value, split by steps."""
        thresholds = [float(trains.threshold) for trains in self.trains]
        return packed.drive(
            [trains.words for trains in self.trains], thresholds, self.trains[0].n_steps, dtype
        )


@dataclass(frozen=True)
class Coding:
    """How values become spikes: the window, its input and the model of the neurons.

    The defaults of `reset` and `beta` are the paper's integrate-and-fire neuron.

    Attributes:
        n_steps: encoding time window N_s.
        encoding: how an analog input enters the first layer: as a `constant` current, or as one
            `impulse` at t = 1.
        initial_potential: V[0] in units of the threshold. One half makes the count round to nearest
            (eq. 10); zero, the paper's own choice, makes it floor.
        deferred: whether neurons behind spikes collect the charge of a whole window before they
            fire, in the next window. Their count is then that of eq. 10 whatever the order in which
            spikes arrive; each layer adds a window of latency.
        reset: whether a spike subtracts the threshold from the potential, or sets it to `zero`.
        beta: share of its distance from V[0] that a potential keeps from one step to the next.
            Below 1, the neuron leaks (LIF): V[t] = V[0] + beta * (U[t-1] - V[0]) + z[t], where U is
            the potential after the reset.

    Raises:
        ValueError: a value is out of range, or options do not go together.
    """

    n_steps: int = 8
    encoding: str = "constant"
    initial_potential: float = 0.5
    deferred: bool = False
    reset: Reset = "subtract"
    beta: float = 1.0

    def __post_init__(self):
        if type(self.n_steps) is not int or not 1 <= self.n_steps <= MOST_STEPS:
            raise ValueError(
                f"n_steps must be at least 1 and at most {MOST_STEPS}, not {self.n_steps}"
            )
        if self.encoding not in ("constant", "impulse"):
            raise ValueError(f"encoding must be 'constant' or 'impulse', not {self.encoding!r}")
        if not 0 <= self.initial_potential < 1:
            raise ValueError(f"initial_potential must lie in [0, 1), not {self.initial_potential}")
        if message := conflict(self.reset, self.beta, deferred=self.deferred):
            raise ValueError(message)

    @property
    def conserves_charge(self) -> bool:
        """Whether the neuron is the paper's: no leak, and a spike takes the threshold alone."""
        return self.reset == "subtract" and self.beta == 1

    @property
    def upkeep(self) -> float:
        """Charge that holds a leaking neuron at V[0] over the window, in thresholds.

        With this constant current, V[t] = beta * U[t-1] + z[t] leaks toward V[0] and not toward
        zero. A potential that runs from 0 to the threshold is V[0] = 1/2 on average, so that a
        firing neuron neither loses nor gains by its leak, to first order.
        """
        return self.n_steps * (1 - self.beta) * self.initial_potential

    @property
    def leak_shift(self) -> int:
        """Bits by which integers shift the potential to get its leak; 0 without leak.

        Raises:
            ValueError: the leak is no power of two.
        """
        shift = leak_shift(self.beta)
        if shift is None:
            raise ValueError(f"beta {self.beta:g}: is not 1 - 2^-k")
        return shift

    def require_integers(self) -> None:
        """Check that neurons in integers are the same as in floating point.

        Raises:
            SpikeSepError: their leak has no exact form in integers.
        """
        if message := conflict(self.reset, self.beta, weight_bits=8):
            raise SpikeSepError(message)

    def count(self, charge: Tensor) -> Tensor:
        """Spike count for a current that is the same in every step (eq. 10), in floating point.

        Args:
            charge: the current summed over the window, in thresholds, [...].
        """
        if self.conserves_charge:
            return (charge + self.initial_potential).floor_().clamp_(0, self.n_steps)
        current = ((charge + self.upkeep) / self.n_steps).expand(self.n_steps, *charge.shape)
        spikes, _ = integrate_and_fire(
            current, 1.0, self.initial_potential, reset=self.reset, beta=self.beta
        )
        return spike_count(spikes).to(charge.dtype)

    def settings(self) -> dict[str, Any]:
        """Plain values for JSON; a neuron model other than the paper's is named only where it is.

        Versions without the options can thus read the others.
        """
        values = asdict(self)
        return {
            name: value
            for name, value in values.items()
            if name not in ("reset", "beta") or value != getattr(Coding, name)
        }


def straight_through(value: Tensor, twin: Tensor) -> Tensor:
    """`value` forward, to the bit; the gradient of its analog `twin` backward (section 4.1)."""
    return value + (twin - twin.detach())


def require_finite(value: Tensor, what: str) -> None:
    """Check a tensor for NaN and Inf, in one pass.

    Args:
        value: any shape.
        what: name of the tensor in the message.

    Raises:
        SpikeSepError: it contains NaN or Inf.
    """
    if value.numel() and not torch.stack(torch.aminmax(value.detach())).isfinite().all():
        raise SpikeSepError(
            f"{what} contains NaN or Inf; look for them in the data and in the weights"
        )
