"""Work on many files with all cores: one map with a progress bar, in this process or in several."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spikesep.errors import SpikeSepError


def parallel_map(function: Callable, items: Sequence, n_jobs: int, description: str, chunk: int = 16) -> list[Any]:
    """`[function(item) for item in items]`, in `n_jobs` processes (0 takes all cores; 1 stays in this process).

    `chunk` items are handed to a process at once: enough that handing over costs little, few enough that the bar moves.
    Processes are spawned, not forked, so that a threaded library loaded here cannot leave them a held lock;
    `function` must therefore be importable. The bar is drawn on standard error, and only on a terminal.
    """
    n_jobs = min(n_jobs or os.cpu_count() or 1, max(1, len(items) // chunk))
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        if n_jobs == 1:
            return [function(item) for item in progress.track(items, description=description)]
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(n_jobs, mp_context=spawn, initializer=_one_thread_each)
        try:
            results = pool.map(function, items, chunksize=chunk)
            return list(progress.track(results, total=len(items), description=description))
        except BrokenProcessPool as error:
            raise SpikeSepError(
                f"{description}: a worker process was killed (out of memory?); lower --launch.n_jobs from {n_jobs}"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """End this worker when its parent does: a parent that is killed closes no queue, and it would wait for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _one_thread_each() -> None:
    """Keep the libraries of a worker, not yet loaded, from starting a thread for each core beside each other."""
    end_with_parent()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
