import json

import numpy as np
import pytest
import torch
from helpers.tracks import TINY, tiny_embedder

from spikesep.errors import SpikeSepError
from spikesep.separation.tracks.embedder import load_embedder, pooled_sums, save_embedder
from spikesep.separation.tracks.stretches import StretchCollector

HOP = TINY.hop


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def test_features_do_not_depend_on_the_level():
    voice = torch.from_numpy(noise(1, 8000))
    embedder = tiny_embedder()
    torch.testing.assert_close(
        embedder.features(voice), embedder.features(voice * 8), atol=2e-3, rtol=2e-3
    )


def test_autocorrelation_peaks_at_the_period_of_a_voice():
    period = 80
    pulses = torch.zeros(1, 8000)
    pulses[:, ::period] = 1.0
    features = tiny_embedder().features(pulses)[0, TINY.n_filters :, 5:-5]
    lags = np.round(np.logspace(np.log10(20), np.log10(160), TINY.n_lags))
    assert features.mean(1).argmax() == np.abs(lags - period).argmin()


def test_an_embedding_is_pooled_over_weighted_frames_alone():
    embedder = tiny_embedder()
    potential = torch.randn(2, TINY.n_potentials, 30)
    weights = (torch.arange(30) < 20).float().expand(2, -1)
    expected = embedder.decode(potential[..., :20], weights[:, :20])
    torch.testing.assert_close(embedder.decode(potential, weights), expected)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(2))
    _, total, squares = pooled_sums(potential, weights)
    torch.testing.assert_close(total, potential[..., :20].sum(2))
    torch.testing.assert_close(squares, potential[..., :20].square().sum(2))


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("chunk", [7, 64])
def test_stretches_embed_what_the_whole_signal_would(spiking, chunk):
    embedder, n_frames = tiny_embedder(spiking), 100
    voices = noise(2, n_frames * HOP)
    active = np.ones((2, n_frames), bool)
    active[1, 40:] = False
    collector = StretchCollector(embedder, 2, 8000, longest=1000, chunk=chunk)
    for k in range(0, n_frames, 9):
        part = slice(k * HOP, (k + 9) * HOP)
        collector.push(voices[:, part], active[:, k : k + 9])
    collector.flush()
    with torch.inference_mode():
        padded = torch.nn.functional.pad(torch.from_numpy(voices), (0, TINY.context * HOP))
        potential = embedder.network(embedder.features(padded))[..., :n_frames]
        bounds = [(0, 40), (40, 100)]
        expected = [
            embedder.decode(potential[..., a:b], torch.ones(2, b - a)).numpy() for a, b in bounds
        ]
    assert [(s.start, s.stop) for s in collector.stretches] == bounds
    first, second = collector.stretches
    np.testing.assert_allclose(first.embeddings, expected[0], atol=1e-4)
    np.testing.assert_allclose(second.embeddings[0], expected[1][0], atol=1e-4)
    assert not second.embeddings[1].any()
    np.testing.assert_allclose(second.seconds, [1.2, 0.0])


def test_no_stretch_is_longer_than_the_longest():
    collector = StretchCollector(tiny_embedder(), 1, 16000, longest=30, chunk=25)
    collector.push(noise(1, 70 * 320), np.ones((1, 70), bool))
    collector.flush()
    assert [(s.start, s.stop) for s in collector.stretches] == [(0, 30), (30, 60), (60, 70)]


@pytest.mark.parametrize("spiking", [False, True])
def test_a_saved_embedder_is_loaded_unchanged(tmp_path, spiking):
    embedder, voice = tiny_embedder(spiking), torch.from_numpy(noise(1, 4000))
    save_embedder(embedder, tmp_path / "tracks")
    loaded = load_embedder(tmp_path / "tracks")
    with torch.inference_mode():
        features = embedder.features(voice)
        assert torch.equal(loaded.features(voice), features)
        assert torch.equal(loaded.network(features), embedder.network(features))


def test_a_changed_embedder_is_refused(tmp_path):
    save_embedder(tiny_embedder(), tmp_path / "tracks")
    config = tmp_path / "tracks" / "config.json"
    settings = json.loads(config.read_text())
    settings["model"]["n_lags"] = 5
    config.write_text(json.dumps(settings))
    with pytest.raises(SpikeSepError, match=str(tmp_path)):
        load_embedder(tmp_path / "tracks")
