import numpy as np
import pytest

from spikesep.separation.tracks.gate import Gate

RATE = 8000


def turns(seconds=4.0, leak=0.05, rate=RATE):
    """Two voices in turn, each with a leak in the other output; return mixture and outputs."""
    n = round(seconds * rate)
    rng = np.random.default_rng(0)
    voice = rng.normal(0, 0.1, n)
    first = np.arange(n) < n // 2
    outputs = np.stack([np.where(first, 1 - leak, leak), np.where(first, leak, 1 - leak)]) * voice
    return voice.astype(np.float32), outputs.astype(np.float32)


def gated(mixture, outputs, size=777, rate=RATE):
    gate, parts = Gate(len(outputs), rate), []
    for k in range(0, len(mixture), size):
        parts.append(gate.push(mixture[k : k + size], outputs[:, k : k + size]))
    parts.append(gate.flush())
    return [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]


def test_an_output_without_a_voice_is_silent_and_its_leak_returns_to_the_voice():
    mixture, outputs = turns()
    voices, active = gated(mixture, outputs)
    half, margin = len(mixture) // 2, RATE // 2
    assert not voices[1, : half - margin].any()
    assert not voices[0, half + margin :].any()
    np.testing.assert_allclose(
        voices[0, margin : half - margin], mixture[margin : half - margin], atol=1e-3
    )
    assert active[0, :90].all()
    assert active[1, 110:].all()


def test_the_sum_of_the_outputs_stays_the_same_while_anyone_talks():
    mixture, outputs = turns()
    voices, _ = gated(mixture, outputs)
    np.testing.assert_allclose(voices[:, 200:].sum(0), outputs[:, 200:].sum(0), atol=2e-3)


def test_gains_change_over_twenty_milliseconds():
    n = 2 * RATE
    outputs = np.stack([np.full(n, 0.5), np.r_[np.full(n // 2, 0.4), np.zeros(n // 2)]])
    voices, _ = gated(outputs.sum(0).astype(np.float32), outputs.astype(np.float32))
    steps = np.abs(np.diff(voices, axis=1))
    steps[1, n // 2 - 1] = 0  # of the signal itself
    assert steps.max() <= 0.9 / (0.02 * RATE) * 1.01


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_blocks_of_any_size_give_the_same_samples(rate):
    mixture, outputs = turns(1.3, rate=rate)
    whole, active = gated(mixture, outputs, len(mixture), rate)
    assert whole.shape == outputs.shape
    for size in (1001, rate):
        voices, found = gated(mixture, outputs, size, rate)
        assert np.array_equal(voices, whole)
        assert np.array_equal(found, active)


def test_no_sample_waits_longer_than_the_latency():
    mixture, outputs = turns(3.0)
    gate, pushed, returned = Gate(2, RATE), 0, 0
    for k in range(0, len(mixture), 160):
        returned += gate.push(mixture[k : k + 160], outputs[:, k : k + 160])[0].shape[1]
        pushed += 160
        assert pushed - returned <= Gate.latency * RATE + 160


def test_an_empty_recording_has_no_frames():
    voices, active = gated(np.zeros(0, np.float32), np.zeros((2, 0), np.float32))
    assert voices.shape == (2, 0)
    assert active.shape == (2, 0)
