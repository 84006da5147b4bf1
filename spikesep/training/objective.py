"""Loss and metric of a task."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""Scalar loss of a batch, from predictions and targets."""
Metric = Callable[[Tensor, Tensor, float], float]
"""Metric of a batch, from predictions, targets and loss; averaged over the examples."""


@dataclass(frozen=True)
class Objective:
    """Loss to minimize and metric to report."""

    loss: Loss
    metric: Metric
