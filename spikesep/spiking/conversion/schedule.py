"""The adaptive training scheduler (Fig. 2D)."""

import math
from dataclasses import dataclass


@dataclass
class AdaptiveSchedule:
    """Adaptive training scheduler (Fig. 2D): a stage ends T_p epochs after its best validation
    loss.

    Attributes:
        patience: T_p.
        max_epochs: largest number of epochs.
        epoch: epochs done.
        waited: epochs since the best.
        best_loss: best validation loss of the stage.
        cut_short: whether time has run out.
    """

    patience: int
    max_epochs: int
    epoch: int = 0
    waited: int = 0
    best_loss: float = math.inf
    cut_short: bool = False

    @property
    def finished(self) -> bool:
        """Whether the stage is over."""
        return self.cut_short or self.waited >= self.patience or self.epoch >= self.max_epochs

    def start(self, loss: float) -> None:
        """Set the loss to improve on: that right after conversion, before training."""
        self.best_loss = loss

    def update(self, loss: float) -> bool:
        """Count an epoch with this validation loss; return whether it is the best so far."""
        self.epoch += 1
        improved = loss < self.best_loss
        self.waited = 0 if improved else self.waited + 1
        self.best_loss = min(loss, self.best_loss)
        return improved
