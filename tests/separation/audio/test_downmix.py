import numpy as np
import pytest

from spikesep.separation.audio.downmix import (
    channel_suffixes,
    choose_downmix,
    select_channels,
    to_float32,
    watch_phase,
)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("int16", -(2**15), 2**14),
        ("int32", -(2**31), 2**30),
        ("uint8", 0, 192),
        ("float64", -1.0, 0.5),
    ],
)
def test_integer_samples_are_scaled_to_full_scale(dtype, low, high):
    samples = to_float32(np.array([low, high], dtype))
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, [-1, 0.5])


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool", "complex64"])
def test_other_sample_types_are_rejected_by_name(dtype):
    with pytest.raises(ValueError, match=f"a recording of {dtype}; give float"):
        to_float32(np.zeros(3, dtype))


def test_choice_selects_channels_and_suffixes():
    samples = np.arange(6.0).reshape(2, 3)
    for choice, names, picked in (
        ("mix", [""], samples.mean(0, keepdims=True)),
        ("each", ["_ch1", "_ch2"], samples),
        (2, ["_ch2"], samples[1:]),
    ):
        assert channel_suffixes(choice, 2) == names
        np.testing.assert_array_equal(select_channels(samples, choice), picked)


@pytest.mark.parametrize(
    ("choice", "n_channels", "message"),
    [
        (3, 2, "recording has 2; give mix, each, or 1 to 2$"),
        (2, 1, "recording has 1; give mix, each, or 1$"),
        (0, 2, "counted from 1"),
        ("left", 2, "give mix"),
    ],
)
def test_invalid_choices_are_rejected(choice, n_channels, message):
    with pytest.raises(ValueError, match=message):
        channel_suffixes(choice, n_channels)


def noise(n_channels, n=4000):
    return np.random.default_rng(0).normal(0, 0.1, (n_channels, n)).astype(np.float32)


VOICE = noise(1)[0]
MIXES = {
    "one channel": (VOICE[None], "mix"),
    "alike": (np.stack([VOICE, VOICE]), "mix"),
    "unrelated": (noise(8), "mix"),
    "one silent": (np.stack([VOICE, 0 * VOICE]), "mix"),
    "silence": (np.zeros((2, 100), np.float32), "mix"),
    "opposite": (np.stack([VOICE, -VOICE]), 1),
    "opposite and louder": (np.stack([VOICE, -1.1 * VOICE]), 2),
    "two pairs": (np.stack([VOICE, -VOICE, 0.5 * VOICE, -0.5 * VOICE]), 1),
}


@pytest.mark.parametrize(("samples", "choice"), MIXES.values(), ids=MIXES)
def test_strongest_channel_is_chosen_if_channels_cancel(samples, choice):
    assert choose_downmix([samples[:, :50], samples[:, 50:]]) == choice


def test_cancelling_channels_are_reported_once():
    told = []
    blocks = [np.stack([VOICE, -VOICE])] * 3
    assert list(watch_phase(iter(blocks), 6000, told.append)) == blocks
    assert told == [1]
