"""Training of the embedder and its conversion to spiking neurons (stage 6 of a speech recipe)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from spikesep.errors import SpikeSepError
from spikesep.files import read_json, write_json
from spikesep.separation.config import RecipeConfig
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, Utterance, read_table
from spikesep.separation.model.separator import load_separator
from spikesep.separation.tracks.activity import FRAMES_PER_SECOND
from spikesep.separation.tracks.embedder import SpeakerEmbedder, new_embedder, save_embedder
from spikesep.separation.tracks.stretch_data import (
    Features,
    FixedPairs,
    SpeakerPairs,
    clean_features,
    pair_loader,
    separated_features,
)
from spikesep.spiking.conversion.report import conversion_report
from spikesep.training.config import ConversionConfig, PretrainConfig
from spikesep.training.convert import convert
from spikesep.training.pretrain import pretrain
from spikesep.training.processes.launch import seed_everything
from spikesep.training.records.history import History
from spikesep.training.records.run_folder import claim

FOLDER, SPIKING = "tracks", "tracks-snn"
"""Folder of the embedder and of the checkpoints of its training, and of those of its conversion."""
SCORES = "tracks-scores.json"
SCALE = 12.0
"""Factor of the cosines in the loss."""
N_VALID, N_SCORED = 256, 400
"""Largest number of speakers of validation and of scoring."""


def contrastive_loss(embeddings: Tensor, speakers: Tensor) -> Tensor:
    """Cross entropy of recognizing, among a batch, the other stretches of the same speaker.

    See Khosla et al., "Supervised contrastive learning", arXiv 2004.11362.

    Args:
        embeddings: [B, E], of length 1.
        speakers: [B].
    """
    cosines = SCALE * embeddings @ embeddings.T
    is_self = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    same = (speakers[:, None] == speakers) & ~is_self
    cosines = cosines.masked_fill(is_self, -torch.inf)
    terms = torch.where(same, cosines - torch.logsumexp(cosines, 1, keepdim=True), 0.0)
    return -(terms.sum(1) / same.sum(1).clamp(min=1)).mean()


def equal_error_rate(embeddings: np.ndarray, speakers: np.ndarray) -> float:
    """Return the error rate in percent at which misses and false alarms are equally frequent.

    All pairs of embeddings [B, E] are compared by their cosine.
    """
    first, second = np.triu_indices(len(embeddings), 1)
    cosines = (embeddings @ embeddings.T)[first, second]
    same = speakers[first] == speakers[second]
    order = np.argsort(cosines)
    misses = np.cumsum(same[order]) / same.sum()
    false_alarms = 1 - np.cumsum(~same[order]) / (~same).sum()
    k = int(np.argmin(np.abs(misses - false_alarms)))
    return float(50 * (misses[k] + false_alarms[k]))


def train_tracks(data: Path, exp: Path, recipe: RecipeConfig) -> dict[str, Any]:
    """Train the embedder of an experiment's separator and write it to `exp/tracks`.

    One that is there and scored is kept.

    Args:
        data: data folder of the recipe, with the table of utterances.
        exp: folder of the experiment, which contains `ann`.
        recipe: the settings.

    Returns:
        Equal error rates in percent on voices never heard, of the analog and the spiking embedder.

    Raises:
        SpikeSepError: a part is missing, or training was begun with other settings.
    """
    if not (exp / "ann").exists():
        raise SpikeSepError(f"{exp / 'ann'}: no trained separator; run stage 2 (spikesep-train)")
    config, table = recipe.tracks, read_table(data / UTTERANCE_TABLE)
    claim(exp, FOLDER, {"tracks": config, "seed": recipe.seed})
    if (exp / FOLDER).exists() and (exp / SCORES).exists():
        checkpoints = exp / "checkpoints"
        print(
            f"{exp / FOLDER} is there and complete; delete it, {checkpoints / FOLDER} and "
            f"{checkpoints / SPIKING} to train again"
        )
        return read_json(exp / SCORES)
    seed_everything(recipe.seed)
    separator = load_separator(exp / "ann")
    embedder = new_embedder(separator)
    rows = {"tr": [row for row in table if row.split == "tr"]}
    rows |= {
        split: _some_speakers(table, split, n) for split, n in (("cv", N_VALID), ("tt", N_SCORED))
    }
    print("extracting features", flush=True)
    heard = clean_features(embedder, rows["tr"], config.speaker_seconds, leaks=True)
    for speaker, more in separated_features(embedder, separator, rows["tr"], recipe).items():
        heard[speaker] += more
    others = {
        split: clean_features(embedder, rows[split], config.speaker_seconds, leaks=False)
        for split in ("cv", "tt")
    }
    n_frames = round(config.stretch_seconds * FRAMES_PER_SECOND)
    pairs = SpeakerPairs(heard, n_frames, recipe.seed)
    valid = FixedPairs(SpeakerPairs(others["cv"], n_frames, recipe.seed), N_VALID)
    _train(embedder, pairs, valid, exp, recipe)
    scores = {"ann": _score(embedder, others["tt"], n_frames, recipe.seed)}
    report = _convert(embedder, FixedPairs(pairs, N_VALID), valid, exp, recipe)
    scores["snn"] = _score(embedder, others["tt"], n_frames, recipe.seed)
    save_embedder(embedder, exp / FOLDER, report)
    write_json(exp / SCORES, scores)
    return scores


def _some_speakers(table: list[Utterance], split: str, at_most: int) -> list[Utterance]:
    """Return the utterances of a split of at most so many speakers, drawn at random."""
    rows = [row for row in table if row.split == split]
    speakers = sorted({row.speaker for row in rows})
    chosen = set(np.random.default_rng(0).permutation(speakers)[:at_most])
    return [row for row in rows if row.speaker in chosen]


def _train(
    embedder: SpeakerEmbedder,
    pairs: SpeakerPairs,
    valid: FixedPairs,
    exp: Path,
    recipe: RecipeConfig,
) -> None:
    config = recipe.tracks
    n_weights = sum(p.numel() for p in embedder.parameters())
    print(f"training {n_weights:,} parameters on {len(pairs)} speakers", flush=True)
    settings = PretrainConfig(
        epochs=config.epochs,
        batch_size=config.batch_speakers,
        learning_rate=config.learning_rate,
        warmup_steps=20,
        schedule="cosine",
        cosine_from=0.0,
        precision="float32",
    )
    pretrain(
        embedder,
        contrastive_loss,
        pair_loader(pairs, config.batch_speakers, recipe.seed),
        DataLoader(valid, 2 * config.batch_speakers),
        settings,
        exp / "checkpoints" / FOLDER,
        history=History(exp / "tracks-history.csv"),
        metric=_error_rate,
    )


def _convert(
    embedder: SpeakerEmbedder,
    train: FixedPairs,
    valid: FixedPairs,
    exp: Path,
    recipe: RecipeConfig,
) -> list[dict]:
    """Convert the network in place, layer by layer without training; return the report."""
    config = recipe.tracks
    settings = ConversionConfig(
        n_steps=config.n_steps,
        deferred=True,
        discretize=False,
        max_epochs=0,
        batch_size=64,
        calibration_examples=N_VALID,
        precision="float32",
    )
    choices = convert(
        embedder,
        contrastive_loss,
        train,
        valid,
        settings,
        exp / "checkpoints" / SPIKING,
        history=History(exp / "tracks-history.csv"),
        metric=_error_rate,
        seed=recipe.seed,
    )
    inputs = [embedder.encode(valid[k][0][None])[0] for k in range(min(32, len(valid)))]
    reports = conversion_report(embedder.network, inputs, choices)
    return [report.to_dict() for report in reports]


def _error_rate(embeddings: Tensor, speakers: Tensor, loss: float) -> float:
    return equal_error_rate(embeddings.detach().cpu().numpy(), speakers.cpu().numpy())


def _score(
    embedder: SpeakerEmbedder, features: Features, n_frames: int, seed: int
) -> dict[str, float]:
    """Return the equal error rate over all voices, and the numbers behind it."""
    pairs = FixedPairs(SpeakerPairs(features, n_frames, seed), N_SCORED)
    embeddings, speakers = [], []
    for k in range(0, len(pairs), 64):
        items = [pairs[i] for i in range(k, min(k + 64, len(pairs)))]
        with torch.inference_mode():
            embeddings.append(embedder(torch.stack([x for x, _ in items])).numpy())
        speakers += [int(speaker) for _, speaker in items]
    rate = equal_error_rate(np.concatenate(embeddings), np.array(speakers))
    return {"equal_error_rate": rate, "speakers": len(pairs) // 2}
