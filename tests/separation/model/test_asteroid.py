import asteroid
import numpy as np
import pytest
import soundfile
import torch
from asteroid.dsp import LambdaOverlapAdd
from asteroid.models import BaseModel
from asteroid.separate import separate
from helpers.separators import tiny_separator

from spikesep.errors import SpikeSepError
from spikesep.separation.model.asteroid import SpikeSepModel
from spikesep.separation.model.separator import save_separator


@pytest.fixture(params=["ann", "snn", "fixed"])
def separator(request):
    return tiny_separator(request.param, n_steps=4, identity="sum")


@pytest.fixture
def model():
    return SpikeSepModel.from_separator(tiny_separator("fixed", n_steps=4, identity="sum"))


def test_model_is_a_base_model(separator):
    model = SpikeSepModel.from_separator(separator)
    assert isinstance(model, BaseModel)
    assert model.sample_rate == 8000
    assert model.in_channels is None
    assert not model.training


@pytest.mark.parametrize("shape", [(800,), (1, 800), (3, 800), (3, 1, 800)])
def test_forward_accepts_the_shapes_of_asteroid(separator, shape):
    wav = torch.randn(shape)
    with torch.no_grad():
        out = SpikeSepModel.from_separator(separator)(wav)
        expected = separator(wav.reshape(-1, 800))
    assert torch.equal(out, expected[0] if wav.ndim == 1 else expected)


@pytest.mark.parametrize("shape", [(), (0,), (1, 2, 800), (1, 1, 1, 800)])
def test_other_shapes_are_rejected(model, shape):
    with pytest.raises(ValueError, match="a mixture is"):
        model(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(800,), (2, 800), (2, 1, 800)])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_separate_accepts_arrays_and_tensors(model, shape, kind):
    wav = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    out = separate(model, kind(wav))
    assert isinstance(out, type(kind(wav)))
    plain = (
        model.separator.forward(torch.from_numpy(wav).reshape(-1, 800))
        .detach()
        .numpy()
        .reshape(out.shape)
    )
    scale = np.abs(wav).sum() / np.abs(plain).sum()  # asteroid scales all voices together
    np.testing.assert_allclose(np.asarray(out), plain * scale, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_separate_writes_the_voices_of_a_file(model, tmp_path, rate):
    soundfile.write(tmp_path / "mix.wav", np.random.default_rng(0).normal(0, 0.1, rate // 4), rate)
    model.separate(str(tmp_path / "mix.wav"), resample=True)
    for k in (1, 2):
        assert soundfile.info(tmp_path / f"mix_est{k}.wav").frames == rate // 4


def test_overlap_add_runs_on_the_model(model):
    chunks = LambdaOverlapAdd(model, n_src=2, window_size=400, hop_size=200)
    assert separate(chunks, torch.randn(1, 1, 2000)).shape == (1, 2, 2000)


def test_serialized_model_is_loaded_unchanged(separator):
    model = SpikeSepModel.from_separator(separator)
    wav = torch.randn(2, 800)
    for again in (
        SpikeSepModel.from_pretrained(model.serialize()),
        BaseModel.from_pretrained(model.serialize()),
    ):
        assert type(again) is SpikeSepModel
        assert torch.equal(again(wav), model(wav))
        assert again.separator.kind == separator.kind


def test_serialized_model_works_with_the_command_of_asteroid(model, tmp_path):
    from asteroid.scripts.asteroid_cli import infer

    torch.save(model.serialize(), tmp_path / "model.pth")
    soundfile.write(tmp_path / "mix.wav", np.random.default_rng(0).normal(0, 0.1, 2000), 8000)
    infer([str(tmp_path / "model.pth"), "--files", str(tmp_path / "mix.wav"), "--device", "cpu"])
    assert (tmp_path / "mix_est2.wav").exists()


def test_from_pretrained_never_unpickles(separator, tmp_path, monkeypatch):
    monkeypatch.setattr(asteroid.models.base_models.torch, "load", None)
    save_separator(separator, tmp_path / "model")
    wav = torch.randn(800)
    again = SpikeSepModel.from_pretrained(str(tmp_path / "model"))
    assert torch.equal(again(wav), SpikeSepModel.from_separator(separator)(wav))
    with pytest.raises(SpikeSepError, match=r"nowhere\.pth"):
        SpikeSepModel.from_pretrained(str(tmp_path / "nowhere.pth"))


def test_copy_is_independent_of_the_separator(separator):
    model = SpikeSepModel.from_separator(separator)
    with torch.no_grad():
        model.separator.norm.gain.zero_()
    assert (separator.norm.gain == 1).all()
