"""How a long command tells what it is doing: a bar on a terminal, elsewhere a line every half minute."""

import sys
import time
from collections.abc import Callable
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

INTERVAL = 25.0
"""Seconds between two lines: under 30 even where the machine is busy."""


class Progress:
    """Tells how far the current phase of a command has come, while the context lasts.

    Lines come from a thread of their own, so that none is late, however long a step takes.

    Args:
        bar: draw a bar where standard error is a terminal; false where somebody else does.
        quiet: say nothing; for all processes of a training but the first.
    """

    def __init__(self, *, bar: bool = True, quiet: bool = False):
        self._bar: Bar | None = None
        self._draws, self._quiet = bar, quiet
        self._over = Event()
        self._thread: Thread | None = None
        self.begin("starting")

    def begin(
        self,
        title: str,
        total: int | None = None,
        unit: str = "steps",
        left: Callable[[], str] | None = None,
    ) -> None:
        """Begin a phase.

        Args:
            title: of the phase.
            total: units of work, where that is known.
            unit: their name.
            left: what to say of the time that is left; by default, that of this phase.
        """
        self._phase = title, total, unit, left
        self._done, self._began = 0, time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._bar.task_ids[0], description=title, total=total)

    def advance(self, n: int = 1) -> None:
        """Count n units of work as done."""
        self._done += n
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], n)

    def line(self) -> str:
        """What there is to say now."""
        title, total, unit, left = self._phase
        done, seconds = self._done, time.monotonic() - self._began
        parts = []
        if total is not None or done:
            parts.append(f"{done}/{total} {unit}" if total is not None else f"{done} {unit}")
        if done:
            parts.append(f"{done / seconds:.3g} {unit}/s")
        if left is not None:
            parts.append(left())
        elif done and total is not None:
            parts.append(f"{duration(seconds * max(0, total - done) / done)} left")
        return f"{title}: {', '.join(filter(None, parts))}" if any(parts) else title

    def __enter__(self) -> "Progress":
        console = Console(stderr=True)
        if self._quiet or (console.is_terminal and not self._draws):
            return self
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=console, transient=True)
            self._bar.add_task(self._phase[0], total=self._phase[1])
            self._bar.start()
        else:
            self._thread = Thread(target=self._tell, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        if self._bar is not None:
            self._bar.stop()
        if self._thread is not None:
            self._thread.join()

    def _tell(self) -> None:
        while not self._over.wait(INTERVAL):
            sys.stdout.write(self.line() + "\n")
            sys.stdout.flush()


def duration(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
