"""Work on many files with all cores: maps with a progress bar, in this process or in several."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from spikesep.errors import SpikeSepError
from spikesep.training.provenance import available_cores


class Workers(AbstractContextManager):
    """`n_jobs` processes (0 takes all cores; 1 stays in this process) that serve one map after the other.

    They are forked where that is safe (no other thread, no torch, which could leave them a held lock), so that they are
    there at once, and spawned elsewhere; what they run must therefore be importable. They end with this process, also
    when it is killed. An exception such as Ctrl-C
    ends them at once, even in the middle of their work.
    """

    def __init__(self, n_jobs: int, option: str = "--launch.n_jobs"):
        self.n_jobs = n_jobs or available_cores()
        self.option = option
        self._pool: ProcessPoolExecutor | None = None

    def __exit__(self, kind, *_) -> None:
        if self._pool is None:
            return
        if kind is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable, items: Sequence, description: str, chunk: int = 16) -> Iterator[Any]:
        """`function(item)` of every item, in order, as they come.

        `chunk` items are handed to a process at once: enough that handing over costs little, few enough that the bar
        moves. The bar, with its rate and the time left, is drawn on standard error, and only on a terminal.
        """
        if not items:
            return
        in_process = self.n_jobs == 1 or len(items) < 2 * chunk
        if not in_process and self._pool is None:
            self._start()
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn()
        )  # fmt: skip
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
            try:
                results = map(function, items) if in_process else self._pool.map(function, items, chunksize=chunk)
                yield from progress.track(results, total=len(items), description=description)
            except BrokenProcessPool as error:
                raise SpikeSepError(
                    f"{description}: a worker process was killed (out of memory?); "
                    f"lower {self.option} from {self.n_jobs}"
                ) from error

    def _start(self) -> None:
        alone = threading.active_count() == 1 and "torch" not in sys.modules and sys.platform == "linux"
        context = multiprocessing.get_context("fork" if alone else "spawn")
        self._pool = ProcessPoolExecutor(self.n_jobs, context, _begin)
        self._pool.submit(int)  # forks them now, before a progress bar's thread is there


class RateColumn(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        """As `12.3/s`."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "-/s", style="progress.data.speed")


def parallel_map(function: Callable, items: Sequence, n_jobs: int, description: str, chunk: int = 16) -> list[Any]:
    """`[function(item) for item in items]`, by `Workers` of its own."""
    with Workers(n_jobs) as workers:
        return list(workers.map(function, items, description, chunk))


def end_with_parent() -> None:
    """End this worker when its parent does: a parent that is killed closes no queue, and it would wait for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _begin() -> None:
    """Keep the libraries of a worker from starting a thread for each core beside each other; leave Ctrl-C to the
    parent.

    Those already loaded in a forked worker are not asked to do anything that they would share out to threads.
    """
    end_with_parent()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
