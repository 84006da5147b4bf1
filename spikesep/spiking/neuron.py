"""The integrate-and-fire neuron of the paper (section 3.1, eqs. 3-6) as pure functions.

Time is the first dimension: `current` is [N_s, ...]. All neurons of a tensor share one threshold.
"""

import torch
from torch import Tensor


def integrate_and_fire(
    current: Tensor, threshold: float | Tensor, initial_potential: float | Tensor = 0.0
) -> tuple[Tensor, Tensor]:
    """Integrate the current, fire where the potential reaches the threshold, subtract the threshold
    (eqs. 3-5).

    V[t] = V[t-1] + z[t] - threshold * s[t-1], s[t] = (V[t] >= threshold).

    Args:
        current: z, [N_s, ...]. A current that is the same in every step may be an expanded view.
        threshold: firing threshold, one for all neurons, in the current's units.
        initial_potential: V[0], one for all neurons.

    Returns:
        spikes: s, [N_s, ...], bool.
        potential: remaining potential after the last reset, [...]. Charge is conserved:
            sum_t z[t] = threshold * count + potential - initial_potential.
    """
    # In-place operations on contiguous memory: this runs per layer and step, on every neuron.
    potential = torch.empty_like(current[0], memory_format=torch.contiguous_format)
    potential[...] = initial_potential
    spikes = torch.empty(current.shape, dtype=torch.bool, device=current.device)
    reset = -float(threshold)
    for z, s in zip(current, spikes, strict=True):
        potential += z
        torch.ge(potential, threshold, out=s)
        potential.add_(s, alpha=reset)
    return spikes, potential


def spike_count(spikes: Tensor) -> Tensor:
    """Spikes of each neuron within the window (eq. 6): [N_s, ...] bool -> [...] int32."""
    return spikes.sum(0, dtype=torch.int32)


def constant_current_count(
    charge: Tensor, threshold: float | Tensor, initial_potential: float | Tensor, n_steps: int
):
    """Spike count for a current that is the same in every step, without stepping through time.

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
