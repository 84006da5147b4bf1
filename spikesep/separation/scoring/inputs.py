"""Inputs of scoring: the two models, the data directories, and hashes that identify them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spikesep
from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.separation.config import MixingConfig, ScoringConfig
from spikesep.separation.data.corpora.table import ABSENT, UTTERANCE_TABLE, read_table
from spikesep.separation.data.kaldi import Mixture, read_data_dir
from spikesep.separation.data.mixing.plan import Version
from spikesep.separation.model.hub import find_tracks
from spikesep.separation.scoring.conversation import read_turns
from spikesep.separation.tracks.rttm import Turn

SETS = {"closed": "cv", "open": "tt"}
"""Data directory of each condition."""
MODEL_FILES = ("config.json", "model.safetensors")
STAGES = {"ann": ("pre-training", "spikesep-train"), "snn": ("conversion", "spikesep-convert")}
"""Stage and command that make each model."""


UtteranceKey = tuple[str, str, str]
"""Mode, condition and utterance ID."""


@dataclass(frozen=True)
class Job:
    """A mixture to score.

    Attributes:
        mode: condition of the simulation or length mode; empty if the data have one.
        condition: `closed` or `open`.
        mixture: the mixture.
        turns: turns of its sources, if it is a conversation.
    """

    mode: str
    condition: str
    mixture: Mixture
    turns: tuple[Turn, ...] = ()

    @property
    def key(self) -> UtteranceKey:
        """Key of its record."""
        return self.mode, self.condition, self.mixture.utt_id

    @property
    def has_voice(self) -> tuple[bool, ...]:
        """Whether each source has a voice."""
        return tuple(speaker != ABSENT for speaker in self.mixture.speakers)


@dataclass(frozen=True)
class Inputs:
    """Everything that a set of scores depends on.

    Attributes:
        jobs: mixtures to score; those of the first mode come first.
        modes: names of the modes.
        tracks: embedder that lets the voices of conversations follow their speakers, if there are
            conversations and an embedder.
        model_hash: SHA-256 of the files of each model.
        data_hash: SHA-256 of the data directories and of every audio file in them.
        key: SHA-256 of both, of the metrics, and of the version of this package.
    """

    jobs: list[Job]
    modes: tuple[str, ...]
    tracks: Path | None
    model_hash: dict[str, str]
    data_hash: str
    key: str


def find_modes(data: Path, mixing: MixingConfig) -> dict[str, Path]:
    """Return the folders of the data directories of each mode that stage 1 writes.

    The first mode is that of `data` itself; it has no name if there are no others.
    """
    if len(mixing.modes) < 2:
        return {"": data}
    first, *others = mixing.modes
    rate = mixing.rates_hz[0]
    return {first: data} | {mode: data / Version(rate, mode).label for mode in others}


def find_inputs(
    data: Path, exp: Path, config: ScoringConfig, modes: Mapping[str, Path] | None = None
) -> Inputs:
    """Find the models under `exp` and the mixtures of each mode, and hash them.

    Args:
        data: folder of the Kaldi data directories.
        exp: folder of both models.
        config: settings.
        modes: see `find_modes`; None for `data` alone.

    Raises:
        SpikeSepError: a model or a file is missing; the message names the stage that makes it.
    """
    for kind in STAGES:
        _check_model_exists(exp, kind)
    limit = config.max_utterances or None
    modes = modes or {"": data}
    jobs = [
        job
        for mode, folder in modes.items()
        for condition in SETS
        for job in _find_jobs(mode, condition, folder, data)[:limit]
    ]
    tracks = find_tracks(exp / "snn") if any(job.turns for job in jobs) else None
    model_hash = {name: hash_of_model(exp / name) for name in STAGES}
    if tracks:
        model_hash["tracks"] = hash_of_model(tracks)
    data_hash = _hash_of_data(jobs, first=next(iter(modes)))
    content = json.dumps([model_hash, data_hash, sorted(config.metrics), spikesep.__version__])
    key = hashlib.sha256(content.encode()).hexdigest()
    return Inputs(jobs, tuple(modes), tracks, model_hash, data_hash, key)


def _find_jobs(mode: str, condition: str, folder: Path, first: Path) -> list[Job]:
    """List the mixtures of a mode and condition; all modes have the turns of the first."""
    mixtures = read_data_dir(folder / SETS[condition])
    turns = read_turns(first / SETS[condition], mixtures)
    return [Job(mode, condition, mixture, turns.get(mixture.utt_id, ())) for mixture in mixtures]


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
    data: Path,
    exp: Path,
    config: ScoringConfig,
    modes: Mapping[str, Path] | None = None,
    tell: Callable[[str], object] = print,
) -> bool:
    """Whether `exp` contains complete scores of its current models, data and metrics.

    `modes` are as in `find_inputs`; `tell` receives a message if scores belong to other inputs.
    """
    written = [exp / name for name in ("results.json", "scores.csv", "RESULTS.md")]
    if not all(path.is_file() for path in written):
        return False
    found, inputs = read_json(written[0]), find_inputs(data, exp, config, modes)
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


def _hash_of_data(jobs: Iterable[Job], first: str) -> str:
    """Hash the contents of data directories and audio files, but not their paths.

    Args:
        jobs: the mixtures.
        first: name of the first mode.
    """
    digest = hashlib.sha256()
    for job in jobs:
        mixture = job.mixture
        about = [job.condition, mixture.utt_id, mixture.speakers, mixture.sexes]
        about += [job.mode] if job.mode != first else []
        about += [[turn.start, turn.stop, turn.speaker] for turn in job.turns]
        digest.update(json.dumps(about).encode())
        for path in (mixture.mixture, *mixture.sources):
            if not path.is_file():
                raise SpikeSepError(
                    f"{path}: not found; make the mixtures again (spikesep-prepare)"
                )
        digest.update(_hash_of_files((mixture.mixture, *mixture.sources)).encode())
    return digest.hexdigest()
