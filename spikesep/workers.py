"""Maps over many files with a progress bar, in this process or on all cores.

Each worker process has a pipe of its own and shares no queue or lock with the others. Whatever is done to one of them,
at whatever moment, it can neither block another nor go unnoticed. (In `concurrent.futures` a worker that is killed
while it hands over a result stops the whole pool for good.)
"""

import multiprocessing
import os
import pickle
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
from typing import Any

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
from spikesep.files import remove_unfinished, uninterrupted
from spikesep.provenance import available_cores

GRACE_SECONDS = 1.0
"""Time that a worker has to end before it is killed."""


@dataclass(frozen=True, eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection


class Workers(AbstractContextManager):
    """Worker processes that serve one map after the other, one at a time.

    They start with the first map that needs them and end with the block, and with this process, even if it is killed.
    They are forked where that is safe (no other thread, no torch, which could leave them a held lock), else spawned, so
    what they run must be importable.

    Args:
        n_jobs: number of processes; 0 takes all cores, 1 stays in this process.
        option: that sets this number, for error messages.
        fresh: start a new process for each chunk, even a single one, as libraries need whose state outlives a call.
    """

    def __init__(self, n_jobs: int, option: str = "--launch.n_jobs", *, fresh: bool = False):
        self.n_jobs = n_jobs or available_cores()
        self.option = option
        self.fresh = fresh
        self._workers: list[_Worker] = []
        self._at_work = False

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
        """Yield `function(item)` of every item as results arrive.

        Progress, with its rate and the time left, is drawn on standard error if that is a terminal.

        Args:
            function: to apply; an exception that it raises ends the map after the results before it.
            items: one argument each.
            description: of the work, for the bar and error messages.
            chunk: items handed to a process at once.
            in_order: yield results in the order of the items; otherwise as soon as they arrive.

        Raises:
            SpikeSepError: a worker was killed.
        """
        if not items:
            return
        in_process = not self.fresh and (self.n_jobs == 1 or len(items) < 2 * chunk)
        if not in_process:
            self._start(min(self.n_jobs, -(-len(items) // chunk)))  # before the bar's thread
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn()
        )  # fmt: skip
        with Progress(
            *columns, console=console, disable=not console.is_terminal, transient=True
        ) as progress:
            results = (
                map(function, items)
                if in_process
                else self._map(function, items, description, chunk, in_order)
            )
            yield from progress.track(results, total=len(items), description=description)

    def stop(self) -> None:
        """End all workers at once, busy or not; files that they were writing through `atomic_path` are removed."""
        workers, self._workers, self._at_work = self._workers, [], False
        _end_all(workers)

    def _start(self, n: int) -> None:
        """See that there are `n` workers, all of them idle."""
        if self._at_work:  # on an earlier map, of which not all results were taken
            self.stop()
        while len(self._workers) < n:
            self._add()

    def _add(self) -> Connection:
        """Start one more worker."""
        alone = (
            threading.active_count() == 1 and "torch" not in sys.modules and sys.platform == "linux"
        )
        context = multiprocessing.get_context("fork" if alone and not self.fresh else "spawn")
        with uninterrupted():  # no signal finds a process that is not in the list yet
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))
        return ours

    def _replace(self, connection: Connection) -> Connection:
        """Another worker in the place of an idle one."""
        old = next(worker for worker in self._workers if worker.connection is connection)
        self._workers.remove(old)
        _end_all([old])
        return self._add()

    def _map(
        self, function: Callable, items: Sequence, description: str, chunk: int, in_order: bool
    ) -> Iterator[Any]:
        workers, arrived, due = self._workers, {}, 0
        self._at_work = True
        try:
            for number, answer in self._answers(function, items, description, chunk):
                arrived[number if in_order else due] = answer
                while due in arrived:
                    results, error = arrived.pop(due)
                    due += 1
                    yield from results
                    if error is not None:
                        raise error
            self._at_work = False
        finally:
            if self._at_work and self._workers is workers:
                self.stop()

    def _answers(
        self, function: Callable, items: Sequence, description: str, chunk: int
    ) -> Iterator[tuple[int, tuple[list, Exception | None]]]:
        """The number of each chunk and what `_apply` gave, as they arrive; a process has one chunk at a time."""
        waiting = deque((k // chunk, items[k : k + chunk]) for k in range(0, len(items), chunk))
        busy: dict[Connection, int] = {}

        def hand_over(connection: Connection) -> None:
            if waiting:
                busy[connection], part = waiting.popleft()
                connection.send((function, part))

        try:
            for worker in self._workers:
                hand_over(worker.connection)
            while busy:
                for connection in wait(list(busy)):
                    number, answer = busy.pop(connection), connection.recv()
                    hand_over(self._replace(connection) if self.fresh and waiting else connection)
                    yield number, answer
        except (EOFError, OSError) as error:
            raise SpikeSepError(
                f"{description}: a worker process was killed (out of memory?); lower {self.option} from {self.n_jobs}"
            ) from error


class RateColumn(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        """As `12.3/s`."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "-/s", style="progress.data.speed")


def parallel_map(
    function: Callable,
    items: Sequence,
    n_jobs: int,
    description: str,
    chunk: int = 16,
    *,
    fresh: bool = False,
) -> list[Any]:
    """`[function(item) for item in items]`, by `Workers` of its own."""
    with Workers(n_jobs, fresh=fresh) as workers:
        return list(workers.map(function, items, description, chunk))


def _end_all(workers: Sequence[_Worker]) -> None:
    with uninterrupted():
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            worker.connection.close()


def _serve(connection: Connection) -> None:
    """Apply functions to chunks of items, until the parent ends."""
    try:
        _begin()
        while True:
            function, part = connection.recv()
            answer = _apply(function, part)
            try:
                connection.send(answer)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                connection.send(([], error))
    finally:
        os._exit(1)  # at once: there is nothing to save, and libraries take long to leave


def _apply(function: Callable, part: Sequence) -> tuple[list, Exception | None]:
    """Results of a chunk, as far as it came, and the exception that ended it."""
    results = []
    try:
        for item in part:
            results.append(function(item))
    except Exception as error:
        error.add_note(traceback.format_exc())
        return results, error
    return results, None


def _begin() -> None:
    """Make a worker end with its parent or on SIGTERM, leave Ctrl-C to the parent, and keep to one thread."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def _end(*_) -> None:
    """End without unwinding: an exception could be caught by what runs, or get lost in a callback from C."""
    remove_unfinished()
    os._exit(1)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()  # a parent that is killed closes no pipe
    _end()
