"""Progress bar of a recording that is being separated."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikesep.separation.inference import on_disk


@contextmanager
def progress_bar(title: str) -> Iterator["on_disk.Progress"]:
    """Show a progress bar on a terminal; yield the function that updates it."""
    if not sys.stderr.isatty():
        yield lambda seconds, total, factor: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[factor]}", markup=False), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None, factor="")
        yield lambda seconds, total, factor: progress.update(
            task, completed=seconds, total=total, factor=f"real-time factor {factor:.3f}"
        )
