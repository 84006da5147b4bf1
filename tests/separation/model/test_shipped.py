"""The shipped model: small, identical on every engine, and able to separate voices."""

import re

import numpy as np
import pytest
import soundfile
import torch
from helpers.paths import SHARED

import spikesep
from spikesep.separation.audio.files import resample
from spikesep.separation.model.hub import PRETRAINED, find_model
from spikesep.separation.objective import NegativeSiSdr

LIBRISPEECH = SHARED / "corpora" / "LibriSpeech"
FOLDER = find_model().parent
HELD_OUT = ("1081", "1098", "2384", "1183", "307", "198", "2911", "2391")
"""Speakers of `tt` in egs/free-2mix with seed 0, alternately a man and a woman."""
LEAST_GAIN_DB = 7.0


@pytest.fixture(scope="module")
def model():
    return spikesep.load_model()


def voice(seed, seconds=2.0):
    """Return syllables of harmonics with a gliding pitch, float32 at 8 kHz.

    They resemble speech enough to drive a trained network.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(round(8000 * seconds)) / 8000
    pitch = rng.uniform(90, 250) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / 8000
    sound = sum(np.sin(k * phase) / k for k in range(1, 14))
    return (0.1 * sound * np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * time), 0, None)).astype(
        np.float32
    )


def test_shipped_networks_are_small(model):
    sizes = {
        name: sum(path.stat().st_size for path in (FOLDER / name).iterdir())
        for name in ("snn", "ann")
    }
    assert sizes["snn"] < 5e6
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*") if path.is_file()) < 12e6
    network = model.separator.network
    assert model.kind == "snn"
    assert network.is_fixed_point
    assert all(layer.fixed.weight.dtype == torch.int8 for layer in network.layers.values())
    assert spikesep.load_model(network="ann").separator.config == model.separator.config


def test_card_states_scores_costs_and_limits():
    card = (FOLDER / "snn" / "README.md").read_text(encoding="utf-8")
    for said in (
        "SI-SDR",
        "PESQ",
        "STOI",
        "synaptic operations",
        "8000 Hz",
        "seed",
        "LibriSpeech",
        "reverberation",
        "70% of the ANN's connections",
    ):
        assert said in card, said
    assert not re.search(r"(^|[\s`(])/(tmp|home|root|work)/", card), (
        "the card shows a path of a machine"
    )


def test_engines_fire_the_same_spikes(model):
    mixture = torch.from_numpy(voice(1) + voice(2))
    network, found = model.separator.network, {}
    for engine in ("dense", "event", "auto"):
        network.use_engine(engine)
        outs = found.setdefault(engine, {})
        with torch.inference_mode():
            features, _ = model.separator.encode(mixture[None])
            network(
                features,
                observe=lambda name, layer, signal, out, outs=outs: outs.setdefault(name, out),
            )
    network.use_engine("auto")
    for name, layer in network.layers.items():
        words = found["dense"][name].trains[0].words
        assert words.any(), name
        assert torch.equal(words, found["event"][name].trains[0].words), name
        assert torch.equal(words, found["auto"][name].trains[0].words), name
        assert layer.ran_on


def test_spikes_cost_less_than_multiplications(model):
    """Sum over several mixtures, as in scoring; a dense one may cost a little more."""
    costs = [model.separate_recording(voice(k) + voice(k + 1), 8000).cost for k in range(1, 9, 2)]
    assert 0 < sum(costs[1:], costs[0]).synops_ratio < 1
    assert max(cost.synops_ratio for cost in costs) < 1.1


@pytest.fixture(scope="module")
def held_out():
    """Pairs of voices that the seed of the recipe holds out, a woman's and a man's, [4, 2, T]."""
    if not LIBRISPEECH.is_dir():
        pytest.skip("no ../shared/corpora/LibriSpeech beside the checkout")
    files = [sorted(LIBRISPEECH.glob(f"*/{speaker}/*/*.flac"))[0] for speaker in HELD_OUT]
    sounds = [resample(samples, rate, 8000)[:32000] for samples, rate in map(soundfile.read, files)]
    voices = np.stack([sound / sound.std() for sound in sounds]).astype(np.float32) * 0.05
    return voices.reshape(-1, 2, 32000)


def improvement(estimates, sources):
    """SI-SDR improvement in dB over the mixture of the sources, [2, T] both."""
    loss, target = NegativeSiSdr(), torch.from_numpy(sources)[None]
    mixture = torch.from_numpy(sources.sum(0)).expand(1, 2, -1)
    return float(loss(mixture, target) - loss(torch.from_numpy(estimates)[None], target))


def test_held_out_voices_are_separated(model, held_out):
    separated = [model.separate_recording(sources.sum(0), 8000) for sources in held_out]
    pairs = zip(separated, held_out, strict=True)
    assert np.mean([improvement(found.estimates, s) for found, s in pairs]) > LEAST_GAIN_DB
    costs = [found.cost for found in separated]
    assert sum(costs[1:], costs[0]).synops_ratio < 1


@pytest.mark.parametrize(("gain", "offset"), [(1e-4, 0), (1000, 0), (1, 0.2)])
def test_neither_gain_nor_offset_costs_quality(model, held_out, gain, offset):
    """Compare the first 2 s with those of the plain mixture."""
    loss = []
    for sources in held_out[..., :16000]:
        mixture = sources.sum(0)
        changed = np.float32(gain) * mixture + np.float32(offset)
        found = [model.separate(wave, level="none", tracks="off") for wave in (mixture, changed)]
        before, after = (improvement(estimates, sources) for estimates in found)
        loss.append(before - after)
    assert abs(np.mean(loss)) < 0.1
