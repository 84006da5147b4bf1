import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from spikesep.errors import SpikeSepError
from spikesep.files import lock_folder
from spikesep.workers import Workers, parallel_map


def square(number):
    return number * number


def process_of(_):
    return os.getpid()


def refuse_seven(number):
    if number == 7:
        raise SpikeSepError("seven.wav: cannot be read")
    return number


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_consecutive_maps_yield_results_in_order(n_jobs):
    with Workers(n_jobs) as workers:
        assert list(workers.map(square, range(100), "squares", chunk=7)) == [
            n * n for n in range(100)
        ]
        assert list(workers.map(square, range(3), "few")) == [0, 1, 4]
        here = set(workers.map(process_of, range(64), "where", chunk=1)) == {os.getpid()}
    assert here == (n_jobs == 1)
    assert parallel_map(square, [], n_jobs, "nothing") == []


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_exception_ends_the_map_after_earlier_results(n_jobs):
    seen = []

    def take_all(results):
        for result in results:
            seen.append(result)

    with Workers(n_jobs) as workers, pytest.raises(SpikeSepError, match="seven"):
        take_all(workers.map(refuse_seven, range(40), "x", chunk=1))
    assert seen == list(range(7))


def test_interruption_ends_busy_workers():
    with pytest.raises(KeyboardInterrupt), Workers(2) as workers:
        results = workers.map(time.sleep, [0, 600, 600, 600], "sleeping", chunk=1)
        next(results)
        children = [worker.process.pid for worker in workers._workers]
        begun = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 2
    assert not any(is_running(child) for child in children)


def later_is_slower(number):
    time.sleep(0.5 * (number == 0))
    return number


def unpicklable(number):
    return lambda: number


class Refusing:
    """An object that refuses to be pickled by an error of its own."""

    def __reduce__(self):
        raise RuntimeError("refuses to be pickled")


def refusing(_):
    return Refusing()


def large(number):
    return bytes(10**7)  # much more than a pipe holds


def test_unordered_results_arrive_as_they_are_ready():
    with Workers(2) as workers:
        found = list(workers.map(later_is_slower, range(6), "x", chunk=1, in_order=False))
    assert sorted(found) == list(range(6))
    assert found[-1] == 0


def test_fresh_processes_work_on_one_chunk_each():
    here = parallel_map(process_of, range(3), 2, "where", chunk=1, fresh=True)
    assert len({*here, os.getpid()}) == 4


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (unpicklable, (AttributeError, TypeError), r"lambda|local object"),
        (refusing, RuntimeError, "refuses to be pickled"),
    ],
)
def test_unpicklable_result_is_an_error(function, error, message):
    with Workers(2) as workers, pytest.raises(error, match=message):
        list(workers.map(function, range(4), "x", chunk=1))


def test_results_of_an_unfinished_map_do_not_reach_the_next():
    with Workers(2) as workers:
        assert next(workers.map(square, range(8), "x", chunk=1)) == 0
        assert list(workers.map(refuse_seven, range(6), "y", chunk=1)) == list(range(6))


def slow(number):
    time.sleep(0.05)


@pytest.mark.parametrize("function", [large, slow])
def test_killed_worker_is_noticed(function):
    """Even while it sends a result; a pool with a shared queue would wait forever."""
    with Workers(2) as workers:
        results = workers.map(function, range(40), "reading", chunk=1)
        next(results)
        time.sleep(0.1)
        workers._workers[0].process.kill()
        with pytest.raises(
            SpikeSepError,
            match=r"reading: a worker process was killed .*lower --launch.n_jobs from 2",
        ):
            list(results)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_workers_are_forked_without_torch_and_end_with_a_killed_parent():
    code = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from spikesep.workers import Workers
def pid(_):
    return os.getpid()
workers = Workers(2)
print(*set(workers.map(pid, range(64), "x", chunk=1)), flush=True)
assert "torch" not in sys.modules
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    children = [int(word) for word in done.stdout.split()]
    assert children
    end = time.monotonic() + 30
    while any(is_running(child) for child in children):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_preparation_imports_no_torch_so_its_workers_are_forked():
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import spikesep.cli.prepare
print("torch" in sys.modules)
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        == "False\n"
    )


BUSY = """
import os, sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from spikesep.cli.common import exit_on_signal
from spikesep.files import atomic_path, lock_folder
from spikesep.workers import Workers

folder = Path({folder!r})

def work(number):
    with atomic_path(folder / str(os.getpid())) as temporary:
        temporary.write_text("half")
        end = time.monotonic() + 0.003 * (number % 5)
        while time.monotonic() < end:
            pass
    return bytes(number % 7 * 100_000)

with exit_on_signal(), lock_folder(folder), Workers(3) as workers:
    print(flush=True)
    while True:
        for _ in workers.map(work, range(200), "x", chunk=2):
            pass
"""


def end_at_a_random_moment(folder, how, chance):
    """Start three busy workers, signal processes as `how` says, and check that nothing is left."""
    code = BUSY.format(path=sys.path, folder=str(folder))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes)
    parent.stdout.readline()
    children: list[int] = []
    while len(children) < 3 and parent.poll() is None:
        children = [
            int(pid)
            for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        ]
    time.sleep(chance.uniform(0, 0.3))
    assert parent.poll() is None, parent.communicate()
    whom, number = how.split()
    pids = {
        "parent": [parent.pid],
        "worker": [chance.choice(children)],
        "all": [parent.pid, *children],
    }[whom]
    begun = time.monotonic()
    with suppress(ProcessLookupError):  # the parent may have ended its workers by now
        for pid in pids:
            os.kill(pid, getattr(signal, number))
    parent.communicate(timeout=20)
    while any(is_running(child) for child in children):
        assert time.monotonic() < begun + 20
        time.sleep(0.01)
    seconds = time.monotonic() - begun
    with lock_folder(folder):  # the lock is free
        assert parent.returncode != 0
    if number != "SIGKILL":
        assert not list(folder.glob(".*"))
    return seconds


ENDS = [
    "parent SIGTERM",
    "parent SIGINT",
    "all SIGTERM",
    "parent SIGKILL",
    "worker SIGKILL",
    "worker SIGTERM",
]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ENDS)
def test_killing_any_process_leaves_no_process_lock_or_partial_file(tmp_path, how):
    seconds = min(
        end_at_a_random_moment(tmp_path, how, random.Random(f"{how} {k}")) for k in range(2)
    )
    assert seconds < 2


@pytest.mark.stress
@pytest.mark.parametrize("how", ENDS)
def test_repeated_kills_leave_nothing(tmp_path, how):
    for k in range(40):
        assert end_at_a_random_moment(tmp_path, how, random.Random(k)) < 10


def test_terminated_process_removes_its_unfinished_files(tmp_path):
    code = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from spikesep.files import atomic_path, remove_unfinished
signal.signal(signal.SIGTERM, lambda *_: (remove_unfinished(), os._exit(3)))
with atomic_path("whole.txt") as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGTERM)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 3
    assert not list(tmp_path.iterdir())


def is_running(process):
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
