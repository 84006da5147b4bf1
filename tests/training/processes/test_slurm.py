"""Jobs on a Slurm cluster of this machine; skipped if Slurm is not installed."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.experiments import write_mixtures
from helpers.paths import ROOT

SCRIPT = ROOT / "tools" / "slurm-here.sh"
COMMANDS = Path(sys.executable).parent
missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing), reason=f"Slurm is not installed here ({' '.join(missing)} missing)"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="a Slurm of this machine is started by root only"),
    pytest.mark.skipif(
        not (COMMANDS / "spikesep-train").exists(),
        reason="the spikesep-* commands are not installed",
    ),
]
pytest.importorskip("submitit", reason="submitit is not installed: pip install 'spikesep[slurm]'")

SMALL = """\
model: {n_filters: 16, n_channels: 16, dilations: [1, 2]}
train: {epochs: 60, batch_size: 4, segment_seconds: 0.5, precision: float32}
convert: {max_epochs: 1, train_segments: 6, valid_segments: 4, segment_seconds: 0.5}
scoring: {metrics: []}
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, "SLURM_HERE_PORT": "26817", "OMP_NUM_THREADS": "1"}
    started = subprocess.run(
        [SCRIPT, "start", folder], env=environment, capture_output=True, text=True
    )
    if started.returncode:
        subprocess.run([SCRIPT, "stop", folder])
        pytest.skip(f"Slurm does not start here: {started.stderr.strip()}")
    yield {**environment, "SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([SCRIPT, "stop", folder])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    for number, (name, n) in enumerate({"tr": 22, "cv": 5, "tt": 4}.items()):
        write_mixtures(folder / "data" / name, number, n)
    (folder / "small.yaml").write_text(SMALL)
    return folder


def start(recipe, environment, name, exp, *more):
    argv = [
        COMMANDS / f"spikesep-{name}",
        "--config",
        "small.yaml",
        "--data",
        "data",
        "--exp",
        exp,
        *more,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, cwd=recipe, env=environment, text=True, **pipes)


def end(process):
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output


def curve(exp):
    with (exp / "history.csv").open(newline="") as file:
        return [
            [float(row[name]) for name in ("epoch", "train_loss", "valid_loss")]
            for row in csv.DictReader(file)
        ]


def wait_for_epoch(exp, epoch):
    deadline = time.monotonic() + 120
    while not (exp / "history.csv").exists() or len(curve(exp)) < epoch:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def job_of(exp, name):
    return json.loads((exp / "slurm" / f"{name}.json").read_text())["jobs"][0]


def test_preempted_requeued_and_resubmitted_training_resumes(slurm, recipe):
    on_slurm = ("--launch.launcher", "slurm", "--launch.n_processes", "2")
    exp = recipe / "preempted"
    submitter = start(recipe, slurm, "train", "preempted", *on_slurm)
    wait_for_epoch(exp, 5)
    submitter.kill()
    submitter.wait()
    submitter = start(recipe, slurm, "train", "preempted", *on_slurm)
    preempting = [
        "sbatch",
        "--partition",
        "high",
        "--ntasks",
        "4",
        "--output",
        "/dev/null",
        "--wrap",
        "sleep 1",
    ]
    subprocess.run(preempting, env=slurm, check=True, capture_output=True)
    wait_for_epoch(exp, 20)
    subprocess.run(
        ["scancel", "--signal=USR2", job_of(exp, "spikesep-train")], env=slurm, check=True
    )  # its time is up
    assert "submitted before" in end(submitter)
    end(start(recipe, slurm, "train", "unbroken"))
    found, expected = curve(exp), curve(recipe / "unbroken")
    assert len(found) == len(expected) == 60
    # in dB; several processes round differently
    assert all(
        row == pytest.approx(other, rel=1e-5, abs=1e-3)
        for row, other in zip(found, expected, strict=True)
    )
    log = next((exp / "slurm").glob("*_0_log.out")).read_text()
    assert log.count("effective batch") == 3  # it was started three times


def test_sharded_scores_equal_those_of_one_process(slurm, recipe):
    end(start(recipe, slurm, "train", "scored", "--train.epochs", "1"))
    end(start(recipe, slurm, "convert", "scored", "--launch.launcher", "slurm"))
    end(
        start(
            recipe, slurm, "score", "scored", "--launch.launcher", "slurm", "--launch.n_shards", "3"
        )
    )
    scores = (recipe / "scored" / "scores.csv").read_bytes()
    end(start(recipe, slurm, "score", "scored", "--launch.n_jobs", "1", "--redo"))
    assert (recipe / "scored" / "scores.csv").read_bytes() == scores


def test_failed_job_error_is_one_line_with_its_reason(slurm, recipe):
    process = start(recipe, slurm, "convert", "untrained", "--launch.launcher", "slurm")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "run stage 2 (spikesep-train)" in errors
    assert len(errors.strip().splitlines()) == 1


def test_unknown_partition_error_is_one_line(slurm, recipe):
    process = start(
        recipe,
        slurm,
        "train",
        "nowhere",
        "--launch.launcher",
        "slurm",
        "--launch.partition",
        "moon",
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith(
        "spikesep-train: error: --launcher slurm: "
    )  # after sbatch's own words
    assert "Invalid partition name" in errors.splitlines()[-1]
