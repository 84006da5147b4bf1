"""Inputs of scoring: the two models, the data directories, and hashes that identify them."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spikesep
from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.separation.config import ScoringConfig
from spikesep.separation.data.corpora.table import ABSENT, UTTERANCE_TABLE, read_table
from spikesep.separation.data.kaldi import Mixture, read_data_dir

SETS = {"closed": "cv", "open": "tt"}
"""Data directory of each condition."""
MODEL_FILES = ("config.json", "model.safetensors")
STAGES = {"ann": ("pre-training", "spikesep-train"), "snn": ("conversion", "spikesep-convert")}
"""Stage and command that make each model."""


@dataclass(frozen=True)
class Inputs:
    """Everything that a set of scores depends on.

    Attributes:
        mixtures: mixtures to score, by condition.
        model_hash: SHA-256 of the files of each model.
        data_hash: SHA-256 of the data directories and of every audio file in them.
        key: SHA-256 of both, of the metrics, and of the version of this package.
    """

    mixtures: dict[str, list[Mixture]]
    model_hash: dict[str, str]
    data_hash: str
    key: str


def find_inputs(data: Path, exp: Path, config: ScoringConfig) -> Inputs:
    """Find the models under `exp` and the mixtures under `data`, and hash them.

    Raises:
        SpikeSepError: a model or a file is missing; the message names the stage that makes it.
    """
    for kind in STAGES:
        _check_model_exists(exp, kind)
    limit = config.max_utterances or None
    mixtures = {
        condition: read_data_dir(data / folder)[:limit] for condition, folder in SETS.items()
    }
    model_hash = {name: hash_of_model(exp / name) for name in STAGES}
    data_hash = _hash_of_data(mixtures)
    content = json.dumps([model_hash, data_hash, sorted(config.metrics), spikesep.__version__])
    return Inputs(mixtures, model_hash, data_hash, hashlib.sha256(content.encode()).hexdigest())


def _check_model_exists(exp: Path, kind: str) -> None:
    stage, command = STAGES[kind]
    for file in MODEL_FILES:
        if not (exp / kind / file).is_file():
            raise SpikeSepError(
                f"{exp / kind / file}: not found; run {stage} first ({command} --exp {exp})"
            )


def hash_of_model(folder: Path) -> str:
    """Hash the files that determine the output of a model, as `results.json` records them."""
    return _hash_of_files(folder / file for file in MODEL_FILES)


def check_scored(exp: Path, results: dict[str, Any], kind: str) -> None:
    """Check that results belong to the network of this kind in `exp`.

    Raises:
        SpikeSepError: they belong to another network, or it does not exist.
    """
    _check_model_exists(exp, kind)
    if results["model_hash"][kind] != hash_of_model(exp / kind):
        raise SpikeSepError(
            f"{exp / 'results.json'}: was scored with another {exp / kind}; run spikesep-score "
            "again"
        )


def is_scored(
    data: Path, exp: Path, config: ScoringConfig, tell: Callable[[str], object] = print
) -> bool:
    """Whether `exp` contains complete scores of its current models, data and metrics.

    `tell` receives a message if they belong to other inputs.
    """
    written = [exp / name for name in ("results.json", "scores.csv", "RESULTS.md")]
    if not all(path.is_file() for path in written):
        return False
    found, inputs = read_json(written[0]), find_inputs(data, exp, config)
    if found.get("key") == inputs.key:
        return True
    changed = {
        "models": found.get("model_hash") != inputs.model_hash,
        "data": found.get("data_hash") != inputs.data_hash,
    }
    others = [name for name, differs in changed.items() if differs] or ["metrics"]
    tell(f"{written[0]}: belongs to other {' and '.join(others)}; scoring again with {data}")
    return False


def closed_voices_heard(data: Path, mixtures: Iterable[Mixture]) -> bool:
    """Whether training heard the voices of the closed condition.

    It did in the paper; in LibriMix it did not.
    """
    if (data / UTTERANCE_TABLE).is_file():
        trained = {row.speaker for row in read_table(data / UTTERANCE_TABLE) if row.split == "tr"}
    elif (data / "tr" / "utt2spk").is_file():
        trained = {
            speaker for mixture in read_data_dir(data / "tr") for speaker in mixture.speakers
        }
    else:
        return True
    trained.add(ABSENT)
    return all(speaker in trained for mixture in mixtures for speaker in mixture.speakers)


def _hash_of_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _hash_of_data(mixtures: dict[str, list[Mixture]]) -> str:
    """Hash the contents of data directories and audio files, but not their paths."""
    digest = hashlib.sha256()
    for condition, group in mixtures.items():
        for mixture in group:
            about = [condition, mixture.utt_id, mixture.speakers, mixture.sexes]
            digest.update(json.dumps(about).encode())
            for path in (mixture.mixture, *mixture.sources):
                if not path.is_file():
                    raise SpikeSepError(
                        f"{path}: not found; make the mixtures again (spikesep-prepare)"
                    )
            digest.update(_hash_of_files((mixture.mixture, *mixture.sources)).encode())
    return digest.hexdigest()
