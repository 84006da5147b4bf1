from dataclasses import replace

import numpy as np
import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.config import DynamicMixingConfig, MixingConfig
from spikesep.separation.data.simulation.simulator import at_condition, open_simulator
from spikesep.separation.mixing_config import (
    ConversationConfig,
    DamageConfig,
    NoiseConfig,
    RoomsConfig,
)

RATE, LEVEL_DB = 8000, -25.0
VOICES = np.random.default_rng(0).normal(0, 0.05, (2, 6000))
SILENCE = np.zeros(6000)
CONFIG = DynamicMixingConfig(
    examples=1,
    rooms=RoomsConfig(probability=1.0, rt60=(0.2, 0.3), n_rooms=2),
    noise=NoiseConfig(probability=1.0, kinds=["coloured"]),
    damage=DamageConfig(clipping=1.0),
)


def open_at(folder, condition=None, config=CONFIG, split="tr"):
    if condition != "noise" and condition != "clean":
        pytest.importorskip("pyroomacoustics", reason="needs the extra train")
    return open_simulator(
        folder,
        config if condition is None else at_condition(config, condition),
        [],
        n_voices=2,
        sample_rate=RATE,
        level_db=LEVEL_DB,
        split=split,
        seed=0,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def test_conditions_share_voices_room_and_noise(folder):
    parts = {
        condition: open_at(folder, condition).apply(VOICES, SILENCE, (7, 3))
        for condition in ("clean", "noise", "room", "both", "damaged")
    }
    np.testing.assert_array_equal(parts["clean"][0], VOICES)
    assert not parts["clean"][1].any()
    np.testing.assert_array_equal(parts["noise"][0], VOICES)
    np.testing.assert_array_equal(parts["room"][0], parts["both"][0])
    np.testing.assert_allclose(parts["both"][1], parts["room"][1] + parts["noise"][1], atol=1e-12)
    targets, rest = parts["damaged"]
    mixture = targets.sum(0) + rest
    undamaged = parts["both"][0].sum(0) + parts["both"][1]
    limit = np.abs(mixture).max()
    assert limit < np.abs(undamaged).max()
    np.testing.assert_allclose(mixture, undamaged.clip(-limit, limit), atol=1e-12)


def test_a_varied_set_has_each_part_as_often_as_training(folder):
    config = replace(CONFIG, damage=DamageConfig(), noise=replace(CONFIG.noise, probability=0.5))
    training, varied = (open_at(folder, condition, config) for condition in (None, "varied"))
    for k in range(20):
        for one, other in zip(
            training.apply(VOICES, SILENCE, (k,)), varied.apply(VOICES, SILENCE, (k,)), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_noise_levels_are_uniform_in_the_range(folder):
    config = replace(CONFIG, noise=replace(CONFIG.noise, snr_db=(-5.0, 20.0)))
    simulator = open_at(folder, "noise", config)
    rests = [simulator.apply(VOICES, SILENCE, (k,))[1] for k in range(200)]
    snr_db = LEVEL_DB - 10 * np.log10([np.square(rest).mean() for rest in rests])
    assert -5.01 < min(snr_db) < -3
    assert 18 < max(snr_db) < 20.01
    assert np.mean(snr_db) == pytest.approx(7.5, abs=1.5)


def test_probabilities_are_shares_of_the_mixtures(folder):
    config = replace(
        CONFIG,
        rooms=RoomsConfig(),
        noise=replace(CONFIG.noise, probability=0.3),
        damage=DamageConfig(offset=0.5),
    )
    simulator = open_at(folder, None, config)
    rests = [simulator.apply(VOICES, SILENCE, (k,))[1] for k in range(300)]
    noisy = [np.ptp(rest) > 1e-9 for rest in rests]
    shifted = [abs(rest.mean()) > 0 and not n for rest, n in zip(rests, noisy, strict=True)]
    assert np.mean(noisy) == pytest.approx(0.3, abs=0.08)
    assert sum(shifted) / (300 - sum(noisy)) == pytest.approx(0.5, abs=0.1)


def test_band_limits_targets_and_rest_alike(folder):
    config = replace(CONFIG, rooms=RoomsConfig(), noise=NoiseConfig(), damage=DamageConfig(band=1))
    targets, rest = open_at(folder, None, config).apply(VOICES, SILENCE + 1e-3, (0,))
    power = np.square(np.abs(np.fft.rfft(targets)))
    assert power[:, : 6000 // 80].sum() < 1e-3 * power.sum()  # below 100 Hz
    assert np.abs(rest[3000:]).max() < 1e-5  # a constant is outside the band


def test_silent_voices_stay_exactly_silent(folder):
    targets, rest = open_at(folder).apply(np.zeros((2, 6000)), SILENCE, (0,))
    assert not targets.any()
    assert rest.any()


def test_each_split_has_rooms_of_its_own(folder):
    one, other = (open_at(folder, "room", split=split) for split in ("tr", "tt"))
    assert not np.array_equal(one.bank.responses, other.bank.responses)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: RoomsConfig(rt60=(0.5, 0.2)), r"rooms\.rt60 \[0\.5, 0\.2\]: give the lower end"),
        (lambda: RoomsConfig(rt60=(0.01, 0.2)), r"rooms\.rt60 .*: give times from 0\.1 to 2 s"),
        (lambda: NoiseConfig(probability=1.5), r"noise\.probability 1\.5: must be from 0 to 1"),
        (lambda: NoiseConfig(kinds=["recorded"]), r"noise\.kinds .*: no kind is left; give"),
        (lambda: DamageConfig(codec=-1), r"damage\.codec -1: must be from 0 to 1"),
        (lambda: ConversationConfig(gap_seconds=0), r"conversation\.gap_seconds 0: must be pos"),
        (lambda: DynamicMixingConfig(voices=[0.0]), r"voices \[0\.0\]: give shares such as"),
        (
            lambda: MixingConfig(dynamic=DynamicMixingConfig(rooms=RoomsConfig(probability=0.5))),
            r"mixing\.dynamic\.rooms: .*balanced on disk stay as they are; set .*examples too",
        ),
    ],
)
def test_contradictory_settings_are_rejected(settings, message):
    with pytest.raises(SpikeSepError, match=message):
        settings()
