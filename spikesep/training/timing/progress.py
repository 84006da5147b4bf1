"""Progress display of a long command: a bar on a terminal, otherwise a line every half minute."""

import sys
import time
from collections.abc import Callable
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

INTERVAL = 25.0
"""Seconds between two lines; keeps them under 30 s apart on a loaded machine."""


class Progress:
    """Displays the progress of the present phase of a command, within a `with` block.

    Lines are printed by a separate thread, so that long steps do not delay them.

    Args:
        bar: whether to draw a bar if standard error is a terminal; false if another does.
        quiet: whether to print nothing; for all training processes but the first.
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
            title: title of the phase.
            total: units of work, if known.
            unit: name of the unit, plural.
            left: returns the text on the remaining time; None for that of the phase.
        """
        self._phase = title, total, unit, left
        self._done, self._began = 0, time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._bar.task_ids[0], description=title, total=total)

    def advance(self, n: int = 1) -> None:
        """Count n units of work."""
        self._done += n
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], n)

    def line(self) -> str:
        """Return the present progress as a line."""
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
            self._thread = Thread(target=self._print_lines, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        if self._bar is not None:
            self._bar.stop()
        if self._thread is not None:
            self._thread.join()

    def _print_lines(self) -> None:
        while not self._over.wait(INTERVAL):
            sys.stdout.write(self.line() + "\n")
            sys.stdout.flush()


def duration(seconds: float) -> str:
    """Return a duration as text, such as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
