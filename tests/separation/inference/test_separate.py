import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

import spikesep
from spikesep.errors import SpikeSepError
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.inference.separate import LevelMeter, Model, load_model, set_level
from spikesep.separation.model.separator import Separator, save_separator
from spikesep.spiking.signal import Coding


def make_model(spiking):
    torch.manual_seed(0)
    separator = Separator(
        SeparatorConfig(n_filters=16, n_channels=12, dilations=[1, 2, 4], identity="sum")
    )
    for _ in range(3):
        separator(torch.randn(2, 800))
    if spiking:
        for layer in separator.network.layers.values():
            layer.convert(0.2, Coding(8))
            layer.freeze()
    return Model(separator)


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32)


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("seconds", [0.05, 0.1234, 0.5])
def test_blocks_give_what_one_piece_gives(spiking, seconds):
    model, wave = make_model(spiking), noise(9001)
    whole = model.separate(wave, 8000, "none", 100.0)
    np.testing.assert_allclose(
        model.separate(wave, 8000, "none", seconds), whole, rtol=0, atol=1e-5
    )


def test_torch_in_torch_out():
    model, wave = make_model(True), noise(2000)
    out = model.separate(torch.from_numpy(wave))
    assert isinstance(out, torch.Tensor)
    np.testing.assert_array_equal(out.numpy(), model.separate(wave))


@pytest.mark.parametrize(
    ("dtype", "zero", "full"), [("int16", 0, 2**15), ("int32", 0, 2**31), ("uint8", 128, 128)]
)
def test_integers_of_wav_files_are_taken_at_their_scale(dtype, zero, full):
    model, wave = make_model(False), noise(2000).clip(-0.9, 0.9)
    integers = (np.round(wave * full).astype(np.int64) + zero).astype(dtype)
    same = ((integers.astype(np.float64) - zero) / full).astype(np.float32)
    np.testing.assert_array_equal(model.separate(integers), model.separate(same))
    stream = model.stream(block_seconds=0.1)
    pushed = np.concatenate([stream.push(integers), stream.flush()], axis=1)
    np.testing.assert_allclose(pushed, model.separate(same, level="none"), atol=1e-5)


@pytest.mark.parametrize(
    "wave", [np.zeros(800, np.int64), torch.zeros(800, dtype=torch.int64), [1, 2, 3]]
)
def test_integers_of_unknown_scale_are_refused_by_name(wave):
    with pytest.raises(ValueError, match="a recording of int64; give float"):
        make_model(False).separate(wave)


def test_each_channel_is_separated_on_its_own_and_one_can_be_chosen():
    model, stereo = make_model(True), np.stack([noise(3000), 0.5 * noise(3000, 1)])
    each = model.separate(stereo, 16000, channels="each")
    assert each.shape == (2, 2, 3000)
    for k in (1, 2):
        alone = model.separate(stereo[k - 1], 16000)
        np.testing.assert_allclose(each[k - 1], alone, atol=1e-6)
        np.testing.assert_array_equal(model.separate(stereo, 16000, channels=k), alone)
    with pytest.raises(ValueError, match="channels 3: the recording has 2"):
        model.separate(stereo, channels=3)


def test_of_channels_past_full_scale_all_voices_are_lowered_together():
    model, stereo = make_model(False), np.stack([noise(2000), 1e6 * noise(2000)])
    quiet = model.separate_recording(stereo[:1], 8000, "none", channels="each")
    both = model.separate_recording(stereo, 8000, "none", channels="each")
    assert both.scale < 1
    np.testing.assert_allclose(
        both.estimates[0], quiet.estimates[0] * both.scale, rtol=1e-4, atol=1e-12
    )


def test_channels_in_opposite_phase_are_not_averaged_to_silence():
    model, wave = make_model(False), noise(2000)
    stereo = np.stack([0.9 * wave, -wave])
    with pytest.warns(
        UserWarning,
        match="opposite phase and cancel when averaged; separating the strongest, channel 2",
    ):
        found = model.separate_recording(stereo, 8000)
    assert found.channels == 2
    np.testing.assert_array_equal(found.estimates, model.separate(-wave))


def test_a_rate_of_0_is_not_taken_for_the_networks_own():
    for separate in (lambda model: model.separate(noise(100), 0), lambda model: model.stream(0)):
        with pytest.raises(ValueError, match="a sample rate of 0 Hz"):
            separate(make_model(False))


def test_integers_come_out_as_floating_point():
    assert (
        make_model(False).separate(torch.randint(-3000, 3000, (800,), dtype=torch.int16)).dtype
        == torch.float32
    )


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
def test_voices_have_the_rate_and_length_of_the_recording(rate):
    assert make_model(False).separate(noise(rate // 3), rate).shape == (2, rate // 3)


def test_channels_are_averaged():
    model, stereo = make_model(False), np.stack([noise(2000), noise(2000, 1)])
    np.testing.assert_allclose(model.separate(stereo), model.separate(stereo.mean(0)), atol=1e-7)


def test_a_second_call_knows_nothing_of_the_first():
    model, wave = make_model(True), noise(2000)
    first = model.separate(wave)
    model.separate(noise(3000, 5))
    np.testing.assert_array_equal(model.separate(wave), first)


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(0),
        np.zeros((2, 3, 4)),
        np.zeros((100, 2)),
        np.array([0.1, np.nan]),
        np.array([np.inf]),
    ],
)
def test_what_is_no_recording_is_refused(wave):
    with pytest.raises(ValueError, match="recording"):
        make_model(False).separate(wave)


def test_silence_stays_silence():
    assert (make_model(True).separate(np.zeros(500, np.float32)) == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(0.01, 100), st.booleans())
def test_match_mix_finds_the_gains_that_make_the_mixture(seed, first, second, wrong):
    """Against brute force over a grid of gains around its answer."""
    rng = np.random.default_rng(seed)
    voices = rng.normal(0, 0.01, (2, 300))
    mixture = voices.sum(0) if not wrong else rng.normal(0, 0.01, 300)
    estimates = voices * [[first], [second]]
    leveled, scale = set_level(estimates, mixture, "match-mix")
    assert scale == 1
    if not wrong:
        np.testing.assert_allclose(leveled, voices, atol=1e-6)
    error = np.square(leveled.sum(0) - mixture).sum()
    for a, b in itertools.product((0.0, 0.9, 1.0, 1.1), repeat=2):
        assert error <= np.square(a * leveled[0] + b * leveled[1] - mixture).sum() + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_gains_of_any_number_of_voices_are_those_of_a_solver(seed, n_speakers):
    rng = np.random.default_rng(seed)
    voices, mixture = rng.normal(0, 0.01, (n_speakers, 50)), rng.normal(0, 0.02, 50)
    meter = LevelMeter(n_speakers)
    meter.add(voices, mixture)
    gains, scale = meter.gains("match-mix")
    np.testing.assert_allclose(gains / scale, nnls(voices.T, mixture)[0], atol=1e-6)


def test_match_mix_never_turns_a_voice_over():
    voice = noise(300).astype(np.float64)
    leveled, _ = set_level(np.stack([voice, -voice]), voice, "match-mix")
    np.testing.assert_allclose(leveled[0], voice, atol=1e-6)
    assert (leveled[1] == 0).all()


def test_peak_brings_every_voice_to_its_peak_and_leaves_silence():
    leveled, _ = set_level(
        np.stack([noise(100) * 50, noise(100, 1) * 0.01, np.zeros(100)]), np.zeros(100), "peak"
    )
    np.testing.assert_allclose(np.abs(leveled).max(1), [0.9, 0.9, 0], rtol=1e-6)


def test_voices_past_full_scale_are_lowered_together():
    estimates = np.stack([noise(100) * 50, noise(100, 1) * 5])
    leveled, scale = set_level(estimates, np.zeros(100), "none")
    assert np.abs(leveled).max() == pytest.approx(1)
    np.testing.assert_allclose(leveled, estimates * scale, rtol=1e-5)


def test_the_model_of_an_experiment_is_the_spiking_one_unless_asked(tmp_path):
    for kind in ("ann", "snn"):
        save_separator(make_model(kind == "snn").separator, tmp_path / kind)
    assert load_model(tmp_path).kind == "snn"
    assert load_model(tmp_path, "ann").kind == "ann"
    assert spikesep.load_model(tmp_path / "ann").kind == "ann"
    with pytest.raises(SpikeSepError, match="is of kind ann"):
        load_model(tmp_path / "ann", "snn")
    with pytest.raises(SpikeSepError, match="holds no model"):
        load_model(tmp_path / "elsewhere")
    with pytest.raises(SpikeSepError, match="--device tpu9"):
        load_model(tmp_path, device="tpu9")
