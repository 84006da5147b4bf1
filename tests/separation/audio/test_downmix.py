import numpy as np
import pytest

from spikesep.separation.audio.downmix import at_full_scale, audible_mix, pick, tracks, watched


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("int16", -(2**15), 2**14),
        ("int32", -(2**31), 2**30),
        ("uint8", 0, 192),
        ("float64", -1.0, 0.5),
    ],
)
def test_integers_of_wav_files_come_to_full_scale(dtype, low, high):
    samples = at_full_scale(np.array([low, high], dtype))
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, [-1, 0.5])


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool", "complex64"])
def test_other_types_are_refused_by_name(dtype):
    with pytest.raises(ValueError, match=f"a recording of {dtype}; give float"):
        at_full_scale(np.zeros(3, dtype))


def test_a_choice_picks_its_tracks():
    samples = np.arange(6.0).reshape(2, 3)
    for choice, names, picked in (
        ("mix", [""], samples.mean(0, keepdims=True)),
        ("each", ["_ch1", "_ch2"], samples),
        (2, ["_ch2"], samples[1:]),
    ):
        assert tracks(choice, 2) == names
        np.testing.assert_array_equal(pick(samples, choice), picked)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (3, "recording has 2; give mix, each, or 1 to 2"),
        (0, "counted from 1"),
        ("left", "give mix"),
    ],
)
def test_a_channel_that_is_not_there_is_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        tracks(choice, 2)


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
def test_channels_that_cancel_are_found_and_the_strongest_is_taken(samples, choice):
    assert audible_mix([samples[:, :50], samples[:, 50:]]) == choice


def test_of_channels_that_cancel_while_they_arrive_a_word_is_said_once():
    told = []
    blocks = [np.stack([VOICE, -VOICE])] * 3
    assert list(watched(iter(blocks), 6000, told.append)) == blocks
    assert told == [1]
