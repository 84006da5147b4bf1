"""Causal separators: what an estimate depends on, probed, and the forms that such a model takes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.recipes import RECIPE, link_data
from helpers.separators import tiny_separator

from spikesep.cli.common.options import recipe_parser, to_recipe
from spikesep.errors import SpikeSepError
from spikesep.separation.experiment import convert_snn, train_ann
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.initial_models import load_initial
from spikesep.separation.model.asteroid import SpikeSepModel
from spikesep.separation.model.growth import can_grow, grow
from spikesep.separation.model.latency import delays_of
from spikesep.separation.model.nir import save_nir
from spikesep.separation.model.separator import load_separator, save_separator
from spikesep.separation.model.stream import SeparatorStream
from spikesep.spiking import run_nir

SIZES = {"dilations": [1, 4, 2], "has_norm_statistics": True}


def first_change(separate, wave, at):
    """The first output sample that changes with the input from sample `at` on, [..., n]."""
    changed = wave.copy()
    changed[at:] = np.random.default_rng(1).normal(0, 0.1, len(wave) - at)
    differs = (separate(wave) != separate(changed)).reshape(-1, len(wave)).any(0)
    return int(np.flatnonzero(differs)[0])


@pytest.mark.parametrize("identity", ["none", "sum", "folded"])
@pytest.mark.parametrize("causal", [False, True])
def test_an_estimate_depends_on_what_the_separator_says_to_the_sample(causal, identity):
    model = tiny_separator(causal=causal, identity=identity, **SIZES)
    wave = np.random.default_rng(0).normal(0, 0.1, 600).astype(np.float32)

    def separate(samples):
        with torch.no_grad():
            return model(torch.from_numpy(samples)[None]).numpy()

    ahead = [at - first_change(separate, wave, at) for at in range(300, 320)]
    assert max(ahead) == model.look_ahead - 1
    assert model.look_ahead == (20 if causal else 7 * 10 + 20)
    assert causal == (max(ahead) < model.config.kernel_size)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_stream_depends_on_no_later_sample_than_its_latency_says(causal, rate):
    model = Model(tiny_separator("fixed", causal=causal, **SIZES), band="network")
    wave = np.random.default_rng(0).normal(0, 0.1, rate // 2).astype(np.float32)

    def separate(samples):
        stream = model.stream(rate)
        return np.concatenate([stream.push(samples), stream.flush()], axis=1)

    delays = model.stream(rate).delays
    allowed = (delays.total - delays.block) * rate
    cell = 0.01 * rate  # the conditioner interpolates within a cell
    for at in range(rate // 4, rate // 4 + rate // 100, rate // 800):
        assert at - first_change(separate, wave, at) <= allowed + cell
    assert (delays.total <= 0.04) == causal


@pytest.mark.parametrize("kind", ["ann", "snn", "fixed"])
@pytest.mark.parametrize("causal", [False, True])
def test_estimates_arrive_in_time_and_equal_those_of_one_pass(kind, causal):
    model = tiny_separator(kind, causal=causal, identity="folded", **SIZES)
    for n in (1, 10, 1237):
        mixture = torch.randn(n)
        stream, pieces = SeparatorStream(model), []
        for start in range(0, n, 80):
            pieces.append(stream.push(mixture[start : start + 80]))
            n_pushed, n_found = min(n, start + 80), sum(piece.shape[1] for piece in pieces)
            assert n_pushed - n_found < model.look_ahead
        found = torch.cat([*pieces, stream.flush()], 1)
        expected = model.separate_conditioned(mixture)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if kind != "fixed" else 0)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("block_seconds", [None, 0.013])
def test_no_sample_waits_longer_than_the_latency(rate, block_seconds):
    model = Model(tiny_separator("fixed", causal=True, **SIZES))
    stream, pushed, returned, longest = model.stream(rate, block_seconds), 0, 0, 0
    wave = np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
    for block in np.array_split(wave, 400):
        pushed += len(block)
        longest = max(longest, pushed - len(block) - returned)
        returned += stream.push(block).shape[1]
    assert longest <= stream.latency * rate


def test_short_filters_and_deferred_windows_add_nothing():
    model = tiny_separator(causal=True)
    assert delays_of(model).total == pytest.approx(0.01 + 0.02 + 0.00125)
    assert delays_of(model, 16000).resampling < 0.004
    assert str(delays_of(model)) == "31 ms (network 1.2, conditioning 10.0, block 20.0)"


def test_saved_and_asteroid_models_stay_causal(tmp_path):
    model = tiny_separator("fixed", causal=True)
    save_separator(model, tmp_path / "model")
    loaded = load_separator(tmp_path / "model")
    assert loaded.config.causal
    mixture = torch.randn(500)
    again = SpikeSepModel.from_pretrained(SpikeSepModel.from_separator(loaded).serialize())
    for other in (loaded, again.separator):
        assert torch.equal(other.separate_conditioned(mixture), model.separate_conditioned(mixture))


def test_causal_separators_grow_into_causal_ones_only(tmp_path):
    small = tiny_separator(causal=True, has_norm_statistics=True)
    more = replace(small.config, n_speakers=3)
    mixture = torch.randn(1, 400)
    torch.testing.assert_close(grow(small, more).eval()(mixture)[:, :2], small(mixture))
    assert not can_grow(small.config, replace(more, causal=False))
    save_separator(small, tmp_path / "small")
    with pytest.raises(SpikeSepError, match=r"has model\.causal = True, not False"):
        load_initial(tmp_path / "small", replace(RECIPE, model=replace(small.config, causal=False)))


def test_nir_graph_of_a_causal_network_fires_its_spikes(tmp_path):
    nir = pytest.importorskip("nir", reason="the extra nir is not installed")
    model = tiny_separator("fixed", causal=True, identity="sum", **SIZES)
    save_nir(model, tmp_path / "network.nir", 200)
    features, _ = model.encode_in_float64(torch.randn(1, 200))
    potential = run_nir(nir.read(tmp_path / "network.nir"), features.detach().numpy()).potential
    with torch.no_grad():
        np.testing.assert_allclose(potential, model.network(features), atol=1e-5)


def test_onnx_graph_of_a_causal_network_separates_alike():
    pytest.importorskip("onnx", reason="the extra export is not installed")
    from helpers.exports.onnx_sessions import run_onnx

    from spikesep.separation.model.onnx import to_onnx

    model = tiny_separator("ann", causal=True, identity="folded", **SIZES)
    mixture = torch.randn(1, 300)
    voices = run_onnx(to_onnx(model), mixture=mixture)["voices"]
    np.testing.assert_allclose(voices, model(mixture).detach(), atol=1e-5)


def test_settings_for_live_sound_train_and_convert(kept_experiment, tmp_path):
    data = link_data(kept_experiment, tmp_path / "data")
    argv = ["--config", "egs/free-2mix/conf/live.yaml", "--exp", "exp"]
    parser = recipe_parser("test", "")
    recipe = to_recipe(parser.instantiate(parser.parse_args(argv)))
    assert recipe.model.causal
    assert delays_of(tiny_separator(kernel_size=recipe.model.kernel_size, causal=True)).total < 0.04
    tiny = replace(
        recipe,
        mixing=RECIPE.mixing,
        model=replace(recipe.model, n_filters=8, n_channels=8, dilations=[1, 2]),
        train=RECIPE.train,
        convert=replace(
            recipe.convert,
            fan_in=0,
            pruning=RECIPE.convert.pruning,
            budget=RECIPE.convert.budget,
            segment_seconds=0.5,
            train_segments=3,
            valid_segments=2,
            first_stage_epochs=1,
        ),
    )
    train_ann(data, tmp_path / "exp", tiny)
    folder, _ = convert_snn(data, tmp_path / "exp", tiny)
    model = load_separator(folder)
    assert model.kind == "snn"
    assert (model.look_ahead, model.network.is_fixed_point) == (20, True)
