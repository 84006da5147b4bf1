"""Errors of commands are one line with the file and the remedy.

After the error is corrected, the same command completes as if nothing had happened.
"""

import csv
import json
import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from helpers.experiments import write_mixtures

from spikesep.cli import convert, demo, prepare, score, train
from spikesep.files import lock_folder
from spikesep.separation.audio.files import write_wav
from spikesep.separation.data.kaldi import read_data_dir

OPTIONS = {
    prepare: [
        "mixtures",
        "--mixing.n_train=4",
        "--mixing.n_closed=2",
        "--mixing.n_open=2",
        "--launch.n_jobs=1",
    ],
    train: [
        "--train.epochs=2",
        "--train.segment_seconds=0.5",
        "--train.batch_size=2",
        "--train.precision=float32",
    ],
    convert: [
        "--convert.max_epochs=1",
        "--convert.segment_seconds=0.5",
        "--convert.train_segments=3",
        "--convert.valid_segments=2",
    ],
    score: ["--launch.n_jobs=1", "--scoring.metrics=[stoi]"],
    demo: [],
}
MODEL = ["--model.n_filters=16", "--model.n_channels=8", "--model.dilations=[1,2]"]
LEAVES = {
    prepare: "data/tr/wav.scp",
    train: "exp/ann",
    convert: "exp/snn",
    score: "exp/results.json",
    demo: "exp/demo",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with utterances and mixtures."""
    folder = tmp_path_factory.mktemp("whole")
    for number, name in enumerate(("tr", "cv", "tt")):
        write_mixtures(folder / "data" / name, seed=number)
    rng, rows = np.random.default_rng(0), ["utt_id\tpath\tspeaker\tsex\tsplit\tduration"]
    for split, speakers in (("tr", "ab"), ("cv", "ab"), ("tt", "cd")):
        for speaker in speakers:
            for k in range(2):
                path = folder / "voices" / f"{speaker}-{split}{k}.wav"
                write_wav(path, (0.1 * rng.normal(size=9000)).clip(-1, 1), 8000)
                rows.append(f"{path.stem}\t{path}\t{speaker}\tf\t{split}\t1.125")
    (folder / "made" / "local").mkdir(parents=True)
    (folder / "made" / "local" / "utterances.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def workspace(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "here")
    for path in (tmp_path / "here" / "data").glob("*/*.scp"):
        path.write_text(path.read_text().replace(str(whole), str(tmp_path / "here")))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def call(command, *more) -> int:
    folders = ["--data=made"] if command is prepare else ["--data=data", "--exp=exp"]
    with pytest.raises(SystemExit) as stopped:
        command.main([*OPTIONS[command][:1], *folders, *OPTIONS[command][1:], *MODEL, *more])
    return stopped.value.code


def error_line(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert ": error: " in lines[0]
    return lines[0]


def run_until(command):
    """Run every stage before that of the command."""
    if command is prepare:
        return
    for earlier in (train, convert, score, demo):
        if earlier is command:
            return
        assert call(earlier) == 0


@contextmanager
def largest_file(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (prepare, 9000),
        (prepare, 200),
        (train, 4000),
        (train, 100),
        (convert, 20000),
        (score, 900),
        (demo, 9000),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)).rpartition(".")[2],
)
def test_full_disk_is_reported_and_the_command_resumes(workspace, capsys, command, size):
    run_until(command)
    capsys.readouterr()
    with largest_file(size):
        assert call(command) == 2
    assert "make room" in error_line(capsys)
    assert not (workspace / ("made/tr/wav.scp" if command is prepare else LEAVES[command])).exists()
    assert not list(workspace.rglob(".*.part*"))
    assert call(command) == 0


@pytest.mark.parametrize(
    "command", [prepare, train, convert, score, demo], ids=lambda c: c.__name__.rpartition(".")[2]
)
def test_second_process_in_a_folder_is_rejected(workspace, capsys, command):
    with lock_folder(workspace / ("made" if command is prepare else "exp")):
        assert call(command) == 2
    assert "another process works in it" in error_line(capsys)


def test_shards_run_side_by_side_and_exclude_their_sum(workspace, capsys):
    run_until(score)
    with lock_folder(workspace / "exp", shared=True), lock_folder(workspace / "exp", part="-2of2"):
        assert call(score, "--shard=1/2") == 0
        capsys.readouterr()
        assert call(score, "--shard=2/2") == 2
        assert "another process" in error_line(capsys)
        assert call(score) == 2
    assert call(score) == 0


def damage_file(path, damage):
    if damage == "missing":
        path.unlink()
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:-501])
    elif damage == "not audio":
        path.write_text("hello")
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage == "wrong rate":
        write_wav(path, soundfile.read(path, dtype="float32")[0], 16000)
    else:
        write_wav(path, soundfile.read(path, dtype="float32")[0][:-500], 8000)


DAMAGES = ["missing", "cut off", "not audio", "a folder", "wrong rate", "shorter"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_training_names_an_unusable_file_and_resumes(workspace, capsys, damage):
    path = read_data_dir(workspace / "data" / "tr")[2].sources[1]
    kept = path.read_bytes()
    damage_file(path, damage)
    assert call(train) == 2
    assert str(path) in error_line(capsys)
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    path.write_bytes(kept)
    assert call(train) == 0


def test_mixing_names_a_truncated_recording(workspace, capsys):
    path = workspace / "voices" / "a-tr0.wav"
    table = workspace / "made" / "local" / "utterances.tsv"
    table.write_text(table.read_text().replace(str(table.parents[2]), str(workspace)))
    rows = list(csv.DictReader(table.open(), delimiter="\t"))
    table.write_text(table.read_text().replace(rows[0]["path"], str(path)))
    damage_file(path, "cut off")
    assert call(prepare) == 2
    assert str(path) in error_line(capsys)
    assert not (workspace / "made" / "tr" / "wav.scp").exists()


@pytest.mark.parametrize("name", ["wav.scp", "spk2.scp", "utt2spk", "utt2sexes"])
@pytest.mark.parametrize("damage", ["empty", "short", "missing"])
def test_empty_or_short_list_is_named(workspace, capsys, name, damage):
    path = workspace / "data" / "tr" / name
    lines = path.read_text().splitlines(keepends=True)
    path.unlink() if damage == "missing" else path.write_text(
        "" if damage == "empty" else "".join(lines[:-1])
    )
    if (name, damage) == ("utt2sexes", "missing"):
        assert call(train) == 0
        return
    assert call(train) == 2
    assert "data/tr/" in error_line(capsys)
    assert not (workspace / "exp").exists()


@pytest.mark.parametrize("file", ["checkpoints/ann/last.ckpt", "settings/ann.json", "history.csv"])
def test_truncated_experiment_file_is_named(workspace, capsys, file):
    assert call(train) == 0
    shutil.rmtree(workspace / "exp" / "ann")
    path = workspace / "exp" / file
    path.write_bytes(path.read_bytes()[:-20])
    capsys.readouterr()
    assert call(train, "--train.epochs=2") == (0 if file == "history.csv" else 2)
    if file != "history.csv":
        assert str(file) in error_line(capsys)


def test_truncated_model_is_named(workspace, capsys):
    run_until(score)
    path = workspace / "exp" / "snn" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    capsys.readouterr()
    assert call(score) == 2
    assert "exp/snn" in error_line(capsys)
    assert json.loads((workspace / "exp" / "snn" / "config.json").read_text())["n_converted"] == 3
