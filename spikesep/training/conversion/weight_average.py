"""Exponential moving average of the weights of a stage."""

import copy

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Moving average of a model's weights, which the model has between epochs.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control
    Optim. 30 (4), 1992.

    Args:
        model: the model; its present weights are the first of the average.
        decay: decay of the average per step.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._average.n_averaged.fill_(1)
        self.trained: dict[str, Tensor] | None = None
        """Weights that the optimizer has reached, while the model has the averaged ones."""

    def begin_epoch(self) -> None:
        """Give the model the weights that the optimizer has reached."""
        if self.trained is not None:
            self.model.load_state_dict(self.trained)

    def update(self) -> None:
        """Add the model's weights after a step to the average."""
        self._average.update_parameters(self.model)

    def end_epoch(self) -> None:
        """Give the model the averaged weights."""
        self.trained = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self._average.module.state_dict())
