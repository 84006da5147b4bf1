"""Test sets of the procedures `simulated` and `conversation`."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import write_wav
from spikesep.separation.config import DynamicMixingConfig, MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.table import (
    ABSENT,
    UTTERANCE_TABLE,
    Utterance,
    write_table,
)
from spikesep.separation.data.kaldi import Mixture, validate_data_dir
from spikesep.separation.data.preparation import make_mixtures
from spikesep.separation.experiment_data import ExperimentData
from spikesep.separation.mixing_config import DamageConfig, NoiseConfig, RoomsConfig
from spikesep.training.config import LaunchConfig

RATE = 8000
STEP = 1 / 32768


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A table of three voices in each split, and a folder of noises."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    rows = []
    for split, speakers in (("tr", "abc"), ("cv", "abc"), ("tt", "xyz")):
        for speaker in speakers:
            for k in range(2):
                path = root / split / f"{speaker}{k}.wav"
                bursts = np.repeat(rng.uniform(0.3, 1.0, 20), 800)
                write_wav(path, 0.2 * bursts * rng.uniform(-1, 1, len(bursts)), RATE)
                rows.append(Utterance(f"{speaker}-{split}{k}", path, speaker, "f", split, 2.0))
    for k in range(10):
        write_wav(root / "noise" / f"{k}.wav", rng.normal(0, 0.1, 4000).clip(-1, 1), RATE)
    return root, rows


def make(folders, name, procedure="simulated", on_the_fly=True, **mixing):
    root, rows = folders
    data = root / name
    if not (data / UTTERANCE_TABLE).exists():
        write_table(data / UTTERANCE_TABLE, rows)
    dynamic = DynamicMixingConfig(
        examples=int(on_the_fly),
        noise=NoiseConfig(recordings=[f"folder:{root / 'noise'}"], kinds=["recorded"]),
        rooms=RoomsConfig(rt60=(0.2, 0.3), n_rooms=2),
        damage=DamageConfig(clipping=1.0),
        voices=mixing.pop("voices", []),
    )
    settings = {"n_speakers": 2, "n_closed": 2, "n_open": 3, "max_seconds": 1.5} | mixing
    recipe = RecipeConfig(
        mixing=MixingConfig(procedure=procedure, dynamic=dynamic, **settings),
        launch=LaunchConfig(n_jobs=1),
    )
    notices = []
    return make_mixtures(data, recipe, notices.append), notices


def signals(mixture):
    mixed = soundfile.read(mixture.mixture)[0]
    return mixed, np.stack([soundfile.read(path)[0] for path in mixture.sources])


def test_conditions_have_the_same_voices_in_data_directories_of_their_own(folders):
    pytest.importorskip("pyroomacoustics", reason="needs the extra train")
    modes = ["clean", "noise", "room", "both", "damaged"]
    made, _ = make(folders, "conditions", modes=modes)
    opened = {each.version.mode: each for each in made if each.split == "tt"}
    assert list(opened) == modes
    for k in range(3):
        parts = {}
        for mode, each in opened.items():
            mixture = validate_data_dir(each.directory)[k]
            assert mixture.speakers == opened["clean"].mixtures[k].speakers
            assert set(mixture.speakers) <= set("xyz")
            mixed, sources = signals(mixture)
            assert np.abs(mixed).max() <= 0.9
            parts[mode] = mixed, sources, mixed - sources.sum(0)
        assert not parts["clean"][2].any()
        for mode in modes[1:]:
            assert np.abs(parts[mode][2]).max() > 100 * STEP
        similarity = np.corrcoef(parts["clean"][1][0], parts["noise"][1][0])[0, 1]
        assert similarity > 0.9999
        assert np.corrcoef(parts["clean"][1][0], parts["room"][1][0])[0, 1] < 0.99


def test_second_run_writes_nothing_and_a_lost_file_is_made_again(folders):
    made, _ = make(folders, "again", modes=["noise"])
    path = next(each for each in made if each.split == "tt").mixtures[0].mixture
    before = path.read_bytes()
    assert sum(each.written for each in make(folders, "again", modes=["noise"])[0]) == 0
    path.unlink()
    made, _ = make(folders, "again", modes=["noise"])
    assert sum(each.written for each in made) == 1
    assert path.read_bytes() == before


def test_mixtures_of_fewer_voices_have_silent_sources(folders):
    made, _ = make(folders, "fewer", n_speakers=3, n_open=8, voices=[0.5, 0.5])
    found = {mixture.speakers.count(ABSENT) for each in made for mixture in each.mixtures}
    assert found == {1, 2}
    for mixture in validate_data_dir(made[-1].directory):
        mixed, sources = signals(mixture)
        assert sources.any(1).tolist() == [name != ABSENT for name in mixture.speakers]
        np.testing.assert_array_equal(mixed, sources.sum(0))


def test_conversations_have_an_rttm_of_who_speaks_when(folders):
    made, notices = make(folders, "talk", "conversation", max_seconds=20.0)
    opened = next(each for each in made if each.split == "tt")
    assert any("voices overlap in" in notice for notice in notices)
    active = {}
    for line in (opened.directory / "rttm").read_text().splitlines():
        kind, utt_id, channel, start, seconds, *absent, speaker = line.split(" ")[:8]
        assert (kind, channel, absent) == ("SPEAKER", "1", ["<NA>", "<NA>"])
        first = round(float(start) * RATE)
        track = active.setdefault((utt_id, speaker), np.zeros(20 * RATE, bool))
        track[first : first + round(float(seconds) * RATE)] = True
    for mixture in validate_data_dir(opened.directory):
        mixed, sources = signals(mixture)
        assert len(mixed) == 20 * RATE
        for source, speaker in zip(sources, mixture.speakers, strict=True):
            heard = np.convolve(np.abs(source), np.ones(400) / 400, "same") > 1e-3
            assert np.mean(heard == active[mixture.utt_id, speaker]) > 0.97
            assert 0.05 < heard.mean() < 0.98


def test_unsupported_settings_are_rejected_before_anything_is_written(folders):
    for message, settings in {
        "0 mixtures": {"n_open": 0},
        "is too short": {"max_seconds": 0.1},
        "there are 2 sources": {"voices": [0.1, 0.1, 0.8]},
        "is no range": {"snr_db": (5.0, 0.0)},
        "are as_recorded or aligned": {"polarity": "opposite", "on_the_fly": False},
        "simulated has clean, noise": {"modes": ["loud"]},
    }.items():
        with pytest.raises(SpikeSepError, match=message):
            make(folders, "refused", **settings)
    assert not (folders[0] / "refused" / "wav").exists()


@pytest.mark.parametrize(
    ("procedure", "speakers", "residual", "remixed"),
    [
        ("simulated", ("a", "b"), False, True),
        ("simulated", ("a", "b"), True, False),
        ("simulated", ("a", ABSENT), False, False),
        ("conversation", ("a", "b"), False, False),
    ],
)
def test_sets_that_cannot_be_remixed_are_not(procedure, speakers, residual, remixed, tmp_path):
    files = (tmp_path / "s1.wav", tmp_path / "s2.wav")
    mixture = Mixture(f"{'_'.join(speakers)}-0", tmp_path / "mix.wav", files, speakers, ("f", "u"))
    recipe = RecipeConfig(mixing=MixingConfig(procedure=procedure))
    train = [replace(mixture, has_residual=residual)]
    loader = ExperimentData(tmp_path, recipe, train, [], "").random_crops(800, 2, 0)
    assert loader.collate_fn.remix == loader.collate_fn.random_polarity == remixed
