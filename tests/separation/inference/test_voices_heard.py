import numpy as np
import pytest
from helpers.separators import tiny_separator
from hypothesis import given
from hypothesis import strategies as st

from spikesep.separation.inference.in_memory import Model
from spikesep.separation.inference.voices import are_heard, seconds_of_outputs

RATE = 8000


def bursts(levels, seed=0, seconds=3.0):
    """Return noise per output whose level in dB is given, silent for None."""
    rng = np.random.default_rng(seed)
    gains = [0.0 if level is None else 10 ** (level / 20) for level in levels]
    return np.array([g * rng.normal(0, 0.1, round(RATE * seconds)) for g in gains], np.float32)


def test_an_output_with_leakage_alone_is_not_heard():
    outputs = bursts([0, -30, -20])
    seconds = seconds_of_outputs(outputs, outputs.sum(0), RATE)
    assert are_heard(seconds).tolist() == [True, False, False]
    assert seconds[0] == pytest.approx(3.0, abs=0.05)


def test_voices_that_take_turns_are_heard():
    outputs = bursts([0, -30, -3])
    half = outputs.shape[1] // 2
    outputs[:, half:] = outputs[[2, 1, 0]][:, half:]
    outputs[2, :half] *= 0.01
    assert are_heard(seconds_of_outputs(outputs, outputs.sum(0), RATE)).tolist() == [
        True, False, True
    ]  # fmt: skip


@given(st.lists(st.floats(0, 100), min_size=1, max_size=4))
def test_the_most_active_voice_is_heard_if_any_is(seconds):
    heard = are_heard(np.array(seconds))
    assert heard.any() == (max(seconds) >= 0.4)
    assert not heard.any() or heard[np.argmax(seconds)]


def test_python_returns_the_most_active_outputs():
    model = Model(tiny_separator(n_speakers=3))
    samples = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    everything = model.separate(samples)
    seconds = seconds_of_outputs(model.separate(samples, level="none"), samples, RATE)
    best = sorted(np.argsort(-seconds, kind="stable")[:2])
    np.testing.assert_array_equal(model.separate(samples, voices=2), everything[best])
    found = model.separate_recording(samples, RATE, voices="auto")
    assert found.heard == (int(are_heard(seconds).sum()),)
    assert len(found.estimates) == max(1, found.heard[0])


def test_two_outputs_are_counted_on_request_only():
    model, samples = Model(tiny_separator()), bursts([0])[0]
    assert model.separate_recording(samples, RATE).heard == ()
    assert len(model.separate_recording(samples, RATE, voices="auto").heard) == 1
    with pytest.raises(ValueError, match="voices 3: this model separates 2"):
        model.separate(samples, voices=3)
