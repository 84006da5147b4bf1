from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from spikesep.errors import SpikeSepError
from spikesep.separation.data.dataset import FixedCrops, RandomCrops, crop_loader
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.data.mixture_files import find_residuals, read_sources
from spikesep.separation.data.remixing import Collate, remix
from spikesep.training.sampling import EpochSampler

RATE = 8000


@pytest.fixture
def mixtures(tmp_path):
    """Six mixtures of three speakers, with different noise for each source."""
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
            Mixture(
                f"{'_'.join(speakers)}-{i}",
                tmp_path / "unread.wav",
                tuple(sources),
                speakers,
                ("f", "m"),
            )
        )
    return result


def with_mixture_file(mixture, change=lambda total: total, noise=None):
    """Write the mixture file: the changed sum of the sources."""
    total = sum(soundfile.read(path)[0] for path in mixture.sources)
    path = mixture.sources[0].with_name(f"mix-{mixture.utt_id}.wav")
    if noise is not None:
        soundfile.write(path.with_name(f"noise-{mixture.utt_id}.wav"), noise, RATE)
        mixture = replace(mixture, noise=path.with_name(f"noise-{mixture.utt_id}.wav"))
    soundfile.write(path, change(total), RATE, subtype="PCM_16")
    return replace(mixture, mixture=path)


def rounded_with(seed):
    rng = np.random.default_rng(seed)
    return lambda total: total + rng.integers(-1, 2, len(total)) / 32768


SAME = {
    "sum": lambda x: x,
    "other rounding": rounded_with(0),
    "clipped": lambda x: np.clip(x, -1, 1),  # of louder sources
}
OTHER = {
    "reversed": lambda x: x[::-1],
    "noisy": lambda x: x + 2e-4 * np.random.default_rng(1).standard_normal(len(x)),
    "noisy in one place": lambda x: x + 0.01 * (np.arange(len(x)) == 3000),
    "echo": lambda x: x + 0.3 * np.roll(x, 300),
    "another gain": lambda x: 0.7 * x,
}


@pytest.mark.parametrize("name", SAME)
def test_mixture_that_is_the_sum_of_its_sources_is_not_read_again(mixtures, name):
    change = SAME[name]
    if name == "clipped":
        for path in mixtures[0].sources:
            soundfile.write(path, np.clip(20 * soundfile.read(path)[0], -0.9, 0.9), RATE)
    heard = [with_mixture_file(mixtures[0], change), *map(with_mixture_file, mixtures[1:])]
    found, _ = find_residuals(heard, RATE)
    assert found == heard
    heard[0].mixture.unlink()
    crops, plain = RandomCrops(found, RATE, 1600, seed=1), RandomCrops(mixtures, RATE, 1600, seed=1)
    for index in range(6):
        assert np.array_equal(crops[3, index].sources, plain[3, index].sources)
        assert crops[3, index].noise is None
    collate = Collate(True, (0, 5), random_polarity=True)
    batches = [collate([each[0, k] for k in range(6)]) for each in (crops, plain)]
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))


@pytest.mark.parametrize("name", OTHER)
def test_crops_keep_the_residual_of_a_mixture(mixtures, name):
    heard = [
        *map(with_mixture_file, mixtures[:3]),
        with_mixture_file(mixtures[3], OTHER[name]),
        *map(with_mixture_file, mixtures[4:]),
    ]
    found, _ = find_residuals(heard, RATE)
    assert [each.has_residual for each in found] == [False] * 3 + [True] + [False] * 2
    batch = [RandomCrops(found, RATE, 1600, seed=1)[3, index] for index in range(6)]
    mixed, sources = Collate(False, (0, 5))(batch)
    whole = soundfile.read(found[3].mixture, dtype="float32")[0]
    distances = [
        np.abs(whole[k : k + 1600] - mixed[3].numpy()).max() for k in range(len(whole) - 1599)
    ]
    assert min(distances) < 1e-6
    torch.testing.assert_close(mixed[[0, 1, 2, 4, 5]], sources.sum(1)[[0, 1, 2, 4, 5]])
    fixed = FixedCrops(found[3:4], RATE, 2000)
    assert any((mixture - sources.sum(0)).abs().max() > 1e-4 for mixture, sources in fixed)


def test_listed_noise_is_not_a_residual(mixtures):
    noise = 0.02 * np.random.default_rng(2).standard_normal(4000)
    heard = with_mixture_file(mixtures[0], lambda total: total + noise, noise)
    assert find_residuals([heard], RATE)[0] == [heard]
    assert find_residuals([replace(heard, noise=None)], RATE)[0][0].has_residual


def test_hash_depends_on_samples_and_ids_only(mixtures, tmp_path):
    heard = list(map(with_mixture_file, mixtures))
    _, before = find_residuals(heard, RATE)
    moved = tmp_path / "elsewhere.wav"
    moved.write_bytes(heard[2].mixture.read_bytes())
    assert (
        find_residuals([*heard[:2], replace(heard[2], mixture=moved), *heard[3:]], RATE)[1]
        == before
    )
    assert find_residuals(heard[:-1], RATE)[1] != before
    samples = soundfile.read(heard[2].sources[1])[0]
    samples[7] += 1 / 32768
    soundfile.write(heard[2].sources[1], samples, RATE)
    assert find_residuals(heard, RATE)[1] != before


@pytest.mark.parametrize("damage", ["missing", "shorter", "NaN"])
def test_unusable_mixture_is_named(mixtures, damage):
    heard = with_mixture_file(mixtures[0])
    samples = soundfile.read(heard.mixture)[0]
    if damage == "missing":
        heard.mixture.unlink()
    elif damage == "shorter":
        soundfile.write(heard.mixture, samples[:-9], RATE)
    else:
        soundfile.write(heard.mixture, samples * np.nan, RATE, subtype="FLOAT")
    with pytest.raises(SpikeSepError, match=heard.mixture.name):
        find_residuals([heard], RATE)


def test_source_without_samples_is_not_taken_for_a_silent_one(mixtures):
    first, second = mixtures[0].sources
    soundfile.write(first, np.zeros(0), RATE)
    with pytest.raises(SpikeSepError, match=f"{second.name}: 4000 samples, .*{first.name} has 0"):
        read_sources(mixtures[0], RATE, 0, 100)


def test_channels_of_a_source_are_averaged(mixtures, tmp_path):
    first = soundfile.read(mixtures[0].sources[0])[0]
    soundfile.write(
        mixtures[0].sources[0], np.stack([1.5 * first, 0.5 * first], 1), RATE, subtype="FLOAT"
    )
    crop = RandomCrops(mixtures[:1], RATE, 4000, seed=1)[0, 0]
    np.testing.assert_allclose(crop.sources[0], first, atol=1e-6)


def test_crop_is_a_segment_of_its_mixture(mixtures):
    crops = RandomCrops(mixtures, RATE, 1600, seed=1)
    for index in range(6):
        crop = crops[3, index]
        whole = np.stack([soundfile.read(p, dtype="float32")[0] for p in mixtures[index].sources])
        starts = [
            k
            for k in range(whole.shape[1] - 1599)
            if np.array_equal(whole[:, k : k + 1600], crop.sources)
        ]
        assert len(starts) == 1
        assert crop.speakers == mixtures[index].speakers


def test_crops_depend_on_seed_epoch_and_index_only(mixtures):
    one, other = (RandomCrops(mixtures, RATE, 1600, seed=1) for _ in range(2))
    other[0, 3]  # earlier draws do not matter
    assert np.array_equal(one[2, 4].sources, other[2, 4].sources)
    assert not np.array_equal(one[2, 4].sources, one[3, 4].sources)


def test_short_mixture_is_padded_with_zeros(mixtures):
    crop = RandomCrops(mixtures, RATE, 6000, seed=1)[0, 0]
    assert crop.sources.shape == (2, 6000)
    assert (crop.sources[:, 4000:] == 0).all()
    assert (crop.sources[:, :4000] != 0).any()


def test_epoch_has_every_mixture_once_in_its_own_order():
    sampler = EpochSampler(50, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert Counter(index for _, index in first) == Counter(range(50))
    assert {epoch for epoch, _ in second} == {1}
    assert [i for _, i in first] != [i for _, i in second]
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_loader_returns_mixtures_and_their_sources(mixtures):
    loader = crop_loader(RandomCrops(mixtures, RATE, 1600, 0), 4, 0, Collate(False, (0, 5)))
    batches = list(loader)
    assert len(batches) == 1  # the last, smaller one is dropped
    mixture, sources = batches[0]
    assert (mixture.shape, sources.shape) == ((4, 1600), (4, 2, 1600))
    torch.testing.assert_close(mixture, sources.sum(1))


def test_random_polarity_keeps_the_mixture_the_sum_of_its_sources(mixtures):
    crops = RandomCrops(mixtures, RATE, 1600, 0)
    batch = [crops[0, k] for k in range(6)]
    mixture, sources = Collate(False, (0, 5), random_polarity=True)(batch)
    plain = torch.from_numpy(np.stack([crop.sources for crop in batch]))
    signs = torch.sign((sources * plain).sum(-1))
    torch.testing.assert_close(mixture, sources.sum(1))
    torch.testing.assert_close(sources, plain * signs[..., None])
    assert set(signs.flatten().tolist()) == {-1, 1}
    assert torch.equal(sources, Collate(False, (0, 5), random_polarity=True)(batch)[1])


def test_remixing_keeps_speakers_apart_and_uses_every_source():
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


def test_remixed_level_differences_are_in_range():
    rng = np.random.default_rng(0)
    sources = rng.normal(0, 1, (200, 2, 400)).astype(np.float32) * rng.uniform(
        0.05, 0.2, (200, 2, 1)
    ).astype(np.float32)
    out = remix(sources, [(f"a{k}", f"b{k}") for k in range(200)], (1, 4), np.random.default_rng(0))
    rms = np.sqrt(np.square(out).mean(-1))
    difference = np.abs(20 * np.log10(rms[:, 0] / rms[:, 1]))
    assert 1 - 1e-3 < difference.min() < 1.5
    assert 3.5 < difference.max() < 4 + 1e-3


def test_pairs_are_kept_if_no_other_pairing_keeps_speakers_apart():
    sources = np.random.default_rng(0).normal(0, 0.1, (4, 2, 100)).astype(np.float32)
    speakers = [("a", "b"), ("b", "a"), ("a", "b"), ("b", "c")]
    out = remix(sources[:1], speakers[:1], (0, 0), np.random.default_rng(0))
    assert out.shape == (1, 2, 100)
    assert (
        remix(sources, [("a", "b")] * 3 + [("b", "b2")], (0, 5), np.random.default_rng(0)).shape
        == sources.shape
    )


def test_fixed_crops_cover_every_mixture_reproducibly(mixtures):
    crops = FixedCrops(mixtures, RATE, 2000, seed=3)
    again = FixedCrops(mixtures, RATE, 2000, seed=3)
    assert len(crops) == sum(-(-(4000 + 800 * i - 1000) // 2000) for i in range(6))
    assert all(torch.equal(crops[k][1], again[k][1]) for k in range(len(crops)))
    mixture, sources = crops[0]
    torch.testing.assert_close(mixture, sources.sum(0))
    assert len(FixedCrops(mixtures, RATE, 2000, at_most=5)) == 5


def test_crops_with_a_silent_source_are_skipped(tmp_path, mixtures):
    samples, _ = soundfile.read(mixtures[0].sources[0])
    samples[2000:] = 0
    soundfile.write(mixtures[0].sources[0], samples, RATE)
    kept = FixedCrops(mixtures[:1], RATE, 2000)
    assert len(kept) == 1
    assert len(FixedCrops(mixtures[:1], RATE, 2000, silence=True)) > 1
    for path in mixtures[0].sources:
        soundfile.write(path, np.zeros(4000), RATE)
    with pytest.raises(SpikeSepError, match=r"train\.loss"):
        FixedCrops(mixtures[:1], RATE, 2000, silence=True)


@pytest.mark.parametrize("damage", ["missing", "not audio", "other rate"])
def test_unusable_source_is_named(mixtures, damage):
    path = mixtures[0].sources[1]
    if damage == "missing":
        path.unlink()
    elif damage == "not audio":
        path.write_text("hello")
    else:
        soundfile.write(path, np.zeros(4000), 16000)
    with pytest.raises(SpikeSepError, match=path.name):
        RandomCrops(mixtures, RATE, 1600, seed=0)[0, 0]
