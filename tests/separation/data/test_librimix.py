"""Libri2Mix, compared with a direct implementation of LibriMix's scripts."""

from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
from scipy.signal import resample_poly

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig, MixingConfig, RecipeConfig
from spikesep.separation.data.corpora import list_utterances
from spikesep.separation.data.corpora.mixture_lists import (
    MixtureListRow,
    read_mixture_list,
    write_librimix_metadata,
)
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, read_table, write_table
from spikesep.separation.data.dataset import FixedCrops, RandomCrops
from spikesep.separation.data.kaldi import validate_data_dir
from spikesep.separation.data.mixture_files import find_residuals
from spikesep.separation.data.preparation import make_mixtures
from spikesep.training.config import LaunchConfig

RATE = 16000


def voice(chance, seconds):
    level = np.repeat(chance.choice([0.02, 0.5, 1.0], size=int(8 * seconds) + 1), RATE // 8)[
        : int(seconds * RATE)
    ]
    return np.clip(chance.uniform(0.02, 0.2) * level * chance.standard_normal(len(level)), -1, 1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three subsets in the layout of LibriSpeech, of four speakers.

    Each has two utterances of 3 s and more, and one that is too short.
    """
    root = tmp_path_factory.mktemp("LibriSpeech")
    chance = np.random.default_rng(0)
    lines, number = ["; comment"], 100
    for subset in ("train-clean-100", "dev-clean", "test-clean"):
        for k in range(4):
            number += 1
            lines.append(f"{number} | {'FM'[k % 2]} | {subset} | 1.0 | x")
            for n, seconds in enumerate((3.0 + 0.5 * k, 4.25, 1.5)):
                path = root / subset / str(number) / "7" / f"{number}-7-{n:04d}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, voice(chance, seconds), RATE)
    (root / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    root = tmp_path_factory.mktemp("wham_noise")
    chance = np.random.default_rng(1)
    for split in ("tr", "cv", "tt"):
        for k, seconds in enumerate((2.0, 6.0)):  # the short one is repeated
            path = root / split / f"n{k}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, 0.05 * chance.standard_normal((int(seconds * RATE), 2)), RATE)
    return root


def make(data, root, lists="", noise="", **mixing):
    settings = {
        "rates": ["8k", "16k"],
        "modes": ["min", "max"],
        "n_train": 6,
        "n_closed": 4,
        "n_open": 4,
    } | mixing
    corpus = CorpusConfig(
        "librispeech", str(root), str(lists), str(noise), as_published=True, min_seconds=3.0
    )
    recipe = RecipeConfig(
        corpus=corpus,
        mixing=MixingConfig(procedure="librimix", **settings),
        launch=LaunchConfig(n_jobs=1),
    )
    write_table(
        data / UTTERANCE_TABLE, list_utterances(corpus, data, 0, 1, recipe.mixing.n_speakers)[0]
    )
    told = []
    make_mixtures(data, recipe, told.append)
    return told


def peer(root, wham, row, rate, mode, folder):
    """Write what LibriMix's script writes for one row of metadata."""
    signals = [
        np.float32(gain) * soundfile.read(root / name, dtype="float32")[0]
        for name, gain in zip(row.recordings, row.gains, strict=True)
    ]
    if wham:
        longest = max(map(len, signals))
        added = soundfile.read(wham / row.noise, dtype="float32", stop=longest)[0][:, 0]
        window = np.hanning(RATE + 1)
        up, down = window[: RATE // 2 + 1], window[RATE // 2 :: -1]
        extended = added
        while len(extended) < longest:
            seam = extended[-len(down) :] * down + added[: len(up)] * up
            extended = np.concatenate([extended[: -len(down)], seam, added[len(up) :]])
        signals.append(np.float32(row.noise_gain) * extended[:longest].astype(np.float32))
    signals = [resample_poly(signal, rate, RATE) for signal in signals]
    if mode == "min":
        signals = [signal[: min(map(len, signals))] for signal in signals]
    else:
        signals = [np.pad(signal, (0, max(map(len, signals)) - len(signal))) for signal in signals]
    mixture = np.zeros_like(signals[0])
    for signal in signals:
        mixture += signal
    names = [
        "mix_both" if wham else "mix_clean",
        *(f"s{k + 1}" for k in range(len(row.recordings))),
        "noise",
    ]
    for name, signal in zip(names, [mixture, *signals], strict=False):
        (folder / name).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name / f"{row.name}.wav", signal, rate)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.wav"))}


@pytest.mark.parametrize("noisy", [False, True], ids=["clean", "noisy"])
@pytest.mark.parametrize("n_speakers", [2, 3])
def test_files_are_bit_identical_to_those_of_librimix(tmp_path, corpus, noise, noisy, n_speakers):
    wham = noise if noisy else None
    make(tmp_path, corpus, noise=wham or "", n_speakers=n_speakers)
    for split in ("tr", "cv", "tt"):
        rows = read_mixture_list(tmp_path / "metadata" / f"libri{n_speakers}mix_{split}.csv")
        for rate, mode in ((8000, "min"), (8000, "max"), (16000, "min"), (16000, "max")):
            folder = tmp_path / "peer" / f"wav{rate // 1000}k" / mode / split
            for row in rows:
                peer(corpus, wham, row, rate, mode, folder)
    expected = contents(tmp_path / "peer")
    assert len(expected) == 14 * 4 * (n_speakers + 1 + noisy)
    assert contents(tmp_path / f"Libri{n_speakers}Mix") == expected


def test_loudness_and_peaks_are_in_range(tmp_path, corpus):
    make(tmp_path, corpus, rates=["16k"], modes=["max"], n_train=20)
    table = {row.path.stem: row for row in read_table(tmp_path / UTTERANCE_TABLE)}
    rows = read_mixture_list(tmp_path / "metadata" / "libri2mix_tr.csv")
    assert len(rows) == 20
    loudest, scaled = [], 0
    for row in rows:
        signals = [
            gain * soundfile.read(table[key].path)[0]
            for key, gain in zip(row.keys, row.gains, strict=True)
        ]
        levels = [pyloudnorm.Meter(RATE).integrated_loudness(signal) for signal in signals]
        summed = sum(
            np.pad(signal, (0, max(map(len, signals)) - len(signal))) for signal in signals
        )
        peak = np.abs(summed).max()
        assert peak <= 0.9 + 1e-6
        scaled += peak > 0.9 - 1e-6
        if peak < 0.9 - 1e-6:
            assert all(-33.01 <= level <= -24.99 for level in levels)
            loudest += levels
    assert np.ptp(loudest) > 4
    assert len({table[key].speaker for row in rows for key in row.keys}) == 4
    assert all(table[a].speaker != table[b].speaker for a, b in (row.keys for row in rows))


def test_sources_are_scaled_down_if_their_sum_would_clip(tmp_path):
    root = tmp_path / "LibriSpeech"
    chance = np.random.default_rng(0)
    lines = []
    for subset, first in (("train-clean-100", 1), ("dev-clean", 11), ("test-clean", 21)):
        for number in range(first, first + 4):
            path = root / subset / str(number) / "1" / f"{number}-1-0000.flac"
            path.parent.mkdir(parents=True)
            quiet = 1e-3 * chance.standard_normal(4 * RATE)
            quiet[::4000] = 0.9  # clicks far above the loudness
            soundfile.write(path, quiet, RATE)
            lines.append(f"{number} | {'FM'[number % 2]} | {subset} | 1 | x\n")
    (root / "SPEAKERS.TXT").write_text("".join(lines))
    make(tmp_path / "data", root, n_train=2, n_closed=2, n_open=2)
    for mixture in validate_data_dir(tmp_path / "data" / "tr"):
        assert np.abs(soundfile.read(mixture.mixture)[0]).max() < 0.95  # 0.9 before resampling
    for row in read_mixture_list(tmp_path / "data" / "metadata" / "libri2mix_tr.csv"):
        assert sum(row.gains) * 0.9 == pytest.approx(0.9, abs=2e-3)


def test_each_utterance_is_used_once_without_a_number_of_mixtures(tmp_path, corpus):
    make(tmp_path, corpus, rates=["8k"], modes=["min"], n_train=0)
    rows = read_mixture_list(tmp_path / "metadata" / "libri2mix_tr.csv")
    used = [key for row in rows for key in row.keys]
    assert len(used) == len(set(used)) == 8
    assert not any(key.endswith("0002") for key in used)  # shorter than 3 s


def test_subsets_define_the_splits(tmp_path, corpus):
    make(tmp_path, corpus)
    splits = {row.path.parts[-4]: row.split for row in read_table(tmp_path / UTTERANCE_TABLE)}
    assert splits == {"train-clean-100": "tr", "dev-clean": "cv", "test-clean": "tt"}


def test_published_metadata_is_followed_without_noise(tmp_path, corpus):
    lists = tmp_path / "metadata"
    speakers = {
        "train-clean-100": (101, 102),
        "train-clean-360": (901, 902),
        "dev-clean": (105, 106),
    }
    for subset, numbers in (speakers | {"test-clean": (109, 110)}).items():
        names = [f"{subset}/{n}/7/{n}-7-0001.flac" for n in numbers]
        name = "_".join(f"{n}-7-0001" for n in numbers)
        write_librimix_metadata(
            lists / f"libri2mix_{subset}.csv",
            [MixtureListRow("", name, tuple(names), (0.5, 0.25), "x/y.wav", 1.0)],
        )
        (lists / f"libri2mix_{subset}_info.csv").write_text("mixture_ID,speaker_1_ID\n")
    make(tmp_path / "data", corpus, lists, rates=["8k"], modes=["max"])
    (mixture,) = validate_data_dir(tmp_path / "data" / "tr")
    assert mixture.utt_id == "101_102-101-7-0001_102-7-0001"
    assert mixture.noise is None
    own, _ = soundfile.read(corpus / "train-clean-100" / "101" / "7" / "101-7-0001.flac")
    np.testing.assert_allclose(
        soundfile.read(mixture.sources[0])[0], 0.5 * resample_poly(own, 1, 2), atol=1e-4
    )
    with pytest.raises(SpikeSepError, match=r"libri2mix_train-clean-100.csv:2: no noise"):
        make(tmp_path / "data", corpus, lists, noise=tmp_path, rates=["8k"], modes=["max"])


def test_crops_of_noisy_mixtures_contain_the_noise(tmp_path, corpus, noise):
    make(tmp_path, corpus, noise=noise, rates=["8k"], modes=["min"])
    mixtures = validate_data_dir(tmp_path / "tr")
    assert find_residuals(mixtures, 8000)[0] == mixtures
    crop = RandomCrops(mixtures, 8000, 8000, seed=0)[0, 1]
    assert np.square(crop.noise).mean() > 0
    mixture, sources = FixedCrops(mixtures[:1], 8000, 8000, at_most=1)[0]
    whole, _ = soundfile.read(mixtures[0].mixture, dtype="float32")
    starts = range(0, len(whole) - 4000, 8000)
    assert any(
        np.abs(np.pad(whole, (0, 8000))[s : s + 8000] - mixture.numpy()).max() < 4 / 32768
        for s in starts
    )
    assert float((mixture - sources.sum(0)).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mixture_ID,source_1_path,source_1_gain\n", "lists no mixture"),
        ("mixture_ID,source_1_gain\nx,1\n", ":1: no column source_1_path"),
        (
            "mixture_ID,source_1_path,source_1_gain\nx,a/b/c/d.flac,loud\n",
            ":2: 'loud' is not a number",
        ),
        (
            "mixture_ID,source_1_path,source_1_gain\nx,a/b/c/d.flac,nan\n",
            ":2: 'nan' is not a number",
        ),
        (
            "mixture_ID,source_1_path,source_1_gain\n../x,a/b/c/d.flac,1\n",
            ":2: '../x' cannot name a mixture's files",
        ),
        (
            'mixture_ID,source_1_path,source_1_gain\n"x\ty",a/b/c/d.flac,1\n',
            r":2: 'x\\ty' cannot name",
        ),
        (
            "mixture_ID,source_1_path,source_1_gain,noise_path\nx,a/b/c/d.flac,1,n.wav\n",
            ":2: None is not a number",
        ),
    ],
)
def test_invalid_metadata_is_a_one_line_error(tmp_path, text, said):
    path = tmp_path / "libri2mix_dev-clean.csv"
    path.write_text(text)
    with pytest.raises(SpikeSepError, match=said) as caught:
        read_mixture_list(Path(path))
    assert str(path) in str(caught.value)


def test_metadata_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "libri2mix_dev-clean.csv"
    path.write_text("\ufeffmixture_ID,source_1_path,source_1_gain\nx,a/b/c/d\u2028.flac,1\n")
    assert [(row.name, row.recordings) for row in read_mixture_list(path)] == [
        ("x", ("a/b/c/d\u2028.flac",))
    ]
