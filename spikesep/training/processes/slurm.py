"""Commands as jobs of a Slurm cluster, through submitit: submitted, waited for, and queued again when they are
preempted, at their time limit, or when a node is lost. A command that goes on after a kill asks no more of a job.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import read_json, write_json

POLL_SECONDS = 5.0
STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Statuses of a command that Slurm has asked to end: it will be killed or queued again in a moment."""
MOST_TIMEOUTS = 1000


@dataclass(frozen=True)
class Resources:
    """What a job needs: `tasks` processes on each of `nodes` machines, `cpus` cores a process, `gpus` a machine."""

    nodes: int = 1
    tasks: int = 1
    gpus: int = 0
    cpus: int = 1
    minutes: int = 1440
    partition: str = ""


@dataclass(frozen=True)
class Command:
    """A command line, in a folder: what a job does; gives its exit status."""

    argv: list[str]
    folder: str

    def __call__(self) -> int:
        """Run it. Slurm's warning signal goes to all processes; it is for this one, which queues the job again."""

        def ignore():
            return signal.signal(signal.SIGUSR2, signal.SIG_IGN)

        status = subprocess.run(self.argv, cwd=self.folder, preexec_fn=ignore).returncode
        if status in STOPPED:
            time.sleep(600)
        return status

    def checkpoint(self):
        """What to do when the job is queued again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def in_job() -> bool:
    """Whether this process is part of a job that was submitted here."""
    return "SUBMITIT_EXECUTOR" in os.environ


def run_jobs(name: str, commands: list[list[str]], resources: Resources, folder: Path) -> None:
    """Submit one job a command, as an array, and wait until all have ended well.

    Where the same commands were submitted before and are still queued or running, wait for those.

    Args:
        name: of the jobs, and of what tells about them in `folder`.
        commands: each a program and its arguments, to be run in the present folder.
        resources: of each.
        folder: of the jobs' logs; all machines must see it.

    Raises:
        SpikeSepError: no Slurm or no submitit here, the cluster refuses, or a job ended badly.
    """
    folder = folder.absolute()
    note = folder / f"{name}.json"
    found = read_json(note) if note.exists() else {}
    ids = found.get("jobs", []) if found.get("commands") == commands else []
    if ids and _active(ids):
        print(f"slurm: waiting for job {_whole(ids)}, submitted before", flush=True)
    else:
        ids = _submit(name, commands, resources, folder)
        write_json(note, {"commands": commands, "jobs": ids})
        print(
            f"slurm: submitted job {_whole(ids)}, {len(ids)} x {name}; logs in {folder}", flush=True
        )
    _wait(ids, folder)
    _check(name, ids, folder)
    note.unlink()


def _submit(name: str, commands: list[list[str]], resources: Resources, folder: Path) -> list[str]:
    try:
        import submitit
    except ImportError as error:
        raise SpikeSepError(
            "--launcher slurm: submitit is missing; pip install 'spikesep[slurm]'"
        ) from error
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_TIMEOUTS)
        executor.update_parameters(
            job_name=name,
            time=resources.minutes,
            nodes=resources.nodes,
            ntasks_per_node=resources.tasks,
            cpus_per_task=resources.cpus,
            srun_args=[
                "--cpus-per-task",
                str(resources.cpus),
            ],  # srun does not take it from the job any more
            additional_parameters={"requeue": True},
            **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
            **({"partition": resources.partition} if resources.partition else {}),
        )
        with executor.batch():
            jobs = [executor.submit(Command(argv, os.getcwd())) for argv in commands]
    except RuntimeError as error:
        raise SpikeSepError(
            f"--launcher slurm: {error}; see --launch.partition, or take --launcher local"
        ) from error
    ids = [job.job_id for job in jobs]
    for path in (path for job in ids for path in folder.glob(f"{job}_*_result.pkl")):
        path.unlink()  # of a job that had this number on another cluster
    return ids


def _wait(ids: list[str], folder: Path) -> None:
    """Until no job is queued or running; what the first process of a single job prints is printed here too."""
    log, shown = folder / f"{ids[0]}_0_log.out", 0
    running = True
    while running:
        running = _active(ids)
        lines = (
            log.read_text(errors="replace").splitlines()[shown:]
            if len(ids) == 1 and log.exists()
            else []
        )
        for line in lines:
            if not line.startswith("submitit "):
                print(line, flush=True)
        shown += len(lines)
        if running:
            time.sleep(POLL_SECONDS)


def _active(ids: list[str]) -> bool:
    """Whether any of these jobs is queued, running or ending."""
    job = _whole(ids)
    for _ in range(20):  # a controller that restarts is not the end of a job
        done = subprocess.run(
            ["squeue", "--noheader", "--jobs", job], capture_output=True, text=True
        )
        if done.returncode == 0:
            return bool(done.stdout.strip())
        if "Invalid job id" in done.stderr:
            return False
        time.sleep(POLL_SECONDS)
    raise SpikeSepError(
        f"slurm: squeue fails ({done.stderr.strip()}); job {job} goes on, the same command waits for it"
    )


def _check(name: str, ids: list[str], folder: Path) -> None:
    for job in ids:
        results = sorted(folder.glob(f"{job}_*_result.pkl"))
        statuses = [pickle.loads(path.read_bytes()) for path in results]
        if not statuses or any(status != ("success", 0) for status in statuses):
            raise SpikeSepError(
                f"{name}, slurm job {job}: {_reason(folder, job)}; the same command goes on"
            )


def _reason(folder: Path, job: str) -> str:
    """The last line on standard error that a command, rather than Slurm or submitit, has written."""
    logs = sorted(folder.glob(f"{job}_*_log.err"))
    lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
    told = [
        line.partition(": error: ")[2]
        for line in lines
        if line.startswith("spikesep-") and ": error: " in line
    ]
    return told[-1] if told else f"ended without a result; see {logs[0] if logs else folder}"


def _whole(ids: list[str]) -> str:
    return ids[0].partition("_")[0]


def this_program() -> list[str]:
    """The command line's beginning, as it must be to run it from anywhere."""
    return [sys.executable, os.path.abspath(sys.argv[0])]
