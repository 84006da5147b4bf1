"""Run the experiments of a recipe's plan.yaml, the most worth per minute first.

An experiment whose results are recorded is skipped. When the time budget is spent, running
experiments are stopped; the same command resumes them.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import yaml

from spikesep.files import defer_signals
from spikesep.provenance import available_cores

POLL_SECONDS = 0.2


@dataclass(eq=False)
class Experiment:
    """One entry of the plan.

    Attributes:
        options: options of `run.sh`.
        results: name of the file `results/<name>.json`.
        worth: worth of the results, on any scale.
        minutes: expected minutes, by kind of machine: `cpu` for one core, `gpu`.
        tag: experiments of one tag share networks, and therefore do not run at the same time.
        later: experiments with the same results that contain this one.
        process: the run in progress.
    """

    options: str
    results: str
    worth: float
    minutes: dict[str, float]
    tag: str
    later: list["Experiment"] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def arguments(self, n_gpus: int) -> list[str]:
        """Return the command of the experiment."""
        gpu = ["--ngpu", "1"] if n_gpus else []
        return ["./run.sh", *shlex.split(self.options), "--tag", self.tag, *gpu]

    def is_recorded(self) -> bool:
        """Return whether the results are its own, or of a later experiment that contains it."""
        path = Path("results") / f"{self.results}.json"
        if not path.exists():
            return False
        recorded = shlex.split(json.loads(path.read_text(encoding="utf-8"))["command"])
        return any(
            recorded == experiment.arguments(n_gpus)
            for experiment in (self, *self.later)
            for n_gpus in (0, 1)
        )


def read_plan(path: Path, kind: str) -> list[Experiment]:
    """Return the experiments for a kind of machine, the most worth per minute first.

    Raises:
        SystemExit: the plan is not there or malformed; the status is 2.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = [Experiment(**entry) for entry in entries]
        for k, experiment in enumerate(found):
            same = (e for e in found[k + 1 :] if e.results == experiment.results)
            experiment.later = list(same)
        found = [e for e in found if kind in e.minutes]
        return sorted(found, key=lambda e: e.minutes[kind] / e.worth)
    except (OSError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        fail(f"{path}: not a plan of experiments ({reason}); see recipes/*/plan.yaml")


def fail(message: str) -> NoReturn:
    """End with a one-line error and status 2."""
    print(f"run_all.sh: error: {message}", file=sys.stderr)
    raise SystemExit(2)


class Runner:
    """Runs experiments side by side until all are done or the time is spent.

    Args:
        experiments: in the order of starting.
        n_gpus: 1 to compute on an accelerator.
        n_jobs: number of experiments at a time.
        deadline: end by `time.monotonic()`.
    """

    def __init__(self, experiments: list[Experiment], n_gpus: int, n_jobs: int, deadline: float):
        self.waiting = list(experiments)
        self.running: list[Experiment] = []
        self.failed: list[Experiment] = []
        self.n_gpus = n_gpus
        self.n_jobs = n_jobs
        self.deadline = deadline

    def run(self) -> bool:
        """Run all experiments; return whether none is left and none failed."""
        try:
            while (self.waiting or self.running) and time.monotonic() < self.deadline:
                self._collect()
                self._start()
                time.sleep(POLL_SECONDS)
        finally:
            self._stop()
        return not (self.waiting or self.failed)

    def _start(self) -> None:
        """Start experiments while there is room."""
        busy = {experiment.tag for experiment in self.running}
        for experiment in list(self.waiting):
            if len(self.running) == self.n_jobs:
                return
            if experiment.tag not in busy:
                busy.add(experiment.tag)
                with defer_signals():  # a handler must find the process of every running one
                    self.waiting.remove(experiment)
                    self.running.append(experiment)
                    self._launch(experiment)

    def _launch(self, experiment: Experiment) -> None:
        arguments = experiment.arguments(self.n_gpus)
        threads = max(1, available_cores() // self.n_jobs)
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
        log = Path("exp") / experiment.tag / f"{experiment.results}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"{shlex.join(arguments)}  # log: {log}", flush=True)
        with log.open("a", encoding="utf-8") as output:
            experiment.process = subprocess.Popen(
                arguments,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,  # Ctrl-C reaches this process alone, which stops the others
            )

    def _collect(self) -> None:
        """Take experiments that ended from the list of the running ones."""
        for experiment in list(self.running):
            assert experiment.process is not None
            status = experiment.process.poll()
            if status is None:
                continue
            self.running.remove(experiment)
            print(f"{experiment.results}: {'recorded' if status == 0 else 'failed'}", flush=True)
            if status:
                self.failed.append(experiment)

    def _stop(self) -> None:
        """Stop what still runs; `run.sh` passes the signal on."""
        self._collect()
        for experiment in self.running:
            assert experiment.process is not None
            experiment.process.send_signal(signal.SIGTERM)
        for experiment in self.running:
            assert experiment.process is not None
            experiment.process.wait()
            print(f"{experiment.results}: stopped; the same command resumes", flush=True)
        self.waiting += self.running
        self.running = []


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="./run_all.sh", description=__doc__)
    parser.add_argument("--minutes", type=float, help="time budget (default: none)")
    parser.add_argument("--ngpu", type=int, default=0, choices=(0, 1), help="1: an accelerator")
    parser.add_argument(
        "--jobs", type=int, help="experiments at a time (default: one per core; 1 with --ngpu 1)"
    )
    parser.add_argument("--list", action="store_true", help="list the experiments and end")
    options = parser.parse_args()
    kind = "gpu" if options.ngpu else "cpu"
    n_jobs = options.jobs
    if n_jobs is None:
        n_jobs = 1 if options.ngpu else available_cores()
    if n_jobs < 1 or (options.minutes is not None and not options.minutes > 0):
        fail("--jobs and --minutes: must be positive")
    experiments = read_plan(Path("plan.yaml"), kind)
    for experiment in experiments:
        state = "recorded" if experiment.is_recorded() else f"{experiment.minutes[kind]:g} minutes"
        print(f"{experiment.results}: {state}", flush=True)
    if options.list:
        return
    deadline = time.monotonic() + 60 * (options.minutes or float("inf"))
    missing = [experiment for experiment in experiments if not experiment.is_recorded()]
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
            signal.signal(number, end)
    try:
        complete = Runner(missing, options.ngpu, n_jobs, deadline).run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(0 if complete else 1)


def end(number: int, _frame: object) -> NoReturn:
    """End on a signal, so that running experiments are stopped."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
