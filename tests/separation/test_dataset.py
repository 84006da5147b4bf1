from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from spikesep.errors import SpikeSepError
from spikesep.separation.dataset import Collate, FixedCrops, RandomCrops, remix, training_loader
from spikesep.separation.kaldi import Mixture
from spikesep.training.sampling import EpochSampler

RATE = 8000


@pytest.fixture
def mixtures(tmp_path):
    """Six mixtures of three speakers, each source a constant of its own, so that crops can be told apart."""
    rng = np.random.default_rng(0)
    result = []
    for i in range(6):
        speakers = [("a", "b"), ("b", "c"), ("c", "a")][i % 3]
        sources = []
        for s in range(2):
            path = tmp_path / f"{i}_{s}.wav"
            soundfile.write(path, rng.normal(0, 0.05, 4000 + 800 * i), RATE)
            sources.append(path)
        result.append(
            Mixture(f"{'_'.join(speakers)}-{i}", tmp_path / "unread.wav", tuple(sources), speakers, ("f", "m"))
        )
    return result


def test_a_crop_is_a_part_of_its_mixture(mixtures):
    crops = RandomCrops(mixtures, RATE, 1600, seed=1)
    for index in range(6):
        crop = crops[3, index]
        whole = np.stack([soundfile.read(p, dtype="float32")[0] for p in mixtures[index].sources])
        starts = [k for k in range(whole.shape[1] - 1599) if np.array_equal(whole[:, k : k + 1600], crop.sources)]
        assert len(starts) == 1
        assert crop.speakers == mixtures[index].speakers


def test_crops_follow_from_seed_epoch_and_index_alone(mixtures):
    one, other = (RandomCrops(mixtures, RATE, 1600, seed=1) for _ in range(2))
    other[0, 3]  # what was drawn before does not matter
    assert np.array_equal(one[2, 4].sources, other[2, 4].sources)
    assert not np.array_equal(one[2, 4].sources, one[3, 4].sources)


def test_a_mixture_shorter_than_the_crop_is_followed_by_zeros(mixtures):
    crop = RandomCrops(mixtures, RATE, 6000, seed=1)[0, 0]
    assert crop.sources.shape == (2, 6000)
    assert (crop.sources[:, 4000:] == 0).all()
    assert (crop.sources[:, :4000] != 0).any()


def test_an_epoch_has_every_mixture_once_in_an_order_of_its_own():
    sampler = EpochSampler(50, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert Counter(index for _, index in first) == Counter(range(50))
    assert {epoch for epoch, _ in second} == {1}
    assert [i for _, i in first] != [i for _, i in second]
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_batches_are_mixtures_and_their_sources(mixtures):
    loader = training_loader(mixtures, RATE, 1600, 4, 0, Collate(False, (0, 5)))
    batches = list(loader)
    assert len(batches) == 1  # the last, smaller one is left out
    mixture, sources = batches[0]
    assert (mixture.shape, sources.shape) == ((4, 1600), (4, 2, 1600))
    torch.testing.assert_close(mixture, sources.sum(1))


def test_random_polarity_turns_sources_and_the_mixture_stays_their_sum(mixtures):
    crops = RandomCrops(mixtures, RATE, 1600, 0)
    batch = [crops[0, k] for k in range(6)]
    mixture, sources = Collate(False, (0, 5), random_polarity=True)(batch)
    plain = torch.from_numpy(np.stack([crop.sources for crop in batch]))
    signs = torch.sign((sources * plain).sum(-1))
    torch.testing.assert_close(mixture, sources.sum(1))
    torch.testing.assert_close(sources, plain * signs[..., None])
    assert set(signs.flatten().tolist()) == {-1, 1}
    assert torch.equal(sources, Collate(False, (0, 5), random_polarity=True)(batch)[1])


def test_remixing_never_pairs_a_speaker_with_himself_and_keeps_every_source():
    rng = np.random.default_rng(0)
    sources = rng.normal(0, 0.1, (8, 2, 400)).astype(np.float32)
    speakers = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")] * 2
    owner = {k: speakers[k][1] for k in range(8)}
    changed = 0
    for seed in range(20):
        out = remix(sources, speakers, (0, 5), np.random.default_rng(seed))
        direction = out / np.linalg.norm(out, axis=-1, keepdims=True)
        original = sources / np.linalg.norm(sources, axis=-1, keepdims=True)
        assert np.allclose(direction[:, 0], original[:, 0], atol=1e-4)
        partner = (direction[:, 1] @ original[:, 1].T).argmax(1)
        assert sorted(partner) == list(range(8))
        assert all(speakers[k][0] != owner[j] for k, j in enumerate(partner))
        changed += (partner != np.arange(8)).sum()
    assert changed > 80


def test_remixed_levels_lie_in_the_range_asked_for():
    rng = np.random.default_rng(0)
    sources = rng.normal(0, 1, (200, 2, 400)).astype(np.float32) * rng.uniform(0.05, 0.2, (200, 2, 1)).astype(
        np.float32
    )
    out = remix(sources, [(f"a{k}", f"b{k}") for k in range(200)], (1, 4), np.random.default_rng(0))
    rms = np.sqrt(np.square(out).mean(-1))
    difference = np.abs(20 * np.log10(rms[:, 0] / rms[:, 1]))
    assert 1 - 1e-3 < difference.min() < 1.5
    assert 3.5 < difference.max() < 4 + 1e-3


def test_pairs_stay_where_no_other_pairing_keeps_speakers_apart():
    sources = np.random.default_rng(0).normal(0, 0.1, (4, 2, 100)).astype(np.float32)
    speakers = [("a", "b"), ("b", "a"), ("a", "b"), ("b", "c")]
    out = remix(sources[:1], speakers[:1], (0, 0), np.random.default_rng(0))
    assert out.shape == (1, 2, 100)
    assert remix(sources, [("a", "b")] * 3 + [("b", "b2")], (0, 5), np.random.default_rng(0)).shape == sources.shape


def test_fixed_crops_cover_every_mixture_and_are_the_same_each_time(mixtures):
    crops = FixedCrops(mixtures, RATE, 2000, seed=3)
    again = FixedCrops(mixtures, RATE, 2000, seed=3)
    assert len(crops) == sum(-(-(4000 + 800 * i - 1000) // 2000) for i in range(6))
    assert all(torch.equal(crops[k][1], again[k][1]) for k in range(len(crops)))
    mixture, sources = crops[0]
    torch.testing.assert_close(mixture, sources.sum(0))
    assert len(FixedCrops(mixtures, RATE, 2000, at_most=5)) == 5


def test_crops_in_which_somebody_is_silent_are_left_out(tmp_path, mixtures):
    samples, _ = soundfile.read(mixtures[0].sources[0])
    samples[2000:] = 0
    soundfile.write(mixtures[0].sources[0], samples, RATE)
    kept = FixedCrops(mixtures[:1], RATE, 2000)
    assert len(kept) == 1


@pytest.mark.parametrize("damage", ["missing", "not audio", "other rate"])
def test_a_source_that_cannot_serve_is_named(mixtures, damage):
    path = mixtures[0].sources[1]
    if damage == "missing":
        path.unlink()
    elif damage == "not audio":
        path.write_text("hello")
    else:
        soundfile.write(path, np.zeros(4000), 16000)
    with pytest.raises(SpikeSepError, match=path.name):
        RandomCrops(mixtures, RATE, 1600, seed=0)[0, 0]
