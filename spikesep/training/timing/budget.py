"""Time budgets: the clock of a command over all its starts, the pace of its steps, and the shares of stages."""

import math
import time
from collections.abc import Sequence
from typing import Any

from spikesep.training.timing.progress import duration

WARM_UP = 3
"""Steps that are not counted: in the first, libraries choose and compile what they compute with."""
ENOUGH = 5
"""Steps that give a pace, or as many as take ENOUGH_SECONDS."""
ENOUGH_SECONDS = 20.0
OPENING_VALIDATIONS = 5.0
"""How many validations it takes as long as to begin a stage, until that is measured; about that of debian-2mix."""


class Budget:
    """The time that a command may take, over all its starts.

    Args:
        minutes: of the whole command; None for any number.
        began: when this start began, by `time.monotonic()`; None for now.
    """

    def __init__(self, minutes: float | None, began: float | None = None):
        self.seconds = math.inf if minutes is None else 60 * minutes
        self._began = time.monotonic() if began is None else began
        self._before = 0.0

    @property
    def spent(self) -> float:
        """Seconds, in this start and those before."""
        return self._before + time.monotonic() - self._began

    def resume(self, spent: float) -> None:
        """Count what earlier starts spent."""
        self._before = spent


class Pace:
    """Seconds a step takes, once the first few are over."""

    def __init__(self):
        self._seen = self._counted = 0
        self._seconds = 0.0
        self._last = time.monotonic()

    def start(self) -> None:
        """A step begins; what was before it is not counted."""
        self._last = time.monotonic()

    def step(self) -> None:
        """A step has ended, and the next begins."""
        now, self._seen = time.monotonic(), self._seen + 1
        if self._seen > WARM_UP:
            self._counted += 1
            self._seconds += now - self._last
        self._last = now

    @property
    def is_known(self) -> bool:
        """Whether enough steps were measured."""
        return self._counted >= ENOUGH or (self._counted > 0 and self._seconds >= ENOUGH_SECONDS)

    @property
    def seconds(self) -> float:
        """Of a step, on average; nan where none was measured."""
        return self._seconds / self._counted if self._counted else math.nan


class StageClock:
    """The clock of a conversion: its budget is shared out among the stages by the steps that each may train.

    What a stage leaves, by its patience or because it began early, the later ones have. The time in which the later
    stages convert their layers is set aside, as far as it can be foreseen. Once a stage finds no time to train, none
    after it trains either. Stages count from 0.

    Args:
        budget: of the conversion.
        most: of each stage, the most epochs and the steps of one.
        at_end: validations that what comes after the last stage takes as long as.
    """

    def __init__(self, budget: Budget, most: Sequence[tuple[int, int]], at_end: float = 0.0):
        self.budget = budget
        self.at_end = at_end
        self.epochs = [epochs for epochs, _ in most]
        self.steps = [epochs * steps for epochs, steps in most]
        self.batches = [steps for _, steps in most]
        self.validation = 0.0
        """Seconds of the last validation."""
        self.is_over = False
        """Whether no stage trains any more."""
        self._pace, self._said = Pace(), False
        self._stage: int | None = None  # the one whose share is set
        self._began, self._deadline = 0.0, math.inf  # of its training, by the budget
        self._opened = 0.0  # when the layer of a stage began to be converted
        self._opening: float | None = (
            None  # seconds from there to its training, but in the first stage
        )
        self._done, self._broke_off = (0, 0), False  # stage, and steps of it; within an epoch

    def open(self) -> None:
        """A stage begins to convert its layer."""
        self._opened = self.budget.spent

    def cuts_short(self, stage: int, finished: bool) -> bool:
        """Whether time ends a stage that is validated: before its schedule does, or within its last epoch."""
        if self._stage != stage:
            self._share(stage)
        return self._broke_off if finished else self.is_spent

    @property
    def is_spent(self) -> bool:
        """Whether the stage has no time left to train."""
        return self.budget.spent >= self._deadline

    @property
    def share_spent(self) -> float:
        """Share of the stage's time that is over; 0 without a budget."""
        if math.isinf(self._deadline):
            return 0.0
        return min(1.0, (self.budget.spent - self._began) / max(1e-9, self._deadline - self._began))

    def start(self, stage: int, epoch: int) -> None:
        """An epoch begins to train."""
        self._done, self._broke_off = (stage, (epoch - 1) * self.batches[stage]), False
        self._pace.start()

    def step(self) -> bool:
        """A step is done; the first that give a pace say how long all of it will take.

        Returns:
            Whether the epoch must end here.
        """
        self._pace.step()
        stage, done = self._done
        self._done = stage, done + 1
        if not self._said and self._pace.is_known:
            self._said = True
            print(self._foreseen(), flush=True)
        self._broke_off = self.is_spent and (done + 1) % self.batches[stage] > 0
        return self._broke_off

    def title(self, stage: int) -> str:
        """Which of the stages it is."""
        return f"stage {stage + 1}/{len(self.steps)}"

    def left(self) -> str:
        """The time that is left, for people; nothing where it cannot be known yet."""
        if not self._pace.is_known:
            return ""
        seconds = min(self._seconds_left(), max(0.0, self.budget.seconds - self.budget.spent))
        return f"at most {duration(seconds)} left"

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, plain values."""
        return {
            "spent": self.budget.spent,
            "stage": self._stage,
            "began": self._began,
            "deadline": self._deadline,
            "is_over": self.is_over,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on by the clock of an earlier start."""
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
        free -= (
            min(fixed, free / 2) if stage == 0 else fixed
        )  # the first stage matters most, and is only guessed at
        self.is_over = self.is_over or free <= 0
        planned = sum(self.steps[stage:])
        self._stage = stage
        if self.is_over:
            self._deadline = now
        else:
            self._deadline = (
                now + free * self.steps[stage] / planned
                if planned and math.isfinite(free)
                else math.inf
            )

    def _seconds_to_open(self) -> float:
        """Of a later stage, before it trains."""
        return OPENING_VALIDATIONS * self.validation if self._opening is None else self._opening

    def _seconds_left(self) -> float:
        """Of the whole conversion, by the pace of its steps, if no patience ends a stage."""
        stage, done = self._done
        steps = sum(self.steps[stage:]) - done
        later = range(stage + 1, len(self.steps))
        validations = (
            self.epochs[stage] - done // self.batches[stage] + sum(self.epochs[k] for k in later)
        )
        opening = len(later) * self._seconds_to_open()
        return steps * self._pace.seconds + (validations + self.at_end) * self.validation + opening

    def _foreseen(self) -> str:
        seconds = self.budget.spent + self._seconds_left()
        text = f"conversion takes at most about {duration(seconds)} on this processor"
        if seconds > self.budget.seconds:
            text += (
                f"; its time budget (ptl.max_minutes) is {duration(self.budget.seconds)}, shared by the stages: "
                "some will train less"
            )
        return text
