"""`spikesep-prepare` on a small tree in the layout of WSJ0.

Every error is one line. After it is corrected, or after a kill, the same command gives the files of
an uninterrupted run.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import soundfile
from helpers.sound.shorten import sphere_bytes

from spikesep.cli.prepare import main
from spikesep.errors import SpikeSepError
from spikesep.files import lock_folder
from spikesep.separation.data.kaldi import validate_data_dir

N_ROWS = 60
MAIN = f"""
import sys
sys.path[:0] = {sys.path!r}
from spikesep.cli.prepare import main
main(sys.argv[1:])
"""
SETS = {"tr": "si_tr_s", "cv": "si_tr_s", "tt": "si_dt_05"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three sets of four speakers with three short recordings each, and lists of 60 mixtures."""
    root = tmp_path_factory.mktemp("wsj0-tree")
    chance = np.random.default_rng(0)
    for number, (split, name) in enumerate(SETS.items()):
        recordings = []
        for s in range(4):
            speaker = f"{number}{s}a"
            for k in range(3):
                pcm = (3000 * chance.standard_normal(int(16000 * chance.uniform(0.8, 1.2)))).astype(
                    np.int16
                )
                path = root / "wsj0" / name / speaker / f"{speaker}{k:05d}.wv1"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(sphere_bytes(pcm, ["pcm", "pcm,embedded-shorten-v2.00"][k % 2]))
                recordings.append(f"wsj0/{name}/{speaker}/{path.stem}.wav")
        lines = set()
        while len(lines) < N_ROWS:
            one, other = chance.choice(12, 2, replace=False)
            if one // 3 != other // 3:
                weight = f"{chance.uniform(0, 2.5):.5g}"
                lines.add(f"{recordings[one]} {weight} {recordings[other]} -{weight} \n")
        lists = root / "lists"
        lists.mkdir(exist_ok=True)
        (lists / f"mix_2_spk_{split}.txt").write_text("".join(sorted(lines)))
    return root


def options(task, root, data, n_jobs=1):
    return [
        task,
        f"--data={data}",
        "--corpus.name=wsj0",
        f"--corpus.root={root}",
        f"--corpus.lists={root / 'lists'}",
        "--mixing.procedure=wsj0mix",
        "--mixing.modes=[min,max]",
        f"--launch.n_jobs={n_jobs}",
    ]


def prepare(task, root, data, n_jobs=1) -> int:
    with pytest.raises(SystemExit) as ended:
        main(options(task, root, data, n_jobs))
    return ended.value.code


def contents(data):
    """Return the content of mixtures and of the lists that the original script writes."""
    files = [
        path
        for path in sorted(data.rglob("*"))
        if path.suffix == ".wav" or path.name.startswith("mix_2_spk")
    ]
    return {path.relative_to(data): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tree, tmp_path_factory):
    data = tmp_path_factory.mktemp("whole") / "data"
    assert prepare("corpus", tree, data) == prepare("mixtures", tree, data) == 0
    return contents(data)


@pytest.fixture
def copy(tree, tmp_path):
    """A copy of the tree that a test may damage."""
    shutil.copytree(tree, tmp_path / "wsj0-tree")
    return tmp_path / "wsj0-tree"


def the_line(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("spikesep-prepare: error: ")
    return lines[0]


def as_wav(path, rate=16000):
    """Replace a wv1 file by a wav file."""
    pcm = np.random.default_rng(1).integers(-3000, 3000, 9000).astype(np.int16)
    wav = path.with_suffix(".wav")
    soundfile.write(wav, pcm, rate)
    path.unlink()
    return wav


DAMAGES = {
    "unreadable": (lambda path: path.write_bytes(b"no audio at all"), "not a readable audio file"),
    "sphere cut off": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "cut off"),
    "sphere changed": (
        lambda path: path.write_bytes(path.read_bytes()[:-20] + bytes(20)),
        "do not sum to",
    ),
    "wrong sample rate": (lambda path: as_wav(path, 8000), "is at 8000 Hz, the corpus at 16000"),
    "wav cut off": (lambda path: os.truncate(as_wav(path), 5000), "cut off"),
    "silent": (lambda path: path.write_bytes(sphere_bytes(np.zeros(16000, np.int16))), "is silent"),
    "gone": (lambda path: path.unlink(), "mix_2_spk_tr.txt"),
}


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("name", DAMAGES)
def test_unusable_recording_is_named_and_can_be_replaced(
    tree, copy, tmp_path, whole, capsys, name, n_jobs
):
    damage, said = DAMAGES[name]
    path = copy / "wsj0" / "si_tr_s" / "01a" / "01a00000.wv1"
    damage(path)
    data = tmp_path / "data"
    status = prepare("corpus", copy, data, n_jobs) or prepare("mixtures", copy, data, n_jobs)
    assert status == 2
    line = the_line(capsys)
    assert said in line
    assert path.stem in line
    assert not (data / "tr" / "wav.scp").exists()
    assert not [left for left in data.rglob(".*") if left.is_file()]
    path.with_suffix(".wav").unlink(missing_ok=True)
    shutil.copy(tree / path.relative_to(copy), path)
    (data / "local" / "utterances.tsv").unlink(
        missing_ok=True
    )  # it may hold the length of the damaged file
    assert prepare("corpus", copy, data) == prepare("mixtures", copy, data) == 0
    assert contents(data) == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mix_2_spk_cv.txt: lists no mixture"),
        ("wsj0/si_tr_s/01a/01a00000.wav 1\n", "mix_2_spk_cv.txt:1: "),
        (
            "wsj0/si_tr_s/11a/11a00009.wav 1 wsj0/si_tr_s/12a/12a00000.wav -1\n",
            "cv.txt:1: wsj0/si_tr_s/11a/11a00009",
        ),
        (
            "wsj0/si_tr_s/01a/01a00000.wav 1 wsj0/si_tr_s/12a/12a00000.wav -1\n",
            "01a00000.wav is in tr too",
        ),
    ],
    ids=["empty", "short", "missing file", "two splits"],
)
def test_invalid_list_is_named_and_leaves_no_files(copy, tmp_path, capsys, text, said):
    (copy / "lists" / "mix_2_spk_cv.txt").write_text(text)
    data = tmp_path / "data"
    assert prepare("corpus", copy, data) == 2
    assert said in the_line(capsys)
    assert not data.exists()


def test_changed_lists_are_noticed(copy, tmp_path, capsys):
    data = tmp_path / "data"
    path = copy / "lists" / "mix_2_spk_cv.txt"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text(rows[0])
    assert prepare("corpus", copy, data) == prepare("mixtures", copy, data) == 0
    assert len(validate_data_dir(data / "cv")) == 1
    path.write_text("".join(rows[:5]))
    assert prepare("corpus", copy, data) == prepare("mixtures", copy, data) == 0
    assert len(validate_data_dir(data / "cv")) == 5
    said = capsys.readouterr().out
    assert "cv: made with other settings" in said
    assert "tr: made with other settings" not in said


def test_missing_list_is_named(copy, tmp_path, capsys):
    (copy / "lists" / "mix_2_spk_tt.txt").unlink()
    assert prepare("corpus", copy, tmp_path / "data") == 2
    assert "no mix_2_spk_tt.txt" in the_line(capsys)


@pytest.mark.parametrize("root", ["lists", "wsj0/si_tr_s/01a", "nowhere"])
def test_folder_without_wsj0_is_named(tree, tmp_path, capsys, root):
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "corpus",
                f"--data={tmp_path / 'data'}",
                "--corpus.name=wsj0",
                f"--corpus.root={tree / root}",
            ]
        )
    assert ended.value.code == 2
    assert root in the_line(capsys)


@contextmanager
def files_of_at_most(n_bytes):
    """Limit the size of files (EFBIG), which behaves like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("n_bytes", [4000, 15000])
def test_full_disk_is_reported_and_mixing_resumes(tree, tmp_path, whole, capsys, n_bytes):
    data = tmp_path / "data"
    assert prepare("corpus", tree, data) == 0
    with files_of_at_most(n_bytes):
        assert prepare("mixtures", tree, data) == 2
    line = the_line(capsys)
    assert "make room and give the same command again" in line
    assert str(data) in line
    assert prepare("mixtures", tree, data) == 0
    assert contents(data) == whole


def test_second_process_is_rejected_without_side_effects(tree, tmp_path, whole, capsys):
    data = tmp_path / "data"
    assert prepare("corpus", tree, data) == 0
    with lock_folder(data):
        assert prepare("mixtures", tree, data) == 2
        assert "another process works in it" in the_line(capsys)
    assert prepare("mixtures", tree, data) == 0
    assert contents(data) == whole


def n_wavs(folder):
    """Count wav files while another process writes; `os.walk` ignores folders that vanish."""
    return sum(name.endswith(".wav") for _, _, names in os.walk(folder) for name in names)


def test_repeated_kills_do_not_change_the_files(tree, tmp_path, whole):
    data = tmp_path / "data"
    assert prepare("corpus", tree, data) == 0
    command = [sys.executable, "-c", MAIN, *options("mixtures", tree, data, n_jobs=2)]
    chance = np.random.default_rng(0)
    counts = []
    for _ in range(3):
        before = n_wavs(data)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wanted = before + int(chance.integers(20, 200))
        while process.poll() is None and n_wavs(data) < wanted:
            time.sleep(0.01)
        process.kill()  # its workers must notice
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        process.stderr.close()
        counts.append(n_wavs(data))
        end = time.monotonic() + 30
        while time.monotonic() < end:  # until its workers have ended
            with suppress(SpikeSepError), lock_folder(data):
                break
            time.sleep(0.05)
    assert 0 < counts[0] < len([name for name in whole if name.suffix == ".wav"])
    assert prepare("mixtures", tree, data) == 0
    assert contents(data) == whole
    for split in SETS:
        assert len(validate_data_dir(data / split)) == N_ROWS
    assert not [left for left in data.rglob(".*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_termination_is_immediate_and_leaves_nothing(tree, tmp_path, number):
    data = tmp_path / "data"
    assert prepare("corpus", tree, data) == 0
    command = [sys.executable, "-c", MAIN, *options("mixtures", tree, data, n_jobs=2)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    while process.poll() is None and n_wavs(data) < 30:
        time.sleep(0.01)
    begun = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal or a batch system does
    _, said = process.communicate(timeout=20)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], said
    assert time.monotonic() - begun < 2 + 2 * os.getloadavg()[0] / os.cpu_count()
    listed = subprocess.run(
        ["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    states = [line.split() for line in listed.splitlines()]
    assert not [
        stat for group, stat in states if int(group) == process.pid and not stat.startswith("Z")
    ]
    with lock_folder(data):
        assert not [path for path in data.rglob(".*") if path.name != ".lock"]
