"""What flows between layers: a value in activation units and, behind a spiking layer, the spikes it stands for.

Because the value is threshold * spike count, an analog layer can follow a spiking one, and the other way round,
without rescaling anything (the paper multiplies the threshold into the next layer's weights instead, section 3.2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikesep.spiking.neuron import spike_count


@dataclass(frozen=True)
class Signal:
    """The output of a layer for one encoding window.

    Attributes:
        value: activations, [batch, ...].
        spikes: the trains behind the value, [N_s, batch, ...] bool; None behind an analog layer.
        threshold: of the neurons that fired, so that value = threshold * count; None behind an analog layer.
    """

    value: Tensor
    spikes: Tensor | None = None
    threshold: Tensor | None = None

    @classmethod
    def from_spikes(cls, spikes: Tensor, threshold: Tensor) -> "Signal":
        """The signal of neurons that fired `spikes`, [N_s, batch, ...] bool."""
        return cls(spike_count(spikes).to(threshold.dtype) * threshold, spikes, threshold)

    @property
    def count(self) -> Tensor:
        """Spike counts, [batch, ...] int32.

        Raises:
            ValueError: the signal is analog.
        """
        if self.spikes is None:
            raise ValueError("an analog signal has no spike count")
        return spike_count(self.spikes)

    def with_value(self, value: Tensor) -> "Signal":
        """The same spikes under a value that carries a gradient."""
        return Signal(value, self.spikes, self.threshold)


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


def analog(value: Tensor) -> Signal:
    """A signal without spikes."""
    return Signal(value)


def straight_through(value: Tensor, twin: Tensor) -> Tensor:
    """`value` in the forward pass, the gradient of its analog `twin` in the backward pass (section 4.1)."""
    return twin + (value - twin).detach()


def steps_as_batch(spikes: Tensor, dtype: torch.dtype) -> Tensor:
    """[N_s, batch, ...] -> [N_s * batch, ...]: the synapses of all steps become one product."""
    return spikes.flatten(0, 1).to(dtype)
