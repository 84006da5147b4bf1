import numpy as np
import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_audio, write_wav
from spikesep.separation.config import DynamicMixingConfig, MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, Utterance, write_table
from spikesep.separation.data.kaldi import validate_data_dir
from spikesep.separation.data.preparation import check_procedure, make_mixtures
from spikesep.training.config import LaunchConfig

RATE = 16000
COUNTS = {"n_train": 4, "n_closed": 2, "n_open": 2}


@pytest.fixture
def data(tmp_path):
    """A data folder with a table of four voices, two of them unseen, in bursts of noise."""
    rng = np.random.default_rng(0)
    bursts = np.repeat([1.0, 0.0, 0.6, 1.0, 0.3, 0.8, 0.0, 1.0, 0.5], RATE // 8)
    rows = []
    for split, speakers in (("tr", "ab"), ("cv", "ab"), ("tt", "cd")):
        for speaker in speakers:
            for k in range(2):
                path = tmp_path / "corpus" / split / speaker / f"{speaker}{split}{k}.wav"
                write_wav(path, 0.1 * bursts * rng.uniform(-1, 1, len(bursts)), RATE)
                duration = len(bursts) / RATE
                rows.append(
                    Utterance(f"{speaker}-{path.stem}", path, speaker, "f", split, duration)
                )
    write_table(tmp_path / "data" / UTTERANCE_TABLE, rows)
    return tmp_path / "data"


def recipe(seed=0, on_the_fly=0, **mixing):
    return RecipeConfig(
        seed=seed,
        mixing=MixingConfig(
            dynamic=DynamicMixingConfig(examples=on_the_fly),
            **(COUNTS | {"max_seconds": 1.0} | mixing),
        ),
        launch=LaunchConfig(n_jobs=1),
    )


def make(data, settings):
    notices = []
    return make_mixtures(data, settings, notices.append), notices


def test_every_set_is_written_and_listed(data):
    rendered, notices = make(data, recipe())
    assert [(each.split, each.version.label, each.written) for each in rendered] == [
        ("tr", "wav8k/cut", 4),
        ("cv", "wav8k/cut", 2),
        ("tt", "wav8k/cut", 2),
    ]
    for each in rendered:
        assert each.directory == data / each.split
        assert validate_data_dir(each.directory) == each.mixtures
        assert [mixture.utt_id for mixture in each.mixtures] == [p.utt_id for p in each.plan]
    assert len(notices) == 3
    assert all("of them written now" in notice for notice in notices)


def test_further_versions_have_data_directories_of_their_own(data):
    settings = recipe(procedure="wsj0mix", rates=["8k", "16k"], modes=["min", "max"])
    rendered, _ = make(data, settings)
    closed = {each.version.label: each for each in rendered if each.split == "cv"}
    assert set(closed) == {"wav8k/min", "wav8k/max", "wav16k/min", "wav16k/max"}
    assert closed["wav8k/min"].directory == data / "cv"
    assert closed["wav16k/max"].directory == data / "wav16k" / "max" / "cv"
    narrow, wide = (
        read_audio(validate_data_dir(closed[label].directory)[0].mixture)
        for label in ("wav8k/max", "wav16k/max")
    )
    assert len(wide) == 2 * len(narrow)


def test_second_run_writes_nothing(data):
    make(data, recipe())
    times = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    rendered, notices = make(data, recipe())
    assert [each.written for each in rendered] == [0, 0, 0]
    assert all("are up to date" in notice for notice in notices)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_damaged_mixtures_and_lists_are_repaired(data):
    rendered, _ = make(data, recipe())
    damaged, listed = rendered[0].mixtures[1].sources[0], data / "cv" / "spk2.scp"
    before = damaged.read_bytes(), listed.read_bytes()
    damaged.write_bytes(bytes(len(before[0])))
    listed.unlink()
    rendered, notices = make(data, recipe())
    assert [each.written for each in rendered] == [1, 0, 0]
    assert "0 of them written now" in notices[1]
    assert (damaged.read_bytes(), listed.read_bytes()) == before


def test_other_settings_replace_the_mixtures(data):
    make(data, recipe())
    rendered, notices = make(data, recipe(seed=1))
    assert [each.written for each in rendered] == [4, 2, 2]
    assert sum("made with other settings; mixing again" in notice for notice in notices) == 3
    assert len(list((data / "wav" / "tr" / "mix").iterdir())) == 4


def test_foreign_files_are_kept(data):
    foreign = data / "wav" / "tr" / "mine.wav"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    with pytest.raises(SpikeSepError, match="holds files that spikesep-prepare did not make"):
        make(data, recipe())
    assert foreign.exists()


def test_training_set_is_skipped_when_mixing_on_the_fly(data):
    rendered, notices = make(data, recipe(on_the_fly=10, n_train=0))
    assert [each.split for each in rendered] == ["cv", "tt"]
    assert "made while training" in notices[0]
    assert not (data / "tr").exists()


@pytest.mark.parametrize(
    ("mixing", "message"),
    [
        ({"n_speakers": 1}, "--mixing.n_speakers 1: a mixture has at least 2"),
        ({"n_speakers": 3}, "--mixing.n_speakers 3: the balanced procedure mixes two"),
        ({"modes": ["max"]}, "--mixing.modes: max; balanced has cut"),
        ({"n_train": 0}, "ask for at least one"),
        ({"procedure": "wsj0mix", "rates": ["44.1k"]}, "the original makes 8k and 16k"),
    ],
)
def test_settings_that_a_procedure_does_not_support_are_rejected(mixing, message):
    with pytest.raises(SpikeSepError, match=message):
        check_procedure(recipe(**mixing))


def test_table_is_required(tmp_path):
    with pytest.raises(SpikeSepError, match="run spikesep-prepare corpus first"):
        make(tmp_path, recipe())
