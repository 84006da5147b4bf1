from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.separators import tiny_config

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import write_wav
from spikesep.separation.audio.levels import active_level
from spikesep.separation.config import (
    DynamicMixingConfig,
    MixingConfig,
    RecipeConfig,
    SpeechConversionConfig,
    SpeechPretrainConfig,
)
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, Utterance, write_table
from spikesep.separation.data.dataset import crop_loader
from spikesep.separation.data.dynamic_mixing import DynamicCrops
from spikesep.separation.data.remixing import Collate
from spikesep.separation.experiment import convert_snn, train_ann

RATE = 8000
TONES = {"ann": 300, "bea": 500, "cleo": 700, "dan": 1100, "ed": 1700}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Five voices, each with two 16 kHz recordings of one tone with pauses."""
    folder = tmp_path_factory.mktemp("voices")
    rows = []
    for speaker, hz in TONES.items():
        for k in range(2):
            time = np.arange(16000 * 3) / 16000
            samples = 0.3 * (k + 1) * np.sin(2 * np.pi * hz * time) * (time % 1.5 < 1.0)
            path = folder / f"{speaker}{k}.wav"
            write_wav(path, samples.astype(np.float32), 16000)
            rows.append(Utterance(f"{speaker}-{k}", path, speaker, "f", "tr", 3.0))
    return rows


DEFAULTS = {
    "n_speakers": 2,
    "sample_rate": RATE,
    "n_samples": 4000,
    "snr_db": (0.0, 5.0),
    "speeds": (1.0,),
    "by_amount": 0.0,
    "effects": (),
    "seed": 0,
}


def crops(table, n=40, **settings):
    return DynamicCrops(table, n, **(DEFAULTS | settings))


def pitch(samples):
    """Return the frequency of the loudest tone in Hz."""
    return np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * RATE))) / 8


def test_crop_has_its_speakers_at_levels_in_range(table):
    made = crops(table)
    for index in range(len(made)):
        crop = made[0, index]
        assert crop.sources.shape == (2, 4000)
        assert crop.sources.dtype == np.float32
        assert len(set(crop.speakers)) == 2
        for source, speaker in zip(crop.sources, crop.speakers, strict=True):
            assert pitch(source) == pytest.approx(TONES[speaker], abs=4)
        levels = [active_level(source, RATE) for source in crop.sources]
        assert abs(levels[0] - levels[1]) <= 5.01
        assert np.mean(levels) == pytest.approx(-25, abs=0.1)
        assert np.abs(crop.sources).max() <= 0.9
        assert np.abs(crop.sources.sum(0)).max() <= 0.9 + 1e-6


def test_speaker_probability_follows_the_amount_of_speech(table):
    longer = [replace(row, duration=27.0) if row.speaker == "ann" else row for row in table]

    def share(by_amount):
        made = crops(longer, n=300, by_amount=by_amount)
        names = [crop.speakers[0] for crop in (made[0, k] for k in range(len(made)))]
        return names.count("ann") / len(names)

    assert share(0.0) == pytest.approx(1 / 5, abs=0.08)
    assert share(0.5) == pytest.approx(3 / 7, abs=0.1)
    assert share(1.0) == pytest.approx(9 / 13, abs=0.1)


def test_women_and_men_are_drawn_equally_often(table):
    made = crops([replace(row, sex="m" if row.speaker == "ann" else "f") for row in table], n=400)
    first = [made[0, k].speakers[0] for k in range(len(made))]
    assert first.count("ann") / len(first) == pytest.approx(1 / 2, abs=0.06)


def test_each_source_is_inverted_half_of_the_time(table):
    as_recorded, turned = crops(table), crops(table, effects=("polarity",))
    signs = np.array(
        [
            np.sign((as_recorded[0, k].sources * turned[0, k].sources).sum(-1))
            for k in range(len(turned))
        ]
    )
    assert set(np.unique(signs)) == {-1, 1}
    pairs = signs.prod(1)
    assert abs(signs.mean()) < 0.3
    assert abs(pairs.mean()) < 0.5  # the signs are independent
    for k in range(4):
        np.testing.assert_array_equal(
            np.abs(as_recorded[0, k].sources), np.abs(turned[0, k].sources)
        )


def test_polarities_are_aligned_or_opposite_whatever_they_are_as_recorded(tmp_path):
    """Pulses of two voices, one recorded upside down; the mixture as a whole is inverted or not."""
    pulses = np.zeros(16000, np.float32)
    pulses[::160] = 0.5
    rows = []
    for speaker, sign in (("ann", 1), ("bea", -1)):
        write_wav(tmp_path / f"{speaker}.wav", sign * pulses, 8000)
        rows.append(Utterance(f"{speaker}-0", tmp_path / f"{speaker}.wav", speaker, "f", "tr", 2.0))
    for polarity, product in (("as_recorded", -1), ("aligned", 1), ("opposite", -1)):
        made = crops(rows, polarity=polarity)
        peaks = [np.sign(skewness(made[0, k].sources)) for k in range(20)]
        assert all(np.prod(signs) == product for signs in peaks), polarity
        assert {signs[0] for signs in peaks} == {-1, 1}


def skewness(sources):
    return (sources**3).sum(-1)


def test_noise_floor_is_added_to_the_mixture_only(table):
    crop = crops(table, effects=("floor",))[0, 0]
    below = 10 * np.log10(np.square(crop.noise).mean() / np.square(crop.sources.sum(0)).mean())
    assert crop.noise.shape == (4000,)
    assert -70 < below < -10
    assert crops(table)[0, 0].noise is None


def test_equalizer_changes_the_spectrum_and_keeps_levels(table):
    plain, filtered = crops(table)[0, 0], crops(table, effects=("equalizer",))[0, 0]
    assert not np.allclose(plain.sources, filtered.sources, atol=1e-3)
    assert np.mean([active_level(source, RATE) for source in filtered.sources]) == pytest.approx(
        -25, abs=0.1
    )


def test_dynamic_crop_depends_on_seed_epoch_and_index_only(table):
    one, other = crops(table, speeds=(0.9, 1.1)), crops(table[::-1], speeds=(0.9, 1.1))
    other[0, 3]  # earlier draws do not matter
    for key in ((0, 0), (2, 5), (7, 39)):
        np.testing.assert_array_equal(one[key].sources, other[key].sources)
        assert one[key].speakers == other[key].speakers
    assert not np.array_equal(one[0, 0].sources, one[1, 0].sources)
    assert not np.array_equal(one[0, 0].sources, crops(table, seed=1)[0, 0].sources)


def test_loader_workers_do_not_change_the_batches(table):
    made = crops(table, n=16, speeds=(0.9, 1.0, 1.1))
    collate = Collate(False, (0, 5))
    here = list(crop_loader(made, 4, 0, collate))
    there = list(crop_loader(made, 4, 0, collate, n_workers=2))
    assert all(
        torch.equal(a, b)
        for one, other in zip(here, there, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    assert torch.equal(here[0][0], here[0][1].sum(1))


def test_speed_scales_the_pitch(table):
    found = set()
    for index in range(30):
        crop = crops(table, speeds=(0.9, 1.0, 1.25))[0, index]
        for source, speaker in zip(crop.sources, crop.speakers, strict=True):
            factor = pitch(source) / TONES[speaker]
            nearest = min((0.9, 1.0, 1.25), key=lambda speed: abs(speed - factor))
            assert factor == pytest.approx(nearest, abs=0.045)  # a short burst has no sharp pitch
            found.add(nearest)
    assert found == {0.9, 1.0, 1.25}


@pytest.mark.filterwarnings("error")
def test_speaker_probability_is_independent_of_the_number_of_recordings(table):
    many = table + [
        Utterance(f"ann-more{k}", table[0].path, "ann", "f", "tr", 3.0) for k in range(20)
    ]
    names = [
        name
        for index in range(200)
        for name in crops(many, n=200, n_samples=400)[0, index].speakers
    ]
    assert all(50 < names.count(speaker) < 110 for speaker in TONES)


def test_short_utterances_of_three_voices_are_padded(table):
    crop = crops(table, n_speakers=3, n_samples=40000)[0, 0]
    assert crop.sources.shape == (3, 40000)
    assert (crop.sources[:, 24000:] == 0).all()
    assert len(set(crop.speakers)) == 3


def test_pauses_are_avoided(table):
    for index in range(60):
        crop = crops(table, n=60, n_samples=2000)[0, index]
        level = np.square(crop.sources).mean(1)
        assert level.max() < 100 * level.min()


def test_unusable_utterances_are_named(table, tmp_path):
    with pytest.raises(SpikeSepError, match="1 speakers to mix on the fly"):
        crops(table[:2])
    write_wav(tmp_path / "silent.wav", np.zeros(16000, np.float32), 16000)
    silent = Utterance("flo-0", tmp_path / "silent.wav", "flo", "f", "tr", 1.0)
    with pytest.raises(SpikeSepError, match=r"silent\.wav: is silent"):
        crops([silent, table[0]])[0, 0]
    cut = tmp_path / "cut.wav"
    cut.write_bytes(table[0].path.read_bytes()[:20000])
    with pytest.raises(SpikeSepError, match=r"cut\.wav: cut off"):
        crops([Utterance("gus-0", cut, "gus", "m", "tr", 3.0), table[0]])[0, 0]


def test_contradictory_settings_are_rejected():
    with pytest.raises(SpikeSepError, match=r"mixing\.dynamic\.examples"):
        DynamicMixingConfig(speeds=[0.9, 1.0])
    with pytest.raises(SpikeSepError, match=r"0\.5 to 2"):
        DynamicMixingConfig(examples=10, speeds=[3.0])
    with pytest.raises(SpikeSepError, match="leave polarity out"):
        MixingConfig(polarity="aligned", dynamic=DynamicMixingConfig(examples=10))


def test_model_is_trained_and_converted_without_mixtures_on_disk(table, experiment, capsys):
    write_table(experiment.data / UTTERANCE_TABLE, table)
    assert not (experiment.data / "tr").exists()
    recipe = RecipeConfig(
        model=tiny_config(),
        mixing=MixingConfig(dynamic=DynamicMixingConfig(examples=6, speeds=[0.95, 1.05])),
        train=SpeechPretrainConfig(epochs=2, batch_size=2, segment_seconds=0.5),
        convert=SpeechConversionConfig(
            segment_seconds=0.5,
            train_segments=4,
            valid_segments=2,
            max_epochs=1,
            calibration_examples=2,
        ),
    )
    exp = Path(experiment.exp).with_name("fresh")
    train_ann(experiment.data, exp, recipe)
    assert "on 6 mixtures" in capsys.readouterr().out
    convert_snn(experiment.data, exp, recipe)
    assert (exp / "snn").exists()
