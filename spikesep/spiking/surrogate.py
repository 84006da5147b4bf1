"""Surrogate gradient learning, which the paper compares with (section 5.2; Wu et al. 2019).

Forward, the spikes are those of `neuron.integrate_and_fire`. Backward, the step of eq. 5 has the
slope of a triangle around the threshold, and errors propagate through all steps, resets and layers.
"""

import torch
from torch import Tensor

from spikesep.neuron_options import Reset
from spikesep.spiking.signal import Signal, straight_through


class GradedSignal(Signal):
    """Spikes that carry a gradient.

    Args:
        drive: threshold * spike in each step, [N_s, batch, ...].
    """

    def __init__(self, drive: Tensor):
        super().__init__(drive.sum(0))
        self.graded = drive

    def __add__(self, other: Signal) -> Signal:
        """Sum of two signals; with spikes that carry no gradient, an ordinary one."""
        if not isinstance(other, GradedSignal):
            return super().__add__(other)
        assert self.graded is not None
        assert other.graded is not None
        return GradedSignal(self.graded + other.graded)


def graded_spikes(
    current: Tensor,
    threshold: float,
    initial_potential: float,
    *,
    reset: Reset = "subtract",
    beta: float = 1.0,
) -> Tensor:
    """Spikes (eqs. 3-5) as zeros and ones that carry a gradient, [N_s, ...].

    Args:
        current: z, [N_s, ...].
        threshold: firing threshold.
        initial_potential: V[0].
        reset: what a spike does to the potential.
        beta: share of the potential that is kept from one step to the next.
    """
    potential = torch.full_like(current[0], initial_potential)
    spikes = []
    for z in current:
        potential = (potential if beta == 1 else beta * potential) + z
        spike = straight_through(
            (potential >= threshold).to(z.dtype), _soft_step(potential / threshold - 1)
        )
        potential = potential - spike * (potential if reset == "zero" else threshold)
        spikes.append(spike)
    return torch.stack(spikes)


def _soft_step(x: Tensor) -> Tensor:
    """Step from 0 at -1 to 1 at 1 whose slope is the triangle max(0, 1 - |x|)."""
    x = x.clamp(-1, 1)
    return 0.5 + x - 0.5 * x * x.abs()
