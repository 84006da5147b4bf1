import numpy as np
import pytest
import soundfile
import torch
from helpers.separators import tiny_separator
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.separation.config import RecipeConfig, TracksConfig
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, Utterance, write_table
from spikesep.separation.model.separator import save_separator
from spikesep.separation.tracks.embedder import load_embedder
from spikesep.separation.tracks.training import (
    SCALE,
    contrastive_loss,
    equal_error_rate,
    train_tracks,
)


def test_the_loss_equals_a_slow_reference():
    torch.manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    speakers = torch.tensor([0, 0, 1, 1, 2, 2])
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        weights = {j: np.exp(SCALE * float(embeddings[i] @ embeddings[j])) for j in others}
        (partner,) = (j for j in others if speakers[j] == speakers[i])
        total -= np.log(weights[partner] / sum(weights.values()))
    assert float(contrastive_loss(embeddings, speakers)) == pytest.approx(total / 6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.floats(0.1, 2))
def test_the_equal_error_rate_is_where_both_errors_meet(seed, noise):
    rng = np.random.default_rng(seed)
    speakers = np.arange(16) // 2
    embeddings = np.eye(8)[speakers] + rng.normal(0, noise, (16, 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = equal_error_rate(embeddings, speakers)
    cosines = [
        (embeddings[i] @ embeddings[j], speakers[i] == speakers[j])
        for i in range(16)
        for j in range(i)
    ]
    gaps = []
    for threshold, _ in cosines:
        misses = np.mean([c <= threshold for c, same in cosines if same])
        alarms = np.mean([c > threshold for c, same in cosines if not same])
        gaps.append((abs(misses - alarms), 50 * (misses + alarms)))
    assert min(gaps)[0] == pytest.approx(
        min(gap for gap, rate in gaps if rate == pytest.approx(found)), abs=1e-9
    )


def write_corpus(root, n_speakers=8):
    """Write three utterances of hummed voices of different pitch for each speaker."""
    rows, time = [], np.arange(16000) / 8000
    for speaker in range(n_speakers):
        split = "tt" if speaker >= n_speakers - 2 else "tr"
        for k in range(3):
            path = root / f"s{speaker}-{k}.wav"
            pitch = 90 + 25 * speaker + 3 * k
            voice = sum(np.sin(2 * np.pi * pitch * h * time) / h for h in range(1, 12))
            soundfile.write(path, 0.1 * voice, 8000)
            found = "cv" if split == "tr" and k == 2 else split
            rows.append(Utterance(f"s{speaker}-{k}", path, f"s{speaker}", "u", found, 2.0))
    write_table(root / UTTERANCE_TABLE, rows)


def tiny_recipe():
    return RecipeConfig(
        tracks=TracksConfig(
            stretch_seconds=0.5, mixtures=2, mixture_seconds=1.0, epochs=1, batch_speakers=4
        )
    )


def test_an_experiment_gets_a_spiking_embedder_and_its_scores_once(tmp_path, capsys):
    write_corpus(tmp_path)
    save_separator(tiny_separator(), tmp_path / "exp" / "ann")
    scores = train_tracks(tmp_path, tmp_path / "exp", tiny_recipe())
    embedder = load_embedder(tmp_path / "exp" / "tracks")
    assert embedder.network.is_fixed_point
    assert torch.equal(embedder.filters, tiny_separator().encoder.filterbank.filters())
    assert read_json(tmp_path / "exp" / "tracks-scores.json") == scores
    assert scores["snn"]["speakers"] == 2
    capsys.readouterr()
    weights = tmp_path / "exp" / "tracks" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert train_tracks(tmp_path, tmp_path / "exp", tiny_recipe()) == scores
    assert "is there and complete" in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == before


def test_training_needs_a_separator(tmp_path):
    write_corpus(tmp_path)
    with pytest.raises(SpikeSepError, match="no trained separator"):
        train_tracks(tmp_path, tmp_path / "exp", tiny_recipe())
