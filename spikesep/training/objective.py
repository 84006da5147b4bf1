"""What a task wants of predictions: a loss to learn from, and a figure of merit for people."""

from collections.abc import Callable

from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of a batch's predictions and targets, a scalar."""
Metric = Callable[[Tensor, Tensor, float], float]
"""Of a batch's predictions, targets and loss; averaged over the examples."""
