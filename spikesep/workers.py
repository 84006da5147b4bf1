"""Parallel maps over many items, with a progress bar.

Each worker process has a pipe of its own and shares no queue or lock with the others. A worker that
is killed at any moment can therefore neither block another one nor go unnoticed. (In
`concurrent.futures`, a worker killed while it returns a result blocks the whole pool forever.)
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from spikesep.errors import SpikeSepError
from spikesep.files import defer_signals, remove_unfinished
from spikesep.provenance import available_cores

GRACE_SECONDS = 1.0
"""Time that a terminated worker has to exit before it is killed."""

ChunkResult = tuple[list, Exception | None]
"""Results of a chunk, up to the exception that ended it, if any."""


@dataclass(frozen=True, eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection


class Workers(AbstractContextManager):
    """A pool of worker processes that serves one map at a time.

    Processes start with the first map that needs them. They end with the `with` block, or with this
    process, even if it is killed. They are forked where that is safe: on Linux, in a process with
    one thread and without torch, whose locks a fork could leave held. Elsewhere they are spawned,
    so mapped functions must be importable.

    Args:
        n_jobs: Number of processes; 0 uses all cores, 1 runs in this process.
        option: Command-line option that sets `n_jobs`, for error messages.
        fresh: Start a new process for every chunk, for libraries that keep state between calls.
    """

    def __init__(self, n_jobs: int, option: str = "--launch.n_jobs", *, fresh: bool = False):
        self.n_jobs = n_jobs or available_cores()
        self.option = option
        self.fresh = fresh
        self._workers: list[_Worker] = []
        self._busy = False

    def __exit__(self, *exception) -> None:
        self.stop()

    def map(
        self,
        function: Callable,
        items: Sequence,
        description: str,
        chunk: int = 16,
        *,
        in_order: bool = True,
    ) -> Iterator[Any]:
        """Yield `function(item)` for every item as results arrive.

        A bar on standard error, if that is a terminal, shows progress, rate and remaining time.

        Args:
            function: Takes one item. An exception ends the map after the results before it.
            items: Arguments of `function`.
            description: Name of the work, for the bar and error messages.
            chunk: Number of items sent to a process at once.
            in_order: Yield results in the order of the items, not as soon as they arrive.

        Raises:
            SpikeSepError: If a worker was killed.
        """
        if not items:
            return
        in_process = not self.fresh and (self.n_jobs == 1 or len(items) < 2 * chunk)
        if not in_process:
            # Fork before the progress bar starts its thread.
            self._start(min(self.n_jobs, -(-len(items) // chunk)))
        with _progress_bar() as progress:
            results = (
                map(function, items)
                if in_process
                else self._map(function, items, description, chunk, in_order)
            )
            yield from progress.track(results, total=len(items), description=description)

    def stop(self) -> None:
        """End all workers at once, busy or not, and remove their unfinished files."""
        workers, self._workers, self._busy = self._workers, [], False
        _end_all(workers)

    def _start(self, n: int) -> None:
        """Make sure that at least `n` workers exist and all are idle."""
        if self._busy:  # with an earlier map whose results were not all consumed
            self.stop()
        while len(self._workers) < n:
            self._add()

    def _add(self) -> Connection:
        """Start a worker and return the connection to it."""
        can_fork = (
            threading.active_count() == 1 and "torch" not in sys.modules and sys.platform == "linux"
        )
        context = multiprocessing.get_context("fork" if can_fork and not self.fresh else "spawn")
        with defer_signals():  # a signal handler must find every process in the list
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)  # pyright: ignore[reportAttributeAccessIssue]
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))
        return ours

    def _replace(self, connection: Connection) -> Connection:
        """End an idle worker and start another one."""
        old = next(worker for worker in self._workers if worker.connection is connection)
        self._workers.remove(old)
        _end_all([old])
        return self._add()

    def _map(
        self, function: Callable, items: Sequence, description: str, chunk: int, in_order: bool
    ) -> Iterator[Any]:
        workers, arrived, due = self._workers, {}, 0
        self._busy = True
        try:
            for number, answer in self._chunk_results(function, items, description, chunk):
                arrived[number if in_order else due] = answer
                while due in arrived:
                    results, error = arrived.pop(due)
                    due += 1
                    yield from results
                    if error is not None:
                        raise error
            self._busy = False
        finally:
            if self._busy and self._workers is workers:
                self.stop()

    def _chunk_results(
        self, function: Callable, items: Sequence, description: str, chunk: int
    ) -> Iterator[tuple[int, ChunkResult]]:
        """Yield the index and the result of each chunk as they arrive.

        Each process works on one chunk at a time.
        """
        waiting = deque((k // chunk, items[k : k + chunk]) for k in range(0, len(items), chunk))
        busy: dict[Connection, int] = {}

        def send_next(connection: Connection) -> None:
            if waiting:
                busy[connection], part = waiting.popleft()
                connection.send((function, part))

        try:
            for worker in self._workers:
                send_next(worker.connection)
            while busy:
                for connection in cast(list[Connection], wait(list(busy))):
                    number, answer = busy.pop(connection), connection.recv()
                    send_next(self._replace(connection) if self.fresh and waiting else connection)
                    yield number, answer
        except (EOFError, OSError) as error:
            raise SpikeSepError(
                f"{description}: a worker process was killed (out of memory?); "
                f"lower {self.option} from {self.n_jobs}"
            ) from error


class RateColumn(ProgressColumn):
    """Progress column that shows items per second."""

    def render(self, task: Task) -> Text:
        """Format the rate as `12.3/s`."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "-/s", style="progress.data.speed")


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def parallel_map(
    function: Callable,
    items: Sequence,
    n_jobs: int,
    description: str,
    chunk: int = 16,
    *,
    fresh: bool = False,
) -> list[Any]:
    """Return `[function(item) for item in items]`, computed by a temporary `Workers` pool."""
    with Workers(n_jobs, fresh=fresh) as workers:
        return list(workers.map(function, items, description, chunk))


def _end_all(workers: Sequence[_Worker]) -> None:
    with defer_signals():
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            worker.connection.close()


def _serve(connection: Connection) -> None:
    """Main function of a worker: apply functions to chunks of items until the parent ends."""
    try:
        _initialize()
        while True:
            function, part = connection.recv()
            answer = _apply(function, part)
            try:
                connection.send(answer)
            except Exception as error:  # the results cannot be pickled, for any reason
                connection.send(([], error))
    finally:
        os._exit(1)  # skip the slow exit handlers of libraries; there is nothing to save


def _apply(function: Callable, part: Sequence) -> ChunkResult:
    """Apply `function` to the items of a chunk until it raises."""
    results = []
    try:
        for item in part:
            results.append(function(item))
    except Exception as error:
        error.add_note(traceback.format_exc())
        return results, error
    return results, None


def _initialize() -> None:
    """Make a worker end with its parent or on SIGTERM, ignore Ctrl-C, and use one thread."""
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def _exit(*_) -> None:
    """Exit without unwinding; an exception could be caught, or lost in a C callback."""
    remove_unfinished()
    os._exit(1)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # the pipe of a killed parent may stay open
    _exit()
