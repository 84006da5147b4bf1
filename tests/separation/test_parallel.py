import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.parallel import Workers, parallel_map


def square(number):
    return number * number


def process_of(_):
    return os.getpid()


def refuse_seven(number):
    if number == 7:
        raise SpikeSepError("seven.wav: cannot be read")
    return number


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_come_in_order_from_one_map_after_the_other(n_jobs):
    with Workers(n_jobs) as workers:
        assert list(workers.map(square, range(100), "squares", chunk=7)) == [n * n for n in range(100)]
        assert list(workers.map(square, range(3), "few")) == [0, 1, 4]
        here = set(workers.map(process_of, range(64), "where", chunk=1)) == {os.getpid()}
    assert here == (n_jobs == 1)
    assert parallel_map(square, [], n_jobs, "nothing") == []


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_fault_ends_the_map_after_what_came_before_it(n_jobs):
    seen = []

    def take_all(results):
        for result in results:
            seen.append(result)

    with Workers(n_jobs) as workers, pytest.raises(SpikeSepError, match="seven"):
        take_all(workers.map(refuse_seven, range(40), "x", chunk=1))
    assert seen == list(range(7))


def test_an_interruption_ends_workers_in_the_midst_of_their_work():
    with pytest.raises(KeyboardInterrupt), Workers(2) as workers:
        results = workers.map(time.sleep, [0, 600, 600, 600], "sleeping", chunk=1)
        next(results)
        children = [*workers._pool._processes]
        begun = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 2
    assert not any(is_running(child) for child in children)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_without_torch_workers_are_forked_and_end_with_a_parent_that_is_killed():
    code = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from spikesep.separation.parallel import Workers
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


def is_running(process):
    """Whether a process is there and not just waiting to be taken note of."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
