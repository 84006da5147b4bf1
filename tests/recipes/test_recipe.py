"""The speech recipes as a user runs them."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.paths import ROOT, SHARED

RECIPE = ROOT / "egs" / "debian-2mix"
COMMANDS = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    not (COMMANDS / "spikesep-train").exists(),
    reason="the spikesep-* commands are not installed beside this Python",
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A copy of the recipe outside the checkout, with nothing left over from another run."""
    root = tmp_path_factory.mktemp("recipe")
    folder = root / "egs" / "debian-2mix"
    for name in ("tools/recipe.sh", "egs/debian-2mix/run.sh"):
        (root / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(RECIPE / "conf", folder / "conf")
    return folder


def command(recipe, *argv):
    environment = {**os.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}"}
    return {"args": ["./run.sh", *argv], "cwd": recipe, "env": environment, "text": True}


def run(recipe, *argv):
    return subprocess.run(**command(recipe, *argv), capture_output=True, timeout=900)


def kill_when(recipe, condition, *argv):
    """Start the recipe and kill its process group as soon as the condition holds."""
    process = subprocess.Popen(
        **command(recipe, *argv), stdout=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_tiny_recipe_killed_twice_completes(recipe):
    exp = recipe / "exp" / "tiny"
    history = exp / "history.csv"
    kill_when(recipe, lambda: history.exists(), "--config", "conf/tiny.yaml")
    assert not (exp / "ann").exists()
    kill_when(
        recipe,
        lambda: "\n2,0," in history.read_text(),
        "--config",
        "conf/tiny.yaml",
        "--stage",
        "2",
    )
    assert (exp / "ann").exists()
    assert not (exp / "snn").exists()
    ended = run(recipe, "--config", "conf/tiny.yaml", "--stage", "2")
    assert ended.returncode == 0, ended.stderr
    assert "exp/tiny/ann is there and complete" in ended.stdout
    assert re.search("going on from stage [12]/", ended.stdout)

    rows = [(int(r["stage"]), int(r["epoch"])) for r in csv.DictReader(history.open())]
    assert rows == sorted(set(rows))
    results = json.loads((exp / "results.json").read_text())
    for condition in ("closed", "open"):
        for network in ("mixture", "ann", "snn"):
            assert set(results[condition][network]) == {"si_sdr", "si_sdri", "sdr", "pesq", "stoi"}
            assert set(results[condition][network]["si_sdri"]) == {"diff", "same", "overall"}
    assert results["cost"]["n_steps"] == 8
    assert 0 < results["cost"]["synops_ratio"] < 8
    assert len(results["cost"]["firing_rate"]) == len(
        json.loads((exp / "snn" / "report.json").read_text())
    )
    assert "| SNN" in (exp / "RESULTS.md").read_text()
    for name in (
        "demo/index.html",
        "scores.csv",
        "figures/training.png",
        "figures/activations.png",
        "figures/layers.png",
    ):
        assert (exp / name).exists(), name


@pytest.mark.slow
def test_second_run_repeats_nothing(recipe):
    if not (recipe / "exp" / "tiny" / "results.json").exists():
        pytest.skip("the recipe has not run")
    ended = run(recipe, "--config", "conf/tiny.yaml", "--stop-stage", "4")
    assert ended.returncode == 0, ended.stderr
    for said in (
        "utterances are listed with these settings",
        "ann is there and complete",
        "snn is there and complete",
        "unchanged",
    ):
        assert said in ended.stdout


@pytest.mark.slow
def test_trained_model_separates_a_mixture(recipe):
    if not (recipe / "exp" / "tiny" / "snn").exists():
        pytest.skip("the recipe has not run")
    mixture = sorted((recipe / "data" / "wav" / "tt" / "mix").glob("*.wav"))[0]
    argv = [
        COMMANDS / "spikesep-infer",
        mixture,
        "--model",
        recipe / "exp" / "tiny",
        "--out-dir",
        recipe / "voices",
    ]
    ended = subprocess.run(argv, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(list((recipe / "voices").glob("*_spk?.wav"))) == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stagee", "1"], "unknown option --stagee"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "7"], "take 0 to 6"),
        (["--config", "nowhere.yaml"], "no such file"),
        (["--launcher", "cloud"], "local or slurm"),
        (["--stage", "2", "--stop-stage", "2", "--train.epochz", "3"], "epochz"),
        (["--stage", "2", "--stop-stage", "2", "--data", "nowhere"], "nowhere"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_option_error_is_one_line_with_status_2(recipe, argv, message):
    ended = run(recipe, *argv)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_help_lists_the_options(recipe):
    ended = run(recipe, "--help")
    assert ended.returncode == 0
    for option in (
        "--stage",
        "--stop-stage",
        "--config",
        "--tag",
        "--ngpu",
        "--nproc",
        "--num-nodes",
        "--nj",
        "--launcher",
    ):
        assert option in ended.stdout


RECIPES = sorted(path.parent.name for path in RECIPE.parent.glob("*/run.sh"))
GOLDEN = SHARED / "golden" / "wsj0-2mix"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_common_options_and_its_own(name):
    said = subprocess.run(
        [RECIPE.parent / name / "run.sh", "--help"], capture_output=True, text=True
    ).stdout
    own = {
        "wsj0-2mix": ["--wsj0", "--mix-lists"],
        "libri2mix": ["--librispeech", "--metadata", "--wham"],
        "conversation": ["--librispeech"],
    }
    for option in ["--stage", "--data", "--ngpu", "--launcher", *own.get(name, [])]:
        assert option in said
    assert "(default: the config's)" in said


@pytest.mark.parametrize("name", RECIPES)
def test_every_config_is_accepted(name):
    from spikesep.cli.common import recipe_parser

    paths = list((RECIPE.parent / name / "conf").glob("*.yaml"))
    assert paths
    for path in paths:
        parser = recipe_parser("x", "y", exp=False)
        parser.instantiate(parser.parse_args(["--config", str(path)]))


def test_default_recipe_leaves_time_for_the_other_stages():
    """Training and conversion take at most 21 of 25 minutes on any processor."""
    from spikesep.cli.common import recipe_parser, to_recipe

    parser = recipe_parser("x", "y", exp=False)
    recipe = to_recipe(
        parser.instantiate(parser.parse_args(["--config", str(RECIPE / "conf" / "default.yaml")]))
    )
    assert recipe.train.max_minutes + recipe.convert.max_minutes <= 21


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no {GOLDEN}")
def test_wsj0_recipe_reproduces_the_golden_files(tmp_path):
    environment = {**os.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}"}
    argv = [
        "--wsj0",
        GOLDEN,
        "--mix-lists",
        GOLDEN,
        "--data",
        tmp_path,
        "--rates",
        "8k,16k",
        "--modes",
        "min,max",
    ]
    call = [RECIPE.parent / "wsj0-2mix" / "run.sh", *argv, "--stop-stage", "1"]
    ended = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    wavs = list((GOLDEN / "2speakers").rglob("*.wav"))
    assert len(wavs) == 72
    for path in [*wavs, *(path for path in GOLDEN.glob("mix_2_spk_m*"))]:
        assert (tmp_path / path.relative_to(GOLDEN)).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--wsj0"], "--wsj0 needs a value"),
        (["--librispeech", "x"], "unknown option --librispeech"),
        (["--wsj0", "/nowhere", "--stop-stage", "0"], "/nowhere is not a folder"),
        (
            ["--wsj0", "/tmp", "--rates", "8x", "--stop-stage", "0"],
            "give different ones like [8k,16k]",
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_option_error_of_the_wsj0_recipe_is_one_line(tmp_path, argv, message):
    environment = {**os.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}"}
    call = [RECIPE.parent / "wsj0-2mix" / "run.sh", "--data", tmp_path / "data", *argv]
    ended = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.fixture
def start_recipe(tmp_path):
    """A recipe whose commands log their calls, then run the shell command `then`."""
    bin_, home = tmp_path / "bin", tmp_path / "egs" / "debian-2mix"
    shutil.copytree(RECIPE, home, ignore=shutil.ignore_patterns("data", "exp", "downloads"))
    bin_.mkdir()
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "recipe.sh", tmp_path / "tools")

    def start(then, *argv, name="spikesep-train"):
        for command in ("spikesep-prepare", name):
            (bin_ / command).write_text(f'#!/bin/sh\necho "$$ $*" >>{tmp_path}/calls\n{then}\n')
            (bin_ / command).chmod(0o755)
        environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}

        def heed():
            return [
                signal.signal(n, signal.SIG_DFL)
                for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            ]

        options = {
            "cwd": home,
            "env": environment,
            "stderr": subprocess.PIPE,
            "text": True,
            "preexec_fn": heed,
        }
        return subprocess.Popen(["./run.sh", *argv], **options)

    start.calls = tmp_path / "calls"
    return start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_killed_recipe_ends_its_command(start_recipe, number):
    process, end = start_recipe("exec sleep 60", "--stage", "2"), time.monotonic() + 30
    while not start_recipe.calls.exists() or not start_recipe.calls.read_text().endswith("\n"):
        assert time.monotonic() < end
        time.sleep(0.02)
    child = int(start_recipe.calls.read_text().split()[0])
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert error == "run.sh: stopped; the same command resumes\n"
    assert not Path(f"/proc/{child}").exists()


def test_recipe_exits_with_the_status_of_a_failed_command(start_recipe):
    process = start_recipe("exit 2", "--stage", "2")
    process.communicate(timeout=30)
    assert process.returncode == 2
    assert len(start_recipe.calls.read_text().splitlines()) == 1


def test_values_may_follow_an_equals_sign(start_recipe):
    argv = [
        "--stage=2",
        "--stop-stage=2",
        "--config=conf/tiny.yaml",
        "--train.epochs=2",
        "--tag",
        "a b",
    ]
    process = start_recipe("exit 0", *argv)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0
    (call,) = start_recipe.calls.read_text().splitlines()
    assert "--exp exp/a b --config conf/tiny.yaml" in call
    assert call.endswith("--train.epochs 2")


def test_from_snn_may_be_repeated(start_recipe):
    argv = [
        "--stage",
        "3",
        "--stop-stage",
        "3",
        "--from-snn",
        "one",
        "--from-ann",
        "ann",
        "--from-snn=two",
    ]
    process = start_recipe("exit 0", *argv, name="spikesep-convert")
    assert process.communicate(timeout=30)[1] == ""
    (call,) = start_recipe.calls.read_text().splitlines()
    assert "--from-ann ann --from-snn one two --config" in call
