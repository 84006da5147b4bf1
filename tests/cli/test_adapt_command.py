import os
import random
import re
import signal
import subprocess
import sys
from functools import cache
from math import nan

import pytest

pytest.importorskip("asteroid", reason="training needs the extra train")

import numpy as np
import soundfile
from helpers.separators import save_tiny_experiment
from safetensors.torch import load_file

from spikesep.cli import adapt
from spikesep.files import read_json
from spikesep.separation.adaptation.recordings import MIN_SPEAKER_SECONDS, _cut
from spikesep.separation.adaptation.scores import is_better
from spikesep.separation.audio.files import read_channels
from spikesep.separation.data.corpora import espeak
from spikesep.separation.data.corpora.screening import Recording, ScreenedRecording
from spikesep.separation.model.separator import load_separator

SPEAKERS = ("robotann", "robotfinn")


@cache
def sentences(name):
    """Sentences of a synthetic voice, 20 s and more together, and their sample rate."""
    synthesizer = espeak.Synthesizer()
    voice = next(voice for voice in espeak.VOICES if voice.name == name)
    texts = espeak.sentences(voice.language, 12, random.Random(0))
    return [synthesizer.speak(text, voice) for text in texts], synthesizer.sample_rate


def write_speaker(root, name, file="{speaker}/{n}.flac"):
    spoken, rate = sentences(name)
    for n, samples in enumerate(spoken):
        path = root / file.format(speaker=name, n=n)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_tiny_experiment(
        tmp_path_factory.mktemp("start"), has_norm_statistics=True, identity="sum"
    )


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    root = tmp_path_factory.mktemp("voices")
    for name in SPEAKERS:
        write_speaker(root, name)
    return root


def command(model, recordings, out, *more) -> int:
    with pytest.raises(SystemExit) as stopped:
        adapt.main([str(model), str(recordings), "--out", str(out), "--n-jobs", "1", *more])
    return stopped.value.code


def refusal(capsys, *arguments) -> str:
    """Run a command that is refused; return its one line, and check that it left nothing."""
    out = arguments[2]
    before = sorted(out.rglob("*")) if out.exists() else None
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (sorted(out.rglob("*")) if out.exists() else None) == before
    return error


@pytest.fixture(scope="module")
def adapted(start, voices, tmp_path_factory):
    """An adaptation in one go, and what it printed."""
    out = tmp_path_factory.mktemp("adapted") / "out"
    done = run_process(start, voices, out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def arguments(start, voices, out):
    code = "from spikesep.cli.adapt import main; main()"
    options = ["--epochs", "2", "--learning-rate", "0.02", "--n-jobs", "1"]
    return [sys.executable, "-u", "-c", code, str(start), str(voices), "--out", str(out), *options]


def run_process(start, voices, out):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        arguments(start, voices, out), capture_output=True, text=True, env=environment
    )


def kill_after(line, start, voices, out):
    """Start a command, and kill it with SIGKILL when it prints a line that contains `line`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    with subprocess.Popen(
        arguments(start, voices, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        for printed in process.stdout:
            if line in printed:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL, f"{line!r} was not printed"


def test_adaptation_gives_back_better_networks_of_the_same_form(adapted, start):
    out, printed = adapted
    scores = read_json(out / "adaptation.json")["scores"]
    assert scores["result ann"]["aligned"] > scores["start ann"]["aligned"]
    for kind in ("ann", "snn"):
        network, before = load_separator(out / kind), load_separator(start / kind)
        assert network.kind == kind
        assert network.config == before.config
        assert network.network.is_fixed_point == before.network.is_fixed_point
        if kind == "snn":
            assert network.network[0].coding == before.network[0].coding
    card = (out / "ann" / "README.md").read_text()
    assert "Adapted by spikesep-adapt" in card
    assert "s of 2 speakers" in card
    assert re.search(r"ANN +│ same polarity +│", printed)


def test_no_recording_is_both_heard_and_held_out(adapted):
    rows = (adapted[0] / "data" / "local" / "utterances.tsv").read_text().splitlines()
    splits = {}
    for row in rows[1:]:
        _, path, speaker, _, split, *_ = row.split("\t")
        splits.setdefault(split, set()).add((path, speaker))
    assert splits.keys() == {"tr", "cv"}
    assert not {path for path, _ in splits["tr"]} & {path for path, _ in splits["cv"]}
    for rows in splits.values():
        assert {speaker for _, speaker in rows} == set(SPEAKERS)


@pytest.mark.slow
def test_killed_and_continued_equals_uninterrupted(adapted, start, voices, tmp_path):
    out = tmp_path / "out"
    moments = ("held out", "epoch 1/2", "stage 1/", "result snn")
    for line in moments:
        kill_after(line, start, voices, out)
    done = run_process(start, voices, out)
    assert done.returncode == 0, done.stderr
    for kind in ("ann", "snn"):
        one, other = (load_file(home / kind / "model.safetensors") for home in (out, adapted[0]))
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one)
    one, other = (read_json(home / "adaptation.json")["scores"] for home in (out, adapted[0]))
    assert one == other


def test_complete_run_is_reported_again(adapted, start, voices):
    out, first = adapted
    done = run_process(start, voices, out)
    assert done.returncode == 0
    assert done.stdout[done.stdout.index("SI-SDRi in dB") :] in first


def test_start_is_kept_where_the_result_is_worse(adapted, voices, tmp_path, capsys):
    start, out = adapted[0], tmp_path / "out"
    assert command(start, voices, out, "--epochs", "1", "--learning-rate", "1000") == 0
    printed = capsys.readouterr().out
    record = read_json(out / "adaptation.json")
    before, after = (record["scores"][f"{name} ann"] for name in ("start", "result"))
    assert not after["aligned"] > before["aligned"]
    assert "ann" not in record["adapted"]
    assert "ANN: adaptation did not help" in printed
    kept, given = (load_file(home / "ann" / "model.safetensors") for home in (start, out))
    assert all(given[name].equal(kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("start", "result", "better"),
    [(5.0, 5.1, True), (5.0, 5.0, False), (5.0, 4.9, False), (5.0, nan, False), (nan, 5.0, True)],
)
def test_undefined_and_equal_results_are_not_better(start, result, better):
    turned = {"turned": 0.0}
    assert is_better({"aligned": result} | turned, {"aligned": start} | turned) == better


def test_recordings_may_be_named_after_their_speakers(start, tmp_path):
    for name in SPEAKERS:
        write_speaker(tmp_path / "flat", name, "{speaker}-{n}.wav")
    assert command(start, tmp_path / "flat", tmp_path / "out", "--epochs", "1") == 0
    assert (tmp_path / "out" / "snn" / "config.json").is_file()


def test_time_budget_bounds_the_run(start, voices, tmp_path, capsys):
    out = tmp_path / "out"
    assert command(start, voices, out, "--minutes", "0.001") == 2
    assert "scoring alone takes" in capsys.readouterr().err
    assert command(start, voices, out, "--minutes", "0.6") == 0
    assert read_json(out / "adaptation.json")["spent"] < 0.9 * 60
    error = refusal(capsys, start, voices, out, "--minutes", "0.7")
    assert "minutes = 0.6, not 0.7; give another --out" in error


def test_unreadable_file_is_named_and_left_out(start, voices, tmp_path, capsys):
    for name in SPEAKERS:
        write_speaker(tmp_path / "own", name)
    broken = tmp_path / "own" / SPEAKERS[0] / "broken.wav"
    broken.write_bytes(b"no audio")
    command(start, tmp_path / "own", tmp_path / "out", "--minutes", "0.001")
    assert f"left out: {broken} cannot be read" in capsys.readouterr().out


def test_one_speaker_is_refused(start, tmp_path, capsys):
    write_speaker(tmp_path / "own", SPEAKERS[0])
    error = refusal(capsys, start, tmp_path / "own", tmp_path / "out")
    assert "needs recordings of two speakers or more, has 1" in error


def test_too_little_speech_is_refused(start, tmp_path, capsys):
    for name in SPEAKERS:
        write_speaker(tmp_path / "own", name)
    for path in sorted((tmp_path / "own" / SPEAKERS[1]).iterdir())[2:]:
        path.unlink()
    error = refusal(capsys, start, tmp_path / "own", tmp_path / "out")
    assert re.search(rf"\d+ s of speech of {SPEAKERS[1]}, {MIN_SPEAKER_SECONDS:.0f} s are", error)


def test_folder_of_something_else_is_refused(start, voices, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    assert "give another --out" in refusal(capsys, start, voices, out)


def test_folder_among_the_recordings_is_refused(start, voices, capsys):
    error = refusal(capsys, start, voices, voices / "out")
    assert f"--out {voices / 'out'}: is within {voices}" in error


def test_recording_past_full_scale_is_cut_to_pieces(tmp_path):
    voice = np.random.default_rng(0).normal(0, 0.5, 8000 * 21).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", voice, 8000, subtype="FLOAT")
    item = ScreenedRecording(Recording(tmp_path / "a.wav", "a", "anna", "f"), "anna-a", 21.0)
    pieces = [read_channels(piece.path)[0][0] for piece in _cut(item, tmp_path / "pieces")]
    whole = voice / np.abs(voice).max()
    assert len(pieces) == 2
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1 / 32768)


def test_folder_of_another_run_is_refused(adapted, start, voices, capsys):
    error = refusal(capsys, start, voices, adapted[0], "--epochs", "2", "--seed", "1")
    assert "is of another adaptation" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--minutes", "0"], "--minutes 0.0: must be positive"),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--learning-rate", "-1"], "--learning-rate -1.0: must be positive"),
    ],
)
def test_invalid_option_is_refused(start, voices, tmp_path, capsys, more, message):
    assert message in refusal(capsys, start, voices, tmp_path / "out", *more)


def test_single_network_is_refused(start, voices, tmp_path, capsys):
    error = refusal(capsys, start / "ann", voices, tmp_path / "out")
    assert "give the folder that holds both" in error


def test_missing_recordings_are_refused(start, tmp_path, capsys):
    error = refusal(capsys, start, tmp_path / "nowhere", tmp_path / "out")
    assert "nowhere: is not a folder" in error
