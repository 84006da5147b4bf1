"""The clock of pre-training: how long it will take, how far it has come, and its end where a budget is spent."""

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
    from spikesep.training.pretrain import PretrainTask

MARGIN = 1.2
"""Of a validation's foreseen time, so that it ends within the budget."""


class TimeKeeper(pl.Callback):
    """Ends training within an epoch when no more than the validation fits into the budget.

    Args:
        config: the schedule.
        budget: of the command.
        valid_loader: timed before training starts.
        progress: is told of every step.
    """

    def __init__(
        self, config: PretrainConfig, budget: Budget, valid_loader: DataLoader, progress: Progress
    ):
        self.config, self.budget, self.valid_loader, self.progress = (
            config,
            budget,
            valid_loader,
            progress,
        )
        self._pace, self._step = Pace(), 0.0  # seconds, of a step
        self._said = False
        self._validating = 0.0  # since when

    def on_train_start(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Take up the clock of earlier starts, and time a validation."""
        self.budget.resume(task.spent_seconds)
        if not task.finished and not task.reserved_seconds:
            task.reserved_seconds = MARGIN * self._seconds_to_validate(trainer, task)
        self._tick(trainer, task)

    def on_train_epoch_start(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Say which epoch it is."""
        title = f"epoch {trainer.current_epoch + 1}/{self.config.epochs}"
        self.progress.begin(title, task.steps_per_epoch, left=lambda: self._left(trainer, task))
        self._pace.start()

    def on_train_batch_end(self, trainer: pl.Trainer, task: "PretrainTask", *args) -> None:
        """Let the clock go on; end training when it has run out."""
        self._pace.step()
        self.progress.advance()
        self._tick(trainer, task)
        if not self._said and self._pace.is_known:
            self._say(trainer, task)
        self._end_in_time(trainer, task)

    def on_validation_start(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Time it."""
        self._validating = time.monotonic()
        self.progress.begin(f"epoch {trainer.current_epoch + 1}/{self.config.epochs}, validation")

    def on_validation_batch_end(self, *args) -> None:
        """Count it."""
        self.progress.advance()

    def on_validation_end(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """Set aside as much for the next."""
        task.reserved_seconds = MARGIN * (time.monotonic() - self._validating)
        self._tick(trainer, task)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """No further epoch where it could not be validated."""
        self._end_in_time(trainer, task)

    def _tick(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        task.spent_seconds = self.budget.spent
        self._step = self._pace.seconds if self._pace.is_known else 0.0
        if (
            self.config.max_minutes and trainer.world_size > 1
        ):  # one clock for all: the rate and the end follow it
            now = task.spent_seconds, task.reserved_seconds, self._step
            task.spent_seconds, task.reserved_seconds, self._step = trainer.strategy.broadcast(now)

    def _end_in_time(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        needed = task.spent_seconds + self._step + task.reserved_seconds
        if needed <= self.budget.seconds or self._steps_left(trainer, task) == 0:
            return
        if not task.cut_short and not trainer.should_stop and trainer.is_global_zero:
            epoch = f"epoch {trainer.current_epoch + 1} of {self.config.epochs}"
            print(
                f"stopping in {epoch}: the time budget of {self.config.max_minutes:g} minutes is spent",
                flush=True,
            )
        task.cut_short = task.cut_short or not trainer.should_stop
        trainer.should_stop = True

    def _say(self, trainer: pl.Trainer, task: "PretrainTask") -> None:
        """How long all of it takes on this processor, and whether that fits."""
        self._said = True
        seconds = task.spent_seconds + self._seconds_left(trainer, task)
        most = "at most " if self.config.schedule == "plateau" else ""
        text = f"{most}about {duration(seconds)} on this processor"
        if seconds > self.budget.seconds:
            share = (self.budget.seconds - task.spent_seconds) / (seconds - task.spent_seconds)
            done = trainer.global_step / task.steps_per_epoch
            epochs = done + share * (self.config.epochs - done)
            text += (
                f" for all {self.config.epochs} epochs; the time budget of {self.config.max_minutes:g} minutes "
                f"(ann.max_minutes) ends training after about {epochs:.1f}"
            )
        if trainer.is_global_zero:
            print(f"training takes {text}", flush=True)

    def _left(self, trainer: pl.Trainer, task: "PretrainTask") -> str:
        if not self._pace.is_known:
            return ""
        seconds = min(
            self._seconds_left(trainer, task), max(0.0, self.budget.seconds - task.spent_seconds)
        )
        return f"{'at most ' if self.config.schedule == 'plateau' else ''}{duration(seconds)} left"

    def _seconds_left(self, trainer: pl.Trainer, task: "PretrainTask") -> float:
        """By the pace of the steps, validations included, however many of them patience leaves."""
        steps = self._steps_left(trainer, task)
        return (
            steps * self._pace.seconds
            + math.ceil(steps / task.steps_per_epoch) * task.reserved_seconds / MARGIN
        )

    def _steps_left(self, trainer: pl.Trainer, task: "PretrainTask") -> int:
        return self.config.epochs * task.steps_per_epoch - trainer.global_step

    def _seconds_to_validate(self, trainer: pl.Trainer, task: "PretrainTask") -> float:
        """By one batch, the second time it is predicted: in the first, libraries choose how."""
        training = task.model.training
        with (
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
            trainer.precision_plugin.val_step_context(),
        ):
            x, _ = trainer.strategy.batch_to_device(next(iter(self.valid_loader)))
            task.model.eval()
            for _ in range(2):
                begun = time.monotonic()
                task.model(x).float().sum().item()
        task.model.train(training)
        return (time.monotonic() - begun) * len(self.valid_loader)
