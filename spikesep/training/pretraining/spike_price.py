"""Price of spikes in pre-training, fixed or adapted to a target."""

import math

from torch import Tensor

from spikesep.training.levels_config import LevelsConfig

GAIN = 0.01
"""Largest relative change of the price in a step: a rate of twice the target multiplies the price
by e in 100 steps."""


class SpikePrice:
    """Price per spike, neuron and step, which rises while more than the target are fired.

    Args:
        config: price and target.
    """

    def __init__(self, config: LevelsConfig):
        self.target = config.target_rate
        self.value = config.spike_price or (1.0 if self.target else 0.0)

    def cost(self, rate: Tensor | float) -> Tensor | float:
        """Return what a rate costs in training."""
        return self.value * rate

    def excess_cost(self, rate: float) -> float:
        """Return what a rate costs where epochs are compared: with a target, what exceeds it."""
        return self.value * max(0.0, rate - self.target)

    def adapt(self, rate: float) -> None:
        """Adapt the price after a step with this rate."""
        if self.target:
            error = rate / self.target - 1
            self.value *= math.exp(GAIN * max(-1.0, min(1.0, error)))
