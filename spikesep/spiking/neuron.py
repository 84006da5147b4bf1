"""Integrate-and-fire neurons as pure functions: the paper's (section 3.1, eqs. 3-6) and variants.

The paper's neuron has no leak and subtracts the threshold when it fires. Variants leak (LIF) or
reset to zero. Time is the first dimension: `current` is [N_s, ...]. All neurons of a tensor share
one threshold.
"""

import torch
from torch import Tensor

from spikesep.neuron_options import Reset


def integrate_and_fire(
    current: Tensor,
    threshold: float | Tensor,
    initial_potential: float | Tensor = 0.0,
    *,
    reset: Reset = "subtract",
    beta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Integrate the current, fire where the potential reaches the threshold, and reset (eqs. 3-5).

    V[t] = beta * U[t-1] + z[t], s[t] = (V[t] >= threshold), and after the reset U[t] = V[t] -
    threshold * s[t] or, with the reset to zero, U[t] = V[t] * (1 - s[t]).

    Args:
        current: z, [N_s, ...]. A current that is the same in every step may be an expanded view.
        threshold: firing threshold, one for all neurons, in the current's units.
        initial_potential: U[0], one for all neurons.
        reset: what a spike does to the potential.
        beta: share of the potential that is kept from one step to the next; 1 without leak.

    Returns:
        spikes: s, [N_s, ...], bool.
        potential: remaining potential after the last reset, [...]. Without leak and with the reset
            by subtraction, charge is conserved:
            sum_t z[t] = threshold * count + potential - initial_potential.
    """
    # In-place operations on contiguous memory: this runs per layer and step, on every neuron.
    potential = torch.empty_like(current[0], memory_format=torch.contiguous_format)
    potential[...] = initial_potential
    spikes = torch.empty(current.shape, dtype=torch.bool, device=current.device)
    for z, s in zip(current, spikes, strict=True):
        if beta != 1:
            potential *= beta
        potential += z
        torch.ge(potential, threshold, out=s)
        if reset == "zero":
            potential.masked_fill_(s, 0.0)
        else:
            potential.add_(s, alpha=-float(threshold))
    return spikes, potential


def spike_count(spikes: Tensor) -> Tensor:
    """Spikes of each neuron within the window (eq. 6): [N_s, ...] bool -> [...] int32."""
    return spikes.sum(0, dtype=torch.int32)


def constant_current_count(
    charge: Tensor, threshold: float | Tensor, initial_potential: float | Tensor, n_steps: int
):
    """Spike count of the paper's neuron for a constant current, without stepping through time.

    A neuron whose current exceeds the threshold fires in every step. With an initial potential of
    half the threshold this is the rounding of eq. 10.

    Args:
        charge: the current summed over the window, [...].
        threshold: firing threshold.
        initial_potential: V[0].
        n_steps: N_s.

    Returns:
        Spike counts, [...] int32, within 0..N_s.
    """
    return ((charge + initial_potential) / threshold).floor().clamp(0, n_steps).int()
