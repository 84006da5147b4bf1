"""A recipe killed at random moments of any stage: running the same command again completes it,
with the same files as an uninterrupted run.
"""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.paths import ROOT

from spikesep.separation.data.corpora.espeak import VOICES, speak_voice

RECIPE = ROOT / "egs" / "debian-2mix"
COMMANDS = Path(sys.executable).parent
SEED = 0
N_KILLS = 50

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (COMMANDS / "spikesep-train").exists(),
        reason="the spikesep-* commands are not installed",
    ),
]

SMALL = """\
seed: 3
corpus:
  name: folder
  min_seconds: 1.0
  unseen_speakers: [robotines, robotjane, robotkurt, robotleo]
mixing: {n_train: 24, n_closed: 4, n_open: 4, max_seconds: 1.0}
model: {n_filters: 16, n_channels: 16, dilations: [1, 2, 4], identity: sum}
train:
  epochs: 10
  batch_size: 2
  segment_seconds: 0.5
  learning_rate: 0.03
  warmup_steps: 2
  halve_patience: 1
  precision: float32
convert:
  n_steps: 4
  max_epochs: 2
  patience: 1
  train_segments: 16
  valid_segments: 8
  segment_seconds: 0.5
scoring: {metrics: [stoi]}
"""


class Run:
    """A run of a copy of the recipe outside the checkout."""

    def __init__(self, folder: Path, voices: Path):
        self.folder = folder
        self.voices = voices
        self.kills = 0
        folder.mkdir(parents=True)
        shutil.copy(RECIPE / "run.sh", folder)
        tools = folder.parents[1] / "tools"
        tools.mkdir()
        shutil.copy(ROOT / "tools" / "recipe.sh", tools)
        (folder / "small.yaml").write_text(SMALL)

    def start(self, log):
        environment = {
            **os.environ,
            "PATH": f"{COMMANDS}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        argv = [
            "./run.sh",
            "--config",
            "small.yaml",
            "--nj",
            "2",
            "--corpus.root",
            str(self.voices),
        ]
        pipes = {"stdout": log, "stderr": subprocess.STDOUT}
        return subprocess.Popen(
            argv, cwd=self.folder, env=environment, start_new_session=True, **pipes
        )

    def run(self, kill_after: float | None = None) -> float:
        """Run to the end, or kill all processes after some seconds; return the duration."""
        begun = time.monotonic()
        with (self.folder / "log").open("a") as log:
            process = self.start(log)
            try:
                process.wait(timeout=kill_after or 600)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                assert kill_after, "it hangs"
                self.kills += 1
                return time.monotonic() - begun
        assert process.returncode == 0, (self.folder / "log").read_text()
        return time.monotonic() - begun

    def stage(self) -> str:
        """Return the last stage in the log."""
        return [
            line
            for line in (self.folder / "log").read_text().splitlines()
            if line.startswith("== ")
        ][-1:]

    def left(self) -> dict[str, object]:
        """Return the files of the run, without times and absolute paths."""
        made = {}
        for path in self.folder.rglob("*"):
            name = str(path.relative_to(self.folder))
            if path.is_file() and "tensorboard" not in name and name != "log":
                made[name] = self._content(path)
        return made

    def _content(self, path: Path) -> object:
        if path.suffix in (".ckpt", ".pt"):  # contain times
            return "a checkpoint"
        if path.name == "history.csv":
            with path.open(newline="") as file:
                return [
                    {k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)
                ]
        if path.name == "training.png" or path.name == "training-dark.png":
            return "a figure with the time in it"
        if path.suffix in (".json", ".tsv", ".scp", ".md", ".html"):
            return path.read_text().replace(str(self.folder), "")
        return path.read_bytes()


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """A few sentences of eight synthetic voices, for the corpus `folder`."""
    folder = tmp_path_factory.mktemp("voices")
    chosen = VOICES[2:6] + VOICES[8:12]
    for voice in chosen:
        speak_voice(voice, folder, seed=0, count=10)
    (folder / "speakers.tsv").write_text(
        "".join(f"{voice.name}\t{voice.sex}\n" for voice in chosen)
    )
    return folder


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, voices):
    """Files and duration of an uninterrupted run."""
    run = Run(tmp_path_factory.mktemp("unbroken") / "egs" / "recipe", voices)
    seconds = run.run()
    losses = [
        float(row["valid_loss"])
        for row in run.left()["exp/small/history.csv"]
        if row["stage"] == "0"
    ]
    assert losses != sorted(losses, reverse=True), (
        "every epoch was the best: an epoch that is not the best is not covered"
    )
    return run.left(), seconds


def assert_same(found: dict[str, object], expected: dict[str, object]):
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_run_killed_three_times_equals_an_uninterrupted_one(unbroken, voices, tmp_path):
    left, seconds = unbroken
    run, chance = Run(tmp_path / "egs" / "recipe", voices), random.Random(SEED)
    for _ in range(3):
        run.run(chance.uniform(0, 0.5 * seconds))
    assert run.kills
    run.run()
    assert_same(run.left(), left)


@pytest.mark.stress
@pytest.mark.parametrize("number", range(N_KILLS), ids=lambda n: f"{n:02d}")
def test_run_killed_at_a_random_moment_equals_an_uninterrupted_one(
    unbroken, voices, tmp_path, number
):
    left, seconds = unbroken
    run = Run(tmp_path / "egs" / "recipe", voices)
    moment = random.Random(f"{SEED} {number}").uniform(0, seconds)
    run.run(moment)
    print(f"killed after {moment:.1f} of {seconds:.1f} s, in {run.stage()}")
    run.run()
    assert_same(run.left(), left)
    shutil.rmtree(run.folder)
