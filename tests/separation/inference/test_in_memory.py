from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.separators import tiny_separator

import spikesep
from spikesep.errors import SpikeSepError
from spikesep.separation.inference.in_memory import Model, load_model
from spikesep.separation.model.separator import save_separator


def make_model(spiking):
    separator = tiny_separator(
        "snn" if spiking else "ann",
        has_norm_statistics=True,
        dilations=[1, 2, 4],
        identity="sum",
    )
    return Model(separator)


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32)


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("seconds", [0.05, 0.1234, 0.5])
def test_voices_do_not_depend_on_the_block_length(spiking, seconds):
    model, wave = make_model(spiking), noise(9001)
    whole = model.separate(wave, 8000, "none", 100.0)
    np.testing.assert_allclose(
        model.separate(wave, 8000, "none", seconds), whole, rtol=0, atol=1e-5
    )


def test_tensors_are_separated_into_tensors():
    model, wave = make_model(True), noise(2000)
    out = model.separate(torch.from_numpy(wave))
    assert isinstance(out, torch.Tensor)
    np.testing.assert_array_equal(out.numpy(), model.separate(wave))


@pytest.mark.parametrize(
    ("dtype", "zero", "full"), [("int16", 0, 2**15), ("int32", 0, 2**31), ("uint8", 128, 128)]
)
def test_integer_samples_are_scaled_by_their_type(dtype, zero, full):
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
def test_unknown_integer_types_are_rejected(wave):
    with pytest.raises(ValueError, match="a recording of int64; give float"):
        make_model(False).separate(wave)


def test_channels_can_be_separated_individually():
    model, stereo = make_model(True), np.stack([noise(3000), 0.5 * noise(3000, 1)])
    each = model.separate(stereo, 16000, channels="each")
    assert each.shape == (2, 2, 3000)
    for k in (1, 2):
        alone = model.separate(stereo[k - 1], 16000)
        np.testing.assert_allclose(each[k - 1], alone, atol=1e-6)
        np.testing.assert_array_equal(model.separate(stereo, 16000, channels=k), alone)
    with pytest.raises(ValueError, match="channels 3: the recording has 2"):
        model.separate(stereo, channels=3)


def test_voices_of_all_channels_are_attenuated_together():
    model, stereo = make_model(False), np.stack([noise(2000), 1e6 * noise(2000)])
    quiet = model.separate_recording(stereo[:1], 8000, "none", channels="each")
    both = model.separate_recording(stereo, 8000, "none", channels="each")
    assert both.scale < 1
    np.testing.assert_allclose(
        both.estimates[0], quiet.estimates[0] * both.scale, rtol=1e-4, atol=1e-12
    )


def test_strongest_of_cancelling_channels_is_separated():
    model, wave = make_model(False), noise(2000)
    stereo = np.stack([0.9 * wave, -wave])
    with pytest.warns(
        UserWarning,
        match="opposite phase and cancel when averaged; separating the strongest, channel 2",
    ):
        found = model.separate_recording(stereo, 8000)
    assert found.channels == 2
    np.testing.assert_array_equal(found.estimates, model.separate(-wave))


def test_sample_rate_0_is_not_the_default():
    for separate in (lambda model: model.separate(noise(100), 0), lambda model: model.stream(0)):
        with pytest.raises(ValueError, match="a sample rate of 0 Hz"):
            separate(make_model(False))


def test_voices_of_integer_samples_are_floats():
    assert (
        make_model(False).separate(torch.randint(-3000, 3000, (800,), dtype=torch.int16)).dtype
        == torch.float32
    )


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
def test_voices_have_the_length_of_the_recording(rate):
    assert make_model(False).separate(noise(rate // 3), rate).shape == (2, rate // 3)


def test_channels_are_averaged_by_default():
    model, stereo = make_model(False), np.stack([noise(2000), noise(2000, 1)])
    np.testing.assert_allclose(model.separate(stereo), model.separate(stereo.mean(0)), atol=1e-7)


def test_calls_are_independent():
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
def test_invalid_arrays_are_rejected(wave):
    with pytest.raises(ValueError, match="recording"):
        make_model(False).separate(wave)


def test_voices_of_silence_are_silent():
    assert (make_model(True).separate(np.zeros(500, np.float32)) == 0).all()


def test_load_model_prefers_the_spiking_network_of_an_experiment(tmp_path):
    for kind in ("ann", "snn"):
        save_separator(make_model(kind == "snn").separator, tmp_path / kind)
    assert load_model(tmp_path).kind == "snn"
    assert load_model(tmp_path, "ann").kind == "ann"
    assert spikesep.load_model(tmp_path / "ann").kind == "ann"
    with pytest.raises(SpikeSepError, match="is of kind ann"):
        load_model(tmp_path / "ann", "snn")
    with pytest.raises(SpikeSepError, match="contains no model"):
        load_model(tmp_path / "elsewhere")
    with pytest.raises(SpikeSepError, match="--device tpu9"):
        load_model(tmp_path, device="tpu9")


def test_separate_files_continues_after_an_unreadable_file(tmp_path, monkeypatch):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.full(800, 0.1), 8000)
    opened = Path.open

    def open_file(path, *args, **options):
        if path.name == "a.wav":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", open_file)
    errors = {}
    model = Model(tiny_separator())
    found = list(
        model.separate_files([tmp_path / "a.wav", tmp_path / "b.wav"], on_error=errors.__setitem__)
    )
    assert [path.name for path, _ in found] == ["b.wav"]
    assert "cannot be read (Permission denied)" in str(errors[tmp_path / "a.wav"])
