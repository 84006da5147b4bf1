import json

import pytest
import torch
from helpers.separators import tiny_separator, to_spiking
from safetensors.torch import load_file, save_file

from spikesep.errors import SpikeSepError
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator import (
    ChannelNorm,
    Separator,
    load_separator,
    save_separator,
)
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.training.records.model_folder import checksum


def separator(n_converted=0, **sizes):
    """Build a tiny separator whose first layers are converted."""
    sizes = {"dilations": [1, 2, 4], "identity": "sum"} | sizes
    return to_spiking(tiny_separator(has_norm_statistics=True, **sizes), n_layers=n_converted)


@pytest.mark.parametrize("n_samples", [1, 9, 10, 11, 20, 333, 8000])
def test_estimates_have_the_length_of_the_mixture(n_samples):
    assert separator()(torch.randn(2, n_samples)).shape == (2, 2, n_samples)


@pytest.mark.parametrize("n_speakers", [2, 3])
def test_there_is_an_estimate_for_each_speaker(n_speakers):
    model = separator(n_speakers=n_speakers)
    assert model.separate(torch.randn(500)).shape == (n_speakers, 500)


def test_default_is_the_network_of_the_paper():
    model = Separator(SeparatorConfig())
    assert model.encoder.filterbank.n_filters == 512
    assert (model.encoder.filterbank.kernel_size, model.stride) == (20, 10)
    dilated = [layer.synapse for layer in model.network.layers.values()][1:]
    assert [c.dilation for c in dilated] == [(2**k,) for k in range(10)]
    assert {(c.in_channels, c.out_channels, c.kernel_size) for c in dilated} == {(512, 512, (3,))}
    assert model.network.readout.synapse.out_channels == 2 * 512


def test_channel_norm_normalizes_each_frame():
    x = torch.randn(2, 16, 7, dtype=torch.float64)
    norm = ChannelNorm(16).double()
    torch.nn.init.normal_(norm.gain)
    torch.nn.init.normal_(norm.bias)
    out = norm(x)
    for b in range(2):
        for k in range(7):
            frame = x[b, :, k]
            expected = (frame - frame.mean()) / (frame.var(correction=0) + 1e-8).sqrt() * norm.gain[
                :, 0
            ] + norm.bias[:, 0]
            torch.testing.assert_close(out[b, :, k], expected)


def test_estimates_of_silence_are_silent():
    assert separator()(torch.zeros(1, 400)).abs().max() == 0


@pytest.mark.parametrize("n_converted", [0, 4])
def test_estimates_depend_on_the_context_only(n_converted):
    model = separator(n_converted=n_converted)
    mixture = torch.randn(4000)
    changed = mixture.clone()
    changed[2000 + model.context :] = 0
    changed[: 1000 - model.context] = 0
    before, after = model.separate_conditioned(mixture), model.separate_conditioned(changed)
    torch.testing.assert_close(before[:, 1000:2000], after[:, 1000:2000], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 2000:], after[:, 2000:])


@pytest.mark.parametrize("n_converted", [0, 2, 4])
def test_saved_separator_is_loaded_unchanged(tmp_path, n_converted):
    model = separator(n_converted=n_converted)
    save_separator(model, tmp_path / "model", report=[{"layer": "bottleneck"}])
    loaded = load_separator(tmp_path / "model")
    mixture = torch.randn(1000)
    assert loaded.kind == ("snn" if n_converted == 4 else "ann")
    assert torch.equal(loaded.separate(mixture), model.separate(mixture))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "report.json",
    ]


def test_saved_fixed_point_separator_is_loaded_unchanged_and_smaller(tmp_path):
    model = separator(n_converted=4, n_channels=12)
    save_separator(model, tmp_path / "float")
    to_fixed_point(model.network, [model.encode(torch.randn(1, 800))[0]])
    save_separator(model, tmp_path / "fixed")
    again = load_separator(tmp_path / "fixed")
    assert again.network.is_fixed_point
    assert all(
        torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items()
    )
    mixture = torch.randn(800)
    assert torch.equal(model.separate(mixture), again.separate(mixture))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("float", "fixed")]
    assert sizes[1] < sizes[0]


def test_integers_of_another_type_or_range_are_rejected(tmp_path):
    model = separator(n_converted=4)
    to_fixed_point(model.network, [model.encode(torch.randn(1, 800))[0]])
    save_separator(model, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    whole = load_file(path)
    key = "network.layers.dilated1.fixed"
    for name, tensor, message in (
        ("weight", whole[f"{key}.weight"].float() * 0.5, "is not int8"),
        ("threshold", whole[f"{key}.threshold"].float(), "torch.float32 .*, not torch.int32"),
        ("fraction", torch.tensor(25), "layer dilated1: its integers are out of range"),
    ):
        save_file({**whole, f"{key}.{name}": tensor}, path)
        settings = json.loads((tmp_path / "model" / "config.json").read_text())
        break_config(tmp_path / "model", sha256=checksum(settings, load_file(path)))
        with pytest.raises(SpikeSepError, match=message):
            load_separator(tmp_path / "model")


def break_config(folder, **changes):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))


def test_missing_model_is_rejected_by_name(tmp_path):
    with pytest.raises(SpikeSepError, match="nowhere: no such model;"):
        load_separator(tmp_path / "nowhere")
