"""`run_all.sh` with a stand-in for `run.sh`, which records what it is called with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from helpers.paths import ROOT

RUN = """#!/usr/bin/env bash
set -e
trap 'echo "stopped $*" >> calls; exit 143' TERM
trap 'echo "interrupted $*" >> calls; exit 130' INT
echo "began $*" >> calls
case "$*" in *slow*) sleep 30 & wait $! ;; *bad*) exit 2 ;; esac
mkdir -p results
echo "{\\"command\\": \\"./run.sh $*\\"}" > "results/$2.json"
echo "ended $*" >> calls
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe with a plan of three experiments."""
    for name in ("tools/recipe.sh", "tools/run_plan.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    folder = tmp_path / "recipes" / "mine"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "recipes" / "image_classification" / "run_all.sh", folder)
    (folder / "run.sh").write_text(RUN)
    (folder / "run.sh").chmod(0o755)
    write_plan(folder, a=(1, 10, "one"), b=(5, 10, "one"), c=(1, 5, "two"))
    return folder


def write_plan(folder, **experiments):
    """Write a plan with a worth, minutes and tag for each name."""
    plan = [
        {
            "options": f"--config {name}",
            "results": name,
            "worth": worth,
            "minutes": {"cpu": minutes, "gpu": minutes},
            "tag": tag,
        }
        for name, (worth, minutes, tag) in experiments.items()
    ]
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))


def run(folder, *argv, **variables):
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    return subprocess.run(
        ["./run_all.sh", *argv],
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def calls(folder):
    return (folder / "calls").read_text().splitlines()


def test_experiments_run_in_order_of_worth_per_minute_and_only_once(recipe):
    ended = run(recipe, "--jobs", "1")
    assert ended.returncode == 0, ended.stderr
    began = [line.split()[2] for line in calls(recipe) if line.startswith("began")]
    assert began == ["b", "c", "a"]
    again = run(recipe, "--jobs", "1")
    assert again.stdout.count("recorded") == 3
    assert len(calls(recipe)) == 6


def test_experiments_run_where_the_system_cannot_tell_the_cores_of_a_process(recipe, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os\n\ndel os.sched_getaffinity\n")
    ended = run(recipe, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert ended.returncode == 0, ended.stderr
    assert sum(line.startswith("ended") for line in calls(recipe)) == 3


def test_results_of_other_options_do_not_count_as_recorded(recipe):
    (recipe / "results").mkdir()
    (recipe / "results" / "a.json").write_text(json.dumps({"command": "./run.sh --config a"}))
    command = "./run.sh --config b --tag one --ngpu 1"
    (recipe / "results" / "b.json").write_text(json.dumps({"command": command}))
    listed = run(recipe, "--list").stdout.splitlines()
    assert listed == ["b: recorded", "c: 5 minutes", "a: 10 minutes"]


def test_recorded_results_of_an_experiment_count_for_those_it_contains(recipe):
    plan = yaml.safe_load((recipe / "plan.yaml").read_text())
    whole = dict(plan[0], options="--config a --seed 1", minutes={"cpu": 20})
    (recipe / "plan.yaml").write_text(yaml.safe_dump([*plan, whole]))
    (recipe / "results").mkdir()
    recorded = recipe / "results" / "a.json"
    recorded.write_text(json.dumps({"command": "./run.sh --config a --seed 1 --tag one"}))
    assert run(recipe, "--list").stdout.count("a: recorded") == 2
    recorded.write_text(json.dumps({"command": "./run.sh --config a --tag one"}))
    assert run(recipe, "--list").stdout.count("a: recorded") == 1


def test_experiments_that_share_networks_do_not_run_at_the_same_time(recipe):
    write_plan(recipe, slow_a=(3, 1, "one"), b=(2, 1, "one"), c=(1, 1, "two"))
    begun = time.monotonic()
    ended = run(recipe, "--jobs", "2", "--minutes", "0.05")
    assert time.monotonic() - begun < 25
    assert ended.returncode == 1
    assert "slow_a: stopped; the same command resumes" in ended.stdout
    assert not any("--config b" in line for line in calls(recipe))
    assert any(line.startswith("stopped --config slow_a") for line in calls(recipe))
    assert any(line.startswith("ended --config c") for line in calls(recipe))


def test_failure_of_one_experiment_is_reported_and_the_others_run(recipe):
    write_plan(recipe, bad=(9, 1, "one"), b=(1, 1, "one"))
    ended = run(recipe, "--jobs", "1")
    assert ended.returncode == 1
    assert "bad: failed" in ended.stdout
    assert "b: recorded" in ended.stdout


@pytest.mark.parametrize(
    ("number", "send"),
    [
        (signal.SIGINT, os.kill),
        (signal.SIGINT, os.killpg),  # as Ctrl-C does
        (signal.SIGTERM, os.kill),
        (signal.SIGHUP, os.kill),
    ],
)
def test_signal_stops_the_running_experiments(recipe, number, send):
    check_that_a_signal_stops(recipe, number, send)


SLOW_START = """
import subprocess, time
start = subprocess.Popen.__init__
def slow(*args, **more):
    start(*args, **more)
    time.sleep(1)
subprocess.Popen.__init__ = slow
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_an_experiment_starts_stops_it_too(recipe, tmp_path, number):
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    check_that_a_signal_stops(recipe, number, os.kill, PYTHONPATH=f"{tmp_path}:{ROOT}")


def check_that_a_signal_stops(recipe, number, send, **variables):
    write_plan(recipe, slow_a=(1, 1, "one"))
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    started = subprocess.Popen(
        ["./run_all.sh", "--jobs", "1"],
        cwd=recipe,
        env={**os.environ, "PATH": path, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (recipe / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    send(started.pid, number)
    printed, error = started.communicate(timeout=25)
    assert started.returncode == 128 + number
    assert not error
    assert "slow_a: stopped; the same command resumes" in printed
    assert [line.split()[0] for line in calls(recipe)] == ["began", "stopped"]


@pytest.mark.parametrize(
    ("plan", "argv"),
    [
        ("- 1", []),
        ("a: [", []),
        ("[{options: x}]", []),
        (None, ["--minutes", "-1"]),
        (None, ["--jobs", "0"]),
    ],
)
def test_error_is_one_line_with_status_2(recipe, plan, argv):
    if plan is not None:
        (recipe / "plan.yaml").write_text(plan)
    ended = run(recipe, *argv)
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1


def test_plan_of_the_recipe_names_configs_and_results_that_exist():
    folder = ROOT / "recipes" / "image_classification"
    for entry in yaml.safe_load((folder / "plan.yaml").read_text()):
        config = folder / entry["options"].split()[1]
        name = yaml.safe_load(config.read_text())["experiment"]["name"]
        assert entry["results"] == name
