"""A separator in onnxruntime: the counts of the network and the voices of the separator."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exports.onnx_sessions import run_onnx, session
from helpers.paths import ROOT
from helpers.separators import tiny_separator, to_spiking

from spikesep.errors import SpikeSepError
from spikesep.separation.model.hub import find_model
from spikesep.separation.model.onnx import save_onnx, to_onnx
from spikesep.separation.model.separator import load_separator
from spikesep.spiking import to_fixed_point
from spikesep.spiking.levels.network import begin_levels

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def separator(kind, identity="none", **sizes):
    made = tiny_separator("ann", has_norm_statistics=True, identity=identity, **sizes)
    if kind == "snn":
        to_spiking(made, deferred=True)
        with torch.no_grad():
            to_fixed_point(made.network, [made.encode_in_float64(torch.randn(1, 4000))[0]])
    return made


def separated(model, mixture):
    """Voices and, by layer, outputs of our engines for one mixture."""
    outputs = {}
    voices = model.separate_conditioned(
        mixture, lambda name, layer, signal, out: outputs.setdefault(name, out)
    )
    return voices, outputs


@pytest.mark.parametrize("block", ["dense", "separable"])
@pytest.mark.parametrize("identity", ["none", "sum", "folded"])
@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_voices_and_counts_are_those_of_the_separator(kind, identity, block):
    model = separator(kind, identity, block=block)
    runner, names = session(to_onnx(model))
    assert len(names) == 1 + (len(model.network) if kind == "snn" else 0)
    for n_samples in (1, 2, 7, 40, 801):  # complete frames or not
        mixture = torch.randn(n_samples)
        expected, outputs = separated(model, mixture)
        voices, *found = runner.run(None, {"mixture": mixture[None].numpy()})
        assert voices.shape == (1, 2, n_samples)
        np.testing.assert_allclose(voices[0], expected, atol=1e-4)
        for name, count in zip(names[1:], found, strict=True):
            np.testing.assert_array_equal(count, outputs[name.removeprefix("count_")].count)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_analog_separators_with_levels_round_in_onnx_too(per):
    model, mixture = separator("ann"), torch.randn(801)
    features, _ = model.encode(mixture[None])
    begin_levels(model.network, features, n_steps=4, per=per, shift=0.25)
    for layer in model.network.layers.values():
        step = layer.levels.step.detach()
        layer.levels.set_step(step * (0.5 + torch.rand(step.shape)))
    runner, _ = session(to_onnx(model.eval()))
    (voices,) = runner.run(None, {"mixture": mixture[None].numpy()})
    np.testing.assert_allclose(voices[0], model.separate_conditioned(mixture), atol=1e-4)


def test_blocks_that_overlap_by_the_context_give_the_voices_of_the_whole():
    model = separator("snn", "sum")
    runner, _ = session(to_onnx(model))
    context = -(-model.context // model.stride) * model.stride
    mixture = np.random.default_rng(0).normal(size=(1, 60 * model.stride)).astype(np.float32)
    whole, middle = runner.run(None, {"mixture": mixture})[0], 30 * model.stride
    ends = [(0, middle), (middle, mixture.shape[1])]
    for begin, end in ends:
        first = max(0, begin - context)
        block = runner.run(None, {"mixture": mixture[:, first : end + context]})[0]
        part = block[..., begin - first :][..., : end - begin]
        np.testing.assert_allclose(part, whole[..., begin:end], atol=1e-6)


def test_batches_and_three_voices():
    model = separator("ann", n_speakers=3)
    mixtures = torch.randn(2, 100)
    voices = run_onnx(to_onnx(model), mixture=mixtures)["voices"]
    np.testing.assert_allclose(voices, model(mixtures).detach(), atol=1e-5)


@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_shipped_model_separates_the_same(kind):
    model = load_separator(find_model(network=kind))
    mixture = 0.17 * torch.randn(1600)
    expected, outputs = separated(model, mixture)
    found = run_onnx(to_onnx(model), mixture=mixture[None])
    np.testing.assert_allclose(found.pop("voices")[0], expected, atol=1e-4)
    for name, count in found.items():
        np.testing.assert_array_equal(count, outputs[name.removeprefix("count_")].count)


def test_file_says_what_it_needs_and_failures_leave_none(tmp_path):
    model = separator("snn")
    save_onnx(model, tmp_path / "separator.onnx")
    made = onnx.load(tmp_path / "separator.onnx")
    properties = {entry.key: entry.value for entry in made.metadata_props}
    assert {name: value for name, value in properties.items() if name != "kind"} == {
        "sample_rate": "8000",
        "n_speakers": "2",
        "stride": str(model.stride),
        "context": str(model.context),
        "look_ahead": str(model.look_ahead),
        "conditioning_cells": "10",
    }
    assert properties["kind"] == "snn"
    with pytest.raises(SpikeSepError, match="deferred: true"):
        save_onnx(tiny_separator("fixed"), tmp_path / "other.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["separator.onnx"]


def test_conditioning_of_the_guide_is_that_of_the_separator(tmp_path, monkeypatch):
    """The numpy of docs/onnx.md around the graph separates as `Separator.separate`."""
    page = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```py\n(.*?)^```$", page, re.M | re.S)
    model = separator("snn", "sum")
    save_onnx(model, tmp_path / "separator.onnx")
    monkeypatch.chdir(tmp_path)
    guide = {}
    exec(compile(code, "docs/onnx.md", "exec"), guide)
    for n_samples in (30, 800, 2345):
        mixture = 0.3 + torch.linspace(0.01, 2, n_samples) * torch.randn(n_samples)
        voices = guide["separate"](mixture.double().numpy())
        np.testing.assert_allclose(voices, model.separate(mixture), atol=2e-4)
    assert Path("separator.onnx").exists()
