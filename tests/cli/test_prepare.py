import json
import random
import re
import shutil

import pytest

from spikesep.cli.prepare import main
from spikesep.separation.audio.files import read_audio, write_wav
from spikesep.separation.audio.levels import active_level
from spikesep.separation.data.corpora import espeak
from spikesep.separation.data.corpora.table import read_table
from spikesep.separation.data.kaldi import validate_data_dir

VOICES = {
    "ann": "f",
    "bea": "f",
    "cleo": "f",
    "dina": "f",
    "ed": "m",
    "finn": "m",
    "gino": "m",
    "hugo": "m",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder corpus of eight synthetic voices with four sentences each."""
    root = tmp_path_factory.mktemp("corpus")
    synthesizer = espeak.Synthesizer()
    for number, (speaker, voice) in enumerate(zip(VOICES, espeak.VOICES, strict=False)):
        for n, text in enumerate(espeak.sentences(voice.language, 4, random.Random(number))):
            write_wav(
                root / speaker / f"{n}.wav", synthesizer.speak(text, voice), synthesizer.sample_rate
            )
    (root / "speakers.tsv").write_text(
        "".join(f"{speaker}\t{sex}\n" for speaker, sex in VOICES.items())
    )
    return root


@pytest.fixture
def prepare(tmp_path, corpus, capsys):
    """Run the command on a small recipe, and return its output."""

    def run(task, *options, status=0):
        small = [
            "--mixing.n_train",
            "10",
            "--mixing.n_closed",
            "4",
            "--mixing.n_open",
            "6",
            "--mixing.max_seconds",
            "1",
        ]
        settings = ["--corpus.name", "folder", "--corpus.root", str(corpus), "--launch.n_jobs", "1"]
        with pytest.raises(SystemExit) as ended:
            main([task, "--data", str(tmp_path / "data"), *settings, *small, *options])
        printed = capsys.readouterr()
        assert ended.value.code == status, printed.err
        return printed.err if status else printed.out

    return run


def contents(folder):
    """Read all files except journals, whose lines are in order of completion."""
    files = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "made"
    ]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_data_dirs_are_valid_and_do_not_leak_speakers(tmp_path, prepare):
    said = prepare("corpus")
    assert "32 utterances" in said
    assert re.search(r"ann +│ f", said)
    said = prepare("mixtures")
    assert re.search(r"tr +│ wav8k/cut │ +10 │ +5 │ +5 │", said)
    table = read_table(tmp_path / "data" / "local" / "utterances.tsv")
    split_of = {row.utt_id: row.split for row in table}
    heard = {}
    for split, count in (("tr", 10), ("cv", 4), ("tt", 6)):
        mixtures = validate_data_dir(tmp_path / "data" / split)
        assert len(mixtures) == count
        heard[split] = {speaker for mixture in mixtures for speaker in mixture.speakers}
        rows = [
            line.split("\t")
            for line in (tmp_path / "data" / split / "mixtures.tsv").read_text().splitlines()[1:]
        ]
        assert [row[0] for row in rows] == [mixture.utt_id for mixture in mixtures]
        assert {split_of[utt_id] for row in rows for utt_id in row[1:3]} == {split}
        for row, mixture in zip(rows, mixtures, strict=True):
            levels = [active_level(read_audio(path), 8000) for path in mixture.sources]
            assert 0 <= float(row[6]) <= 5
            assert levels[0] - levels[1] == pytest.approx(float(row[6]), abs=0.1)
            assert len(read_audio(mixture.mixture)) == round(float(row[5]) * 8000) == 8000
    assert not heard["tt"] & (heard["tr"] | heard["cv"])


def test_second_run_reports_that_and_changes_nothing(tmp_path, prepare):
    prepare("corpus")
    prepare("mixtures")
    before = contents(tmp_path / "data")
    times = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*") if path.is_file()
    }
    assert "utterances are listed with these settings (remove the file " in prepare("corpus")
    assert prepare("mixtures").count("mixtures are up to date (to mix them again, remove") == 3
    assert contents(tmp_path / "data") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_run_from_scratch_gives_the_same_files(tmp_path, prepare):
    prepare("corpus")
    prepare("mixtures")
    before = contents(tmp_path / "data")
    shutil.rmtree(tmp_path / "data")
    prepare("corpus")
    prepare("mixtures")
    assert contents(tmp_path / "data") == before


def test_missing_and_damaged_files_are_repaired(tmp_path, prepare):
    prepare("corpus")
    prepare("mixtures")
    data = tmp_path / "data"
    before = contents(data)
    first = validate_data_dir(data / "tr")[0]
    first.sources[0].unlink()
    first.mixture.write_bytes(first.mixture.read_bytes()[:100])
    (data / "tr" / "spk2utt").unlink()
    (data / "cv" / "wav.scp").write_text("nonsense\n")
    (data / "tt" / "mixtures.tsv").unlink()
    said = prepare("mixtures")
    assert "10 mixtures, 1 of them written now" in said
    assert said.count("4 mixtures, 0 of them written now") == 1
    assert contents(data) == before


def test_other_settings_mix_again_and_report_that(tmp_path, prepare):
    prepare("corpus")
    prepare("mixtures")
    before = contents(tmp_path / "data" / "wav")
    said = prepare("mixtures", "--mixing.snr_db", "[10, 11]", "--mixing.n_closed", "3")
    assert said.count("made with other settings") == 3
    assert len(validate_data_dir(tmp_path / "data" / "cv")) == 3
    assert len(list((tmp_path / "data" / "wav" / "cv" / "mix").iterdir())) == 3
    prepare("mixtures")
    assert contents(tmp_path / "data" / "wav") == before
    assert "utterances" in prepare("corpus", "--seed", "7")
    assert json.loads((tmp_path / "data" / "local" / "settings.json").read_text())["seed"] == 7
    assert prepare("mixtures", "--seed", "7").count("made with other settings") == 3


def test_edited_table_mixes_the_affected_sets_again(tmp_path, prepare):
    prepare("corpus")
    prepare("mixtures")
    path = tmp_path / "data" / "local" / "utterances.tsv"
    before = contents(tmp_path / "data" / "wav" / "tt")
    lines = path.read_text().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if "\ttr\t" in line)
    path.write_text(
        "".join([*lines[:number], lines[number].replace("\ttr\t", "\tcv\t"), *lines[number + 1 :]])
    )
    assert prepare("mixtures").count("made with other settings") == 2
    assert contents(tmp_path / "data" / "wav" / "tt") == before


def test_folder_of_foreign_wav_files_is_kept(tmp_path, prepare):
    prepare("corpus")
    theirs = tmp_path / "data" / "wav" / "tr" / "mine.wav"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    assert "did not make" in prepare("mixtures", status=2)
    assert theirs.exists()


def test_unusual_file_names_are_supported(tmp_path, prepare, corpus):
    own = tmp_path / "own\u2028voices\x0c\x85"
    shutil.copytree(corpus, own)
    prepare("corpus", "--corpus.root", str(own))
    prepare("mixtures", "--corpus.root", str(own))
    assert len(validate_data_dir(tmp_path / "data" / "tr")) == 10


def test_file_name_that_no_list_can_hold_is_rejected(tmp_path, prepare, corpus):
    own = tmp_path / "own"
    shutil.copytree(corpus, own)
    (own / "bea" / "0.wav").rename(own / "bea" / "tab\there.wav")
    error = prepare("corpus", "--corpus.root", str(own), status=2)
    assert r"bea/tab\there.wav" in error
    assert "rename it" in error


def test_corpus_is_listed_again_if_recordings_are_gone(tmp_path, prepare, corpus):
    own = tmp_path / "own"
    shutil.copytree(corpus, own)
    prepare("corpus", "--corpus.root", str(own))
    (own / "ann" / "0.wav").unlink()
    said = prepare("corpus", "--corpus.root", str(own))
    assert "1 of its recordings are mis" in said
    assert "31 utterances" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mixtures"], "run spikesep-prepare corpus first"),
        (["corpus", "--corpus.root", "/nowhere"], "--corpus.root: /nowhere is not a folder"),
        (["corpus", "--corpus.unseen_speakers", "[ann, bea]"], "two male voices"),
        (["corpus", "--corpus.nam", "folder"], "nam"),
        (["everything"], "everything"),
        (
            ["corpus", "--mixing.n_speakers", "3"],
            "--mixing.n_speakers 3: the balanced procedure mixes two",
        ),
        (
            ["corpus", "--model.n_speakers", "3"],
            "--model.n_speakers 3: mixtures would have 2 voices",
        ),
        (["corpus", "--mixing.n_open", "0"], "ask for at least one"),
    ],
)
def test_errors_are_one_line_with_status_2_and_leave_no_files(tmp_path, prepare, arguments, said):
    error = prepare(*arguments, status=2)
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.tsv"))
