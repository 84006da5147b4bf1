"""The recipe as a user runs it: every stage of `conf/tiny.yaml`, killed once on the way."""

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
    """Start the recipe and kill all of it, without warning, as soon as the condition holds."""
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
def test_the_tiny_recipe_killed_twice_ends_with_a_table_and_a_page(recipe):
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
    ):
        assert (exp / name).exists(), name


@pytest.mark.slow
def test_a_second_run_says_what_is_there(recipe):
    if not (recipe / "exp" / "tiny" / "results.json").exists():
        pytest.skip("the recipe has not run")
    ended = run(recipe, "--config", "conf/tiny.yaml", "--stop-stage", "4")
    assert ended.returncode == 0, ended.stderr
    for said in (
        "utterances are listed as asked",
        "ann is there and complete",
        "snn is there and complete",
        "unchanged",
    ):
        assert said in ended.stdout


@pytest.mark.slow
def test_voices_of_a_mixture_come_out_of_the_model_just_made(recipe):
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
        (["--stage", "7"], "take 0 to 5"),
        (["--config", "nowhere.yaml"], "no such file"),
        (["--launcher", "cloud"], "local or slurm"),
        (["--stage", "2", "--stop-stage", "2", "--ann.epochz", "3"], "epochz"),
        (["--stage", "2", "--stop-stage", "2", "--data", "nowhere"], "nowhere"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_wrong_option_is_one_line_and_status_2(recipe, argv, message):
    ended = run(recipe, *argv)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_help_lists_the_options_and_the_stages(recipe):
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
def test_every_recipe_has_the_same_options_and_its_own(name):
    said = subprocess.run(
        [RECIPE.parent / name / "run.sh", "--help"], capture_output=True, text=True
    ).stdout
    own = {
        "wsj0-2mix": ["--wsj0", "--mix-lists"],
        "libri2mix": ["--librispeech", "--metadata", "--wham"],
    }
    for option in ["--stage", "--data", "--ngpu", "--launcher", *own.get(name, [])]:
        assert option in said
    assert "(default: the config's)" in said


@pytest.mark.parametrize("name", RECIPES)
def test_every_config_of_every_recipe_is_accepted(name):
    from spikesep.cli.common import recipe_parser

    for path in (RECIPE.parent / name / "conf").glob("*.yaml"):
        parser = recipe_parser("x", "y", exp=False)
        parser.instantiate(parser.parse_args(["--config", str(path)]))


def test_the_default_recipe_leaves_time_for_all_that_has_no_budget():
    """Training and conversion take at most 21 of 25 minutes, however slow the processor."""
    from spikesep.cli.common import recipe_of, recipe_parser

    parser = recipe_parser("x", "y", exp=False)
    recipe = recipe_of(
        parser.instantiate(parser.parse_args(["--config", str(RECIPE / "conf" / "default.yaml")]))
    )
    assert recipe.ann.max_minutes + recipe.ptl.max_minutes <= 21


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no {GOLDEN}")
def test_the_wsj0_recipe_makes_the_golden_tree(tmp_path):
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
def test_a_wrong_option_of_the_wsj0_recipe_is_one_line(tmp_path, argv, message):
    environment = {**os.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}"}
    call = [RECIPE.parent / "wsj0-2mix" / "run.sh", "--data", tmp_path / "data", *argv]
    ended = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.fixture
def watched(tmp_path):
    """A recipe whose commands only note how they were called, and then do what `then` says."""
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
def test_a_recipe_that_is_killed_takes_its_command_with_it(watched, number):
    process, end = watched("exec sleep 60", "--stage", "2"), time.monotonic() + 30
    while not watched.calls.exists() or not watched.calls.read_text().endswith("\n"):
        assert time.monotonic() < end
        time.sleep(0.02)
    child = int(watched.calls.read_text().split()[0])
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert error == "run.sh: stopped; the same command resumes\n"
    assert not Path(f"/proc/{child}").exists()


def test_what_a_command_ends_with_ends_the_recipe(watched):
    process = watched("exit 2", "--stage", "2")
    process.communicate(timeout=30)
    assert process.returncode == 2
    assert len(watched.calls.read_text().splitlines()) == 1


def test_a_value_may_follow_an_equals_sign(watched):
    argv = [
        "--stage=2",
        "--stop-stage=2",
        "--config=conf/tiny.yaml",
        "--ann.epochs=2",
        "--tag",
        "a b",
    ]
    process = watched("exit 0", *argv)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0
    (call,) = watched.calls.read_text().splitlines()
    assert "--exp exp/a b --config conf/tiny.yaml" in call
    assert call.endswith("--ann.epochs 2")


def test_several_networks_to_go_on_from_are_given_one_by_one(watched):
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
    process = watched("exit 0", *argv, name="spikesep-convert")
    assert process.communicate(timeout=30)[1] == ""
    (call,) = watched.calls.read_text().splitlines()
    assert "--from-ann ann --from-snn one two --config" in call
