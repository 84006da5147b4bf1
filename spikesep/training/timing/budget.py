"""Time budgets: time spent over all starts of a command, step times, and shares of stages."""

import math
import time
from collections.abc import Sequence
from typing import Any

from spikesep.training.timing.progress import duration

WARM_UP = 3
"""Steps that are not timed, as libraries tune and compile during the first."""
ENOUGH = 5
"""Timed steps after which the step time is known, unless they take ENOUGH_SECONDS before."""
ENOUGH_SECONDS = 20.0
OPENING_VALIDATIONS = 5.0
"""Duration of a stage before its training, in validations, until measured; from debian-2mix."""


class Budget:
    """Time that a command may take, over all its starts.

    Args:
        minutes: budget; None for no limit.
        began: start of the present start, by `time.monotonic()`; None for now.
    """

    def __init__(self, minutes: float | None, began: float | None = None):
        self.seconds = math.inf if minutes is None else 60 * minutes
        self._began = time.monotonic() if began is None else began
        self._before = 0.0

    @property
    def spent(self) -> float:
        """Time spent in this start and earlier ones, s."""
        return self._before + time.monotonic() - self._began

    def resume(self, spent: float) -> None:
        """Add the time spent in earlier starts, s."""
        self._before = spent


class Pace:
    """Mean duration of a step, without the first few."""

    def __init__(self):
        self._seen = self._counted = 0
        self._seconds = 0.0
        self._last = time.monotonic()

    def start(self) -> None:
        """Start timing the next step."""
        self._last = time.monotonic()

    def step(self) -> None:
        """Stop timing a step and start timing the next."""
        now, self._seen = time.monotonic(), self._seen + 1
        if self._seen > WARM_UP:
            self._counted += 1
            self._seconds += now - self._last
        self._last = now

    @property
    def is_known(self) -> bool:
        """Whether enough steps were timed."""
        return self._counted >= ENOUGH or (self._counted > 0 and self._seconds >= ENOUGH_SECONDS)

    @property
    def seconds(self) -> float:
        """Mean duration of a step, s; nan if none was timed."""
        return self._seconds / self._counted if self._counted else math.nan


class StageClock:
    """Shares the time budget of a conversion among its stages, in proportion to their steps.

    Time that a stage does not use is left to the later ones. Time for validation and for the
    conversion of the later layers is set aside as far as it can be estimated. Once a stage has no
    time to train, no later one trains either. Stages count from 0.

    Args:
        budget: budget of the conversion.
        most: maximum number of epochs and steps per epoch of each stage.
        at_end: duration of what follows the last stage, in validations.
    """

    def __init__(self, budget: Budget, most: Sequence[tuple[int, int]], at_end: float = 0.0):
        self.budget = budget
        self.at_end = at_end
        self.epochs = [epochs for epochs, _ in most]
        self.steps = [epochs * steps for epochs, steps in most]
        self.batches = [steps for _, steps in most]
        self.validation = 0.0
        """Duration of the last validation, s."""
        self.is_over = False
        """Whether no further stage trains."""
        self._pace, self._has_told = Pace(), False
        # Of the present stage: its number, start and end of its training, by the budget.
        self._stage: int | None = None
        self._began, self._deadline = 0.0, math.inf
        # Start of the stage's conversion, and duration from there to its training (not the first's)
        self._opened = 0.0
        self._opening: float | None = None
        # Stage and number of steps trained in it, and whether it was stopped within an epoch.
        self._done, self._broke_off = (0, 0), False

    def open(self) -> None:
        """Note that a stage starts to convert its layer."""
        self._opened = self.budget.spent

    def cuts_short(self, stage: int, finished: bool) -> bool:
        """Return whether time ends a stage after a validation.

        Args:
            stage: the stage.
            finished: whether its schedule has ended; then time ended it only if it did so within
                the last epoch.
        """
        if self._stage != stage:
            self._share(stage)
        return self._broke_off if finished else self.is_spent

    @property
    def is_spent(self) -> bool:
        """Whether the stage has no time left to train."""
        return self.budget.spent >= self._deadline

    @property
    def share_spent(self) -> float:
        """Fraction of the stage's time that is spent; 0 without a budget."""
        if math.isinf(self._deadline):
            return 0.0
        return min(1.0, (self.budget.spent - self._began) / max(1e-9, self._deadline - self._began))

    def start(self, stage: int, epoch: int) -> None:
        """Note that an epoch starts to train."""
        self._done, self._broke_off = (stage, (epoch - 1) * self.batches[stage]), False
        self._pace.start()

    def step(self) -> bool:
        """Count a step; print an estimate of the total time once the step time is known.

        Returns:
            Whether the epoch must end now.
        """
        self._pace.step()
        stage, done = self._done
        self._done = stage, done + 1
        if not self._has_told and self._pace.is_known:
            self._has_told = True
            print(self._estimate(), flush=True)
        self._broke_off = self.is_spent and (done + 1) % self.batches[stage] > 0
        return self._broke_off

    def title(self, stage: int) -> str:
        """Return `stage K/N`."""
        return f"stage {stage + 1}/{len(self.steps)}"

    def left(self) -> str:
        """Return the remaining time as text; empty if it is not known yet."""
        if not self._pace.is_known:
            return ""
        seconds = min(self._seconds_left(), max(0.0, self.budget.seconds - self.budget.spent))
        return f"at most {duration(seconds)} left"

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, plain values."""
        return {
            "spent": self.budget.spent,
            "stage": self._stage,
            "began": self._began,
            "deadline": self._deadline,
            "is_over": self.is_over,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the clock of an earlier start."""
        self.budget.resume(state["spent"])
        self._stage, self._began, self._deadline = state["stage"], state["began"], state["deadline"]
        self.is_over = state["is_over"]

    def _share(self, stage: int) -> None:
        """Set the time in which a stage may train, from now on."""
        now = self._began = self.budget.spent
        if stage > 0:
            self._opening = now - self._opened
        to_come = len(self.steps) - stage - 1
        fixed = (1 + to_come + self.at_end) * self.validation + to_come * self._seconds_to_open()
        free = self.budget.seconds - now
        # The first stage matters most, and before it the fixed times are rough estimates.
        free -= min(fixed, free / 2) if stage == 0 else fixed
        self.is_over = self.is_over or free <= 0
        self._stage = stage
        planned = sum(self.steps[stage:])
        if self.is_over:
            self._deadline = now
        elif planned and math.isfinite(free):
            self._deadline = now + free * self.steps[stage] / planned
        else:
            self._deadline = math.inf

    def _seconds_to_open(self) -> float:
        """Return the duration of a later stage before its training, s."""
        return OPENING_VALIDATIONS * self.validation if self._opening is None else self._opening

    def _seconds_left(self) -> float:
        """Return the remaining time at the present pace if no stage ends early, s."""
        stage, done = self._done
        steps = sum(self.steps[stage:]) - done
        later = range(stage + 1, len(self.steps))
        epochs_left = self.epochs[stage] - done // self.batches[stage]
        validations = epochs_left + sum(self.epochs[k] for k in later) + self.at_end
        opening = len(later) * self._seconds_to_open()
        return steps * self._pace.seconds + validations * self.validation + opening

    def _estimate(self) -> str:
        seconds = self.budget.spent + self._seconds_left()
        text = f"conversion takes at most about {duration(seconds)} on this processor"
        if seconds > self.budget.seconds:
            text += (
                f"; its time budget (convert.max_minutes) is {duration(self.budget.seconds)}, "
                "shared by the stages: some will train less"
            )
        return text
