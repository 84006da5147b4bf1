"""Mixtures made while training with few voices, in turns, in rooms and with noise and damage."""

import numpy as np
import pytest
import torch

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import write_wav
from spikesep.separation.config import DynamicMixingConfig
from spikesep.separation.data.corpora.table import ABSENT, Utterance
from spikesep.separation.data.dataset import crop_loader
from spikesep.separation.data.dynamic_mixing import DynamicCrops
from spikesep.separation.data.remixing import Collate
from spikesep.separation.data.simulation.simulator import open_simulator
from spikesep.separation.mixing_config import (
    ConversationConfig,
    DamageConfig,
    NoiseConfig,
    RoomsConfig,
)

RATE = 8000


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Four voices of noise in bursts, 3 s each."""
    folder, rng = tmp_path_factory.mktemp("voices"), np.random.default_rng(0)
    rows = []
    for speaker in ("ann", "bea", "cleo", "dan"):
        bursts = np.repeat(rng.uniform(0.3, 1.0, 30), 800)
        path = folder / f"{speaker}.wav"
        write_wav(path, 0.2 * bursts * rng.uniform(-1, 1, len(bursts)), RATE)
        rows.append(Utterance(f"{speaker}-0", path, speaker, "f", "tr", 3.0))
    return rows


def crops(table, n=60, n_samples=8000, folder=None, **dynamic):
    config = DynamicMixingConfig(examples=n, **dynamic)
    simulator = None
    if folder:
        simulator = open_simulator(
            folder,
            config,
            [row.path for row in table],
            n_voices=3,
            sample_rate=RATE,
            level_db=-25.0,
            split="tr",
            seed=0,
        )
    return DynamicCrops(
        table,
        n,
        n_speakers=3,
        sample_rate=RATE,
        n_samples=n_samples,
        snr_db=(0.0, 10.0),
        speeds=config.speeds,
        by_amount=0.0,
        effects=config.channel,
        counts=config.voices,
        conversation=config.conversation if config.conversation.probability else None,
        simulator=simulator,
        seed=0,
    )


@pytest.fixture(scope="module")
def everything(table, tmp_path_factory):
    pytest.importorskip("pyroomacoustics", reason="needs the extra train")
    return crops(
        table,
        12,
        folder=tmp_path_factory.mktemp("data"),
        voices=[0.2, 0.5, 0.3],
        channel=["polarity", "equalizer", "floor"],
        rooms=RoomsConfig(probability=0.7, rt60=(0.2, 0.4), n_rooms=2),
        noise=NoiseConfig(probability=0.8),
        damage=DamageConfig(band=0.2, codec=0.2, clipping=0.2, offset=0.2),
        conversation=ConversationConfig(probability=0.5),
    )


def test_number_of_voices_follows_its_probabilities_and_others_are_zero(table):
    made = crops(table, 200, n_samples=800, voices=[0.2, 0.5, 0.3])
    counts = []
    for index in range(200):
        crop = made[0, index]
        present = [speaker != ABSENT for speaker in crop.speakers]
        assert crop.sources.any(1).tolist() == present
        counts.append(sum(present))
    shares = np.bincount(counts, minlength=4)[1:] / 200
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.09)


def test_more_voices_than_sources_are_refused(table):
    with pytest.raises(SpikeSepError, match=r"voices \[.*\]: the model separates 3 voices; give"):
        crops(table, voices=[0.1, 0.2, 0.3, 0.4])


def test_crops_of_conversations_hold_any_number_of_voices(table):
    made = crops(table, 80, voices=[0, 1], conversation=ConversationConfig(probability=1.0))
    heard = [int(made[0, k].sources.any(1).sum()) for k in range(80)]
    assert set(heard) == {0, 1, 2}
    assert np.mean(np.array(heard) == 1) > 0.3


def test_voices_of_a_conversation_pause(table):
    made = crops(
        table, 10, n_samples=40000, voices=[1], conversation=ConversationConfig(probability=1.0)
    )
    silent = np.mean([(made[0, k].sources[0] == 0).mean() for k in range(10)])
    assert 0.05 < silent < 0.6


def test_mixture_is_sources_and_rest_in_every_process(everything):
    collate = Collate(False, (0, 5))
    here = list(crop_loader(everything, 4, 0, collate))
    there = list(crop_loader(everything, 4, 0, collate, n_workers=2))
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for key in ((0, 0), (3, 5)):
        crop = everything[key]
        mixture, sources = (batch[0].numpy() for batch in collate([crop]))
        np.testing.assert_array_equal(sources, crop.sources)
        np.testing.assert_array_equal(mixture, crop.sources.sum(0) + crop.noise)
        assert mixture.dtype == crop.noise.dtype == np.float32
        assert np.abs(mixture).max() <= 0.9 + 1e-6


def test_crop_depends_on_seed_epoch_and_index_only(everything):
    first = everything[1, 7]
    everything[0, 0]
    np.testing.assert_array_equal(everything[1, 7].sources, first.sources)
    np.testing.assert_array_equal(everything[1, 7].noise, first.noise)
    assert not np.array_equal(everything[2, 7].noise, first.noise)


def test_levels_differ_by_up_to_ten_db_in_a_room(table, tmp_path):
    pytest.importorskip("pyroomacoustics", reason="needs the extra train")
    rooms = RoomsConfig(probability=1.0, rt60=(0.2, 0.3), n_rooms=2)
    made = crops(table, 40, folder=tmp_path, rooms=rooms)
    level = [10 * np.log10(np.square(made[0, k].sources).mean(1)) for k in range(40)]
    differences = np.abs([one[0] - one[1] for one in level])
    assert 7 < differences.max() < 13
    assert all(made[0, k].noise.any() for k in range(5))
