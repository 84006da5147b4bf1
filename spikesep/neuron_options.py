"""Options of spiking neurons and which of them go together, importable without torch."""

from typing import Literal

Reset = Literal["subtract", "zero"]
"""What a spike does to the potential: subtract the threshold, or set it to zero."""
MOST_LEAK_SHIFT = 8
"""Largest k of a leak of 2^-k in integers."""


def leak_shift(beta: float) -> int | None:
    """Return k of a leak that integers compute exactly, beta = 1 - 2^-k; 0 without leak.

    Returns:
        None if there is no such k up to `MOST_LEAK_SHIFT`.
    """
    shifts = {1.0: 0} | {1 - 2.0**-k: k for k in range(1, MOST_LEAK_SHIFT + 1)}
    return shifts.get(beta)


def conflict(
    reset: str, beta: float, *, deferred: bool = False, weight_bits: int = 0
) -> str | None:
    """Return what is wrong with the options of neurons, as one line with the remedy.

    Args:
        reset: see `Reset`.
        beta: share of the potential that a neuron keeps from one step to the next.
        deferred: whether neurons wait for the whole window before they fire.
        weight_bits: bits of integer weights; 0 for floating point.

    Returns:
        The message, which begins with the option's name and value; None if nothing is wrong.
    """
    if reset not in ("subtract", "zero"):
        return f"reset {reset}: must be subtract or zero"
    if not 0 < beta <= 1:
        return f"beta {beta:g}: must be above 0 and at most 1, where 1 is without leak"
    if deferred and reset == "zero":
        why = "a deferred neuron has all its charge at once, and the first spike would discard it"
        return f"reset zero: {why}; take reset subtract, or leave out deferred"
    if deferred and beta < 1:
        why = "a deferred neuron receives nothing while it fires, and its charge would only leak"
        return f"beta {beta:g}: {why}; take beta 1, or leave out deferred"
    if weight_bits and leak_shift(beta) is None:
        near = min(
            (1 - 2.0**-k for k in range(1, MOST_LEAK_SHIFT + 1)), key=lambda b: abs(b - beta)
        )
        why = "has no exact form in integers, which leak by a power of two"
        return f"beta {beta:g}: {why}; take beta {near:g}, or set weight_bits to 0"
    return None
