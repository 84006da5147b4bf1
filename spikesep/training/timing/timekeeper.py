"""Clock of pre-training: estimates, progress, and the end when the time budget is spent."""

import math
import time
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from spikesep.training.config import PretrainConfig
from spikesep.training.timing.budget import Budget, Pace
from spikesep.training.timing.progress import Progress, duration

if TYPE_CHECKING:
    from spikesep.training.pretraining.task import PretrainTask

MARGIN = 1.2
"""Factor on the estimated duration of a validation, so that it ends within the budget."""


class TimeKeeper(pl.Callback):
    """Stops training within an epoch when the budget only leaves time for the validation.

    Args:
        config: the settings.
        budget: budget of the command.
        valid_loader: validation batches; one is timed before training starts.
        progress: display of the progress.
    """

    def __init__(
        self, config: PretrainConfig, budget: Budget, valid_loader: DataLoader, progress: Progress
    ):
        self.config = config
        self.budget = budget
        self.valid_loader = valid_loader
        self.progress = progress
        self._pace = Pace()
        self._step_seconds = 0.0
        self._has_told = False
        self._validation_began = 0.0

    def on_train_start(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Add the time of earlier starts and estimate the duration of a validation."""
        self.budget.resume(task.spent_seconds)
        if not task.finished and not task.reserved_seconds:
            task.reserved_seconds = MARGIN * self._seconds_to_validate(trainer, task)
        self._update(trainer, task)

    def on_train_epoch_start(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Display the epoch."""
        title = f"epoch {trainer.current_epoch + 1}/{self.config.epochs}"
        self.progress.begin(title, task.steps_per_epoch, left=lambda: self._left(trainer, task))
        self._pace.start()

    def on_train_batch_end(self, trainer: pl.Trainer, task: "PretrainTask", *args) -> None:
        """Count a step; stop training when the budget is spent."""
        self._pace.step()
        self.progress.advance()
        self._update(trainer, task)
        if not self._has_told and self._pace.is_known:
            self._tell_estimate(trainer, task)
        self._stop_in_time(trainer, task)

    def on_validation_start(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Start timing the validation."""
        self._validation_began = time.monotonic()
        self.progress.begin(f"epoch {trainer.current_epoch + 1}/{self.config.epochs}, validation")

    def on_validation_batch_end(self, *args) -> None:
        """Count a batch."""
        self.progress.advance()

    def on_validation_end(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Reserve the duration of this validation for the next."""
        task.reserved_seconds = MARGIN * (time.monotonic() - self._validation_began)
        self._update(trainer, task)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Start no further epoch that could not be validated."""
        self._stop_in_time(trainer, task)

    def _update(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Give the task the present times: those of the first process in all processes."""
        task.spent_seconds = self.budget.spent
        self._step_seconds = self._pace.seconds if self._pace.is_known else 0.0
        if self.config.max_minutes and trainer.world_size > 1:
            now = task.spent_seconds, task.reserved_seconds, self._step_seconds
            now = trainer.strategy.broadcast(now)
            task.spent_seconds, task.reserved_seconds, self._step_seconds = now

    def _stop_in_time(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        needed = task.spent_seconds + self._step_seconds + task.reserved_seconds
        if needed <= self.budget.seconds or self._steps_left(trainer, task) == 0:
            return
        if not task.cut_short and not trainer.should_stop and trainer.is_global_zero:
            print(
                f"stopping in epoch {trainer.current_epoch + 1} of {self.config.epochs}: the time "
                f"budget of {self.config.max_minutes:g} minutes is spent",
                flush=True,
            )
        task.cut_short = task.cut_short or not trainer.should_stop
        trainer.should_stop = True

    def _tell_estimate(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Print an estimate of the total time, and of the epochs that the budget allows."""
        self._has_told = True
        seconds = task.spent_seconds + self._seconds_left(trainer, task)
        most = "at most " if self.config.schedule == "plateau" else ""
        text = f"{most}about {duration(seconds)} on this processor"
        if seconds > self.budget.seconds:
            share = (self.budget.seconds - task.spent_seconds) / (seconds - task.spent_seconds)
            done = trainer.global_step / task.steps_per_epoch
            epochs = done + share * (self.config.epochs - done)
            text += (
                f" for all {self.config.epochs} epochs; the time budget of "
                f"{self.config.max_minutes:g} minutes (train.max_minutes) ends training after "
                f"about {epochs:.1f}"
            )
        if trainer.is_global_zero:
            print(f"training takes {text}", flush=True)

    def _left(self, trainer: pl.Trainer, task: "PretrainTask") -> str:
        """Return the remaining time as text; empty if it is not known yet."""
        if not self._pace.is_known:
            return ""
        within_budget = max(0.0, self.budget.seconds - task.spent_seconds)
        seconds = min(self._seconds_left(trainer, task), within_budget)
        return f"{'at most ' if self.config.schedule == 'plateau' else ''}{duration(seconds)} left"

    def _seconds_left(self, trainer: pl.Trainer, task: "PretrainTask") -> float:
        """Return the remaining time for all epochs at the present pace, with validations, s."""
        steps = self._steps_left(trainer, task)
        validations = math.ceil(steps / task.steps_per_epoch)
        return steps * self._pace.seconds + validations * task.reserved_seconds / MARGIN

    def _steps_left(self, trainer: pl.Trainer, task: "PretrainTask") -> int:
        return self.config.epochs * task.steps_per_epoch - trainer.global_step

    def _seconds_to_validate(self, trainer: pl.Trainer, task: "PretrainTask") -> float:
        """Estimate the duration of a validation from one batch.

        The batch is predicted twice, as libraries tune and compile during the first time.
        """
        training = task.model.training
        with (
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
            trainer.precision_plugin.val_step_context(),
        ):
            x, _ = trainer.strategy.batch_to_device(next(iter(self.valid_loader)))
            task.model.eval()
            begun = time.monotonic()
            for _ in range(2):
                begun = time.monotonic()
                task.model(x).float().sum().item()
        task.model.train(training)
        return (time.monotonic() - begun) * len(self.valid_loader)
