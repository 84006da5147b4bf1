"""Price of spikes in pre-training, fixed or adapted to a target."""

import math

from torch import Tensor

from spikesep.training.levels_config import LevelsConfig

GAIN = 0.01
"""Relative change of the price in a step at twice the target: a factor e in 100 steps."""


class SpikePrice:
    """Price of spikes per neuron and time step.

    With a target, only what exceeds it has a price, so that a high price does not silence neurons.
    The price rises while more than the target are fired, and falls while fewer are.

    Args:
        config: price and target.
    """

    def __init__(self, config: LevelsConfig):
        self.target = config.target_rate
        self.value = config.spike_price or (1.0 if self.target else 0.0)

    def cost(self, rate: Tensor | float) -> Tensor | float:
        """Return what a rate costs, in units of the loss."""
        over = rate - self.target
        over = over.clamp(min=0) if isinstance(over, Tensor) else max(0.0, over)
        return self.value * over

    def adapt(self, rate: float) -> None:
        """Adapt the price after a step with this rate."""
        if self.target:
            error = rate / self.target - 1
            self.value *= math.exp(GAIN * max(-1.0, min(1.0, error)))
