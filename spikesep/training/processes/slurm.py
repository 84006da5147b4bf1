"""Commands as Slurm jobs, submitted through submitit.

Jobs are requeued when they are preempted, reach their time limit, or lose a node. Nothing else is
needed, as every command resumes after being killed.
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
"""Exit statuses of a command that Slurm has asked to end, and will kill or requeue in a moment."""
MOST_TIMEOUTS = 1000


@dataclass(frozen=True)
class Resources:
    """Resources of a job.

    Attributes:
        nodes: machines.
        tasks: processes per machine.
        gpus: accelerators per machine.
        cpus: cores per process.
        minutes: time limit.
        partition: partition; empty for the cluster's default.
    """

    nodes: int = 1
    tasks: int = 1
    gpus: int = 0
    cpus: int = 1
    minutes: int = 1440
    partition: str = ""


@dataclass(frozen=True)
class Command:
    """A command line to run in a folder, as submitit's callable."""

    argv: list[str]
    folder: str

    def __call__(self) -> int:
        """Run the command and return its exit status.

        The command ignores Slurm's warning signal, which all processes of the job receive: this
        process requeues the job.
        """

        def ignore():
            return signal.signal(signal.SIGUSR2, signal.SIG_IGN)

        status = subprocess.run(self.argv, cwd=self.folder, preexec_fn=ignore).returncode
        if status in STOPPED:
            time.sleep(600)
        return status

    def checkpoint(self):
        """Return what to run when the job is requeued: the same command."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def in_job() -> bool:
    """Return whether this process is part of a job submitted by `run_jobs`."""
    return "SUBMITIT_EXECUTOR" in os.environ


def run_jobs(name: str, commands: list[list[str]], resources: Resources, folder: Path) -> None:
    """Submit one job per command, as an array, and wait for their success.

    If the same commands were submitted before and are still queued or running, wait for those.

    Args:
        name: name of the jobs and of their record in `folder`.
        commands: programs with arguments, to run in the present folder.
        resources: resources of each job.
        folder: folder of the logs, accessible from all machines.

    Raises:
        SpikeSepError: Slurm or submitit is missing, the cluster refuses the jobs, or one fails.
    """
    folder = folder.absolute()
    record = folder / f"{name}.json"
    found = read_json(record) if record.exists() else {}
    ids = found.get("jobs", []) if found.get("commands") == commands else []
    if ids and _active(ids):
        print(f"slurm: waiting for job {_array_id(ids)}, submitted before", flush=True)
    else:
        ids = _submit(name, commands, resources, folder)
        write_json(record, {"commands": commands, "jobs": ids})
        print(
            f"slurm: submitted job {_array_id(ids)}, {len(ids)} x {name}; logs in {folder}",
            flush=True,
        )
    _wait(ids, folder)
    _check(name, ids, folder)
    record.unlink()


def _submit(name: str, commands: list[list[str]], resources: Resources, folder: Path) -> list[str]:
    """Submit one job per command; return their ids."""
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
            # Recent versions of srun do not inherit this from the job.
            srun_args=["--cpus-per-task", str(resources.cpus)],
            additional_parameters={"requeue": True},
            **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
            **({"partition": resources.partition} if resources.partition else {}),
        )
        with executor.batch():
            jobs = [executor.submit(Command(argv, os.getcwd())) for argv in commands]
    except RuntimeError as error:
        raise SpikeSepError(
            f"--launcher slurm: {error}; see --launch.partition, or give --launcher local"
        ) from error
    ids = [job.job_id for job in jobs]
    for path in (path for job in ids for path in folder.glob(f"{job}_*_result.pkl")):
        path.unlink()  # of a job with the same id on another cluster
    return ids


def _wait(ids: list[str], folder: Path) -> None:
    """Wait until no job is queued or running; print the first process's output of a single job."""
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
    """Return whether any of these jobs is queued, running or ending.

    Raises:
        SpikeSepError: squeue keeps failing.
    """
    job, fault = _array_id(ids), ""
    for _ in range(20):  # the controller may be restarting
        done = subprocess.run(
            ["squeue", "--noheader", "--jobs", job], capture_output=True, text=True
        )
        if done.returncode == 0:
            return bool(done.stdout.strip())
        if "Invalid job id" in done.stderr:
            return False
        fault = done.stderr.strip()
        time.sleep(POLL_SECONDS)
    raise SpikeSepError(
        f"slurm: squeue fails ({fault}); job {job} continues, run the same command "
        "again to wait for it"
    )


def _check(name: str, ids: list[str], folder: Path) -> None:
    """Check that all processes of the jobs succeeded.

    Raises:
        SpikeSepError: one failed.
    """
    for job in ids:
        results = sorted(folder.glob(f"{job}_*_result.pkl"))
        statuses = [pickle.loads(path.read_bytes()) for path in results]
        if not statuses or any(status != ("success", 0) for status in statuses):
            raise SpikeSepError(
                f"{name}, slurm job {job}: {_reason(folder, job)}; run the same command again to "
                "resume"
            )


def _reason(folder: Path, job: str) -> str:
    """Return the last error message of a command in the logs of a job."""
    logs = sorted(folder.glob(f"{job}_*_log.err"))
    lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
    messages = [
        line.partition(": error: ")[2]
        for line in lines
        if line.startswith("spikesep-") and ": error: " in line
    ]
    if messages:
        return messages[-1]
    return f"ended without a result; see {logs[0] if logs else folder}"


def _array_id(ids: list[str]) -> str:
    """Return the id of the array that the jobs belong to."""
    return ids[0].partition("_")[0]


def this_program() -> list[str]:
    """Return the start of this command line, valid in any folder."""
    return [sys.executable, os.path.abspath(sys.argv[0])]
