"""Score the mixture, the analog and the spiking network on both conditions, on all cores.

Each finished utterance is one line of a journal, so that a killed run goes on where it stopped; the journal belongs to
one set of models and data and is not read for another. Shards, of one machine or several, keep a journal each; scoring
without a shard takes up all journals and scores what is missing. The means and how they are laid out are in `results`.
"""

import csv
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spikesep
from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, explain_full_disk, read_json, write_json, write_text
from spikesep.provenance import provenance
from spikesep.separation.audio.files import read_channels
from spikesep.separation.config import ScoringConfig
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, read_table
from spikesep.separation.data.kaldi import Mixture, read_data_dir
from spikesep.separation.model.separator import load_separator
from spikesep.separation.scoring import figures, results
from spikesep.separation.scoring.metrics import score_utterance
from spikesep.training.records.history import History, cut_short
from spikesep.workers import Workers

SETS = {"closed": "cv", "open": "tt"}
MODEL_FILES = ("config.json", "model.safetensors")
STAGES = {"ann": ("pre-training", "spikesep-train"), "snn": ("conversion", "spikesep-convert")}


@dataclass(frozen=True)
class Shard:
    """A part of the utterances: every `of`-th, beginning with the `number`-th, counted from 1."""

    number: int
    of: int

    @property
    def name(self) -> str:
        """As it stands in file names."""
        return f"{self.number}of{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `2/8`.

        Raises:
            SpikeSepError: it is not like that.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise SpikeSepError(f"--shard {text}: give the shard and their number, as 2/8")
        return cls(int(number), int(of))


@dataclass(frozen=True)
class Inputs:
    """What a set of scores depends on.

    Attributes:
        mixtures: those to score, by condition.
        model_hash: SHA-256 of each model's files.
        data_hash: SHA-256 of the lists and of every file in them.
        key: SHA-256 of all of it, of the metrics and of this package's version.
    """

    mixtures: dict[str, list[Mixture]]
    model_hash: dict[str, str]
    data_hash: str
    key: str


def find_inputs(data: Path, exp: Path, config: ScoringConfig) -> Inputs:
    """Find the models under `exp` and the lists under `data`.

    Raises:
        SpikeSepError: a model or a list is missing; the message names the stage that makes it.
    """
    for kind in STAGES:
        _check_there(exp, kind)
    limit = config.max_utterances or None
    mixtures = {
        condition: read_data_dir(data / folder)[:limit] for condition, folder in SETS.items()
    }
    model_hash = {name: hash_of_model(exp / name) for name in STAGES}
    data_hash = _digest_of_data(mixtures)
    told = json.dumps([model_hash, data_hash, sorted(config.metrics), spikesep.__version__])
    return Inputs(mixtures, model_hash, data_hash, hashlib.sha256(told.encode()).hexdigest())


def _check_there(exp: Path, kind: str) -> None:
    stage, command = STAGES[kind]
    for file in MODEL_FILES:
        if not (exp / kind / file).is_file():
            raise SpikeSepError(
                f"{exp / kind / file}: not found; run {stage} first ({command} --exp {exp})"
            )


def hash_of_model(folder: Path) -> str:
    """Of what `results.json` calls `model_hash`: the files that decide what a model says."""
    return _digest(folder / file for file in MODEL_FILES)


def check_scored(exp: Path, results: dict[str, Any], kind: str) -> None:
    """See that results are those of the network of this kind that is there now.

    Raises:
        SpikeSepError: they are another's, or it is not there.
    """
    _check_there(exp, kind)
    if results["model_hash"][kind] != hash_of_model(exp / kind):
        raise SpikeSepError(
            f"{exp / 'results.json'}: was scored with another {exp / kind}; run spikesep-score again"
        )


def is_scored(
    data: Path, exp: Path, config: ScoringConfig, tell: Callable[[str], None] = print
) -> bool:
    """Whether `exp` holds complete scores of these very models, data and metrics; `tell` hears what differs."""
    written = [exp / name for name in ("results.json", "scores.csv", "RESULTS.md")]
    if not all(path.is_file() for path in written):
        return False
    found, inputs = read_json(written[0]), find_inputs(data, exp, config)
    if found.get("key") == inputs.key:
        return True
    models, mixtures = (
        found.get("model_hash") != inputs.model_hash,
        found.get("data_hash") != inputs.data_hash,
    )
    others = [name for name, differ in {"models": models, "data": mixtures}.items() if differ]
    tell(f"{written[0]}: of other {' and '.join(others) or 'metrics'}; scoring anew with {data}")
    return False


def score(
    data: Path,
    exp: Path,
    config: ScoringConfig,
    n_jobs: int = 0,
    seed: int = 0,
    *,
    redo: bool = False,
    command: str = "",
    shard: Shard | None = None,
) -> dict[str, Any] | None:
    """Score `exp/ann` and `exp/snn` on `data/cv` and `data/tt`.

    Leaves `results.json`, `scores.csv`, `RESULTS.md` and `figures/` in `exp`, and gives what `results.json` holds.
    An utterance is scored by one thread, so that the scores do not depend on how many processes there are.

    Args:
        data: folder of the Kaldi data directories.
        exp: folder of the two models.
        config: the metrics.
        n_jobs: processes; 0 takes all cores, 1 computes in this one.
        seed: recorded beside the results; scoring draws nothing.
        redo: score finished utterances again.
        command: recorded beside the results.
        shard: score only this part, into its journal; then there are no results yet, and None is given.

    Raises:
        SpikeSepError: a model, a list or an audio file is missing or unreadable, or a process died.
    """
    inputs = find_inputs(data, exp, config)
    heard = closed_voices_heard(data, inputs.mixtures["closed"])
    journal = exp / (
        "scores.partial.jsonl" if shard is None else f"scores.partial.{shard.name}.jsonl"
    )
    journals = [journal] if shard else sorted({journal, *exp.glob("scores.partial*.jsonl")})
    finished = (
        {}
        if redo
        else {k: v for path in journals for k, v in _read_journal(path, inputs.key).items()}
    )
    jobs = [
        (condition, mixture) for condition, group in inputs.mixtures.items() for mixture in group
    ]
    if shard:
        jobs = jobs[shard.number - 1 :: shard.of]
    waiting = [job for job in jobs if _name(*job) not in finished]
    waiting.sort(
        key=lambda job: job[1].mixture.stat().st_size, reverse=True
    )  # a long one last would leave cores idle
    with _open_journal(journal, inputs.key, finished) as append:
        for record in _records(waiting, exp, inputs.key, tuple(config.metrics), n_jobs):
            append(record)
            finished[_name(record["condition"], record["utt"])] = record
    if shard:
        return None
    records = [finished[_name(*job)] for job in jobs]
    found = {
        **results.summarize(records, config.metrics),
        "config": {
            "scoring": asdict(config),
            **{name: read_json(exp / name / "config.json") for name in STAGES},
        },
        "seed": seed,
        "command": command,
        "model_hash": inputs.model_hash,
        "data_hash": inputs.data_hash,
        "cut_short": cut_short(History(exp / "history.csv").read()),
        "closed_voices_heard": heard,
        **provenance(),
        "key": inputs.key,
    }
    _write_scores(exp / "scores.csv", records, config.metrics)
    write_text(exp / "RESULTS.md", results.markdown(found))
    figures.draw(exp, exp / "figures")
    write_json(exp / "results.json", found)  # last: it is what says that scoring is complete
    for path in journals:
        path.unlink(missing_ok=True)
    return found


# --- one utterance, in any process ---------------------------------------------------------------------------------


def score_mixture(
    condition: str, mixture: Mixture, models: dict[str, torch.nn.Module], metrics: Iterable[str]
) -> dict:
    """Score the mixture itself and what each model makes of it: one record of the journal, plain values throughout.

    Raises:
        SpikeSepError: a file is unreadable, the sources differ from the mixture in length, or the model separates
            another number of voices.
    """
    sample_rate = models["ann"].sample_rate
    mixed, *sources = (_read(path, sample_rate) for path in (mixture.mixture, *mixture.sources))
    if any(len(source) != len(mixed) for source in sources):
        raise SpikeSepError(
            f"{mixture.mixture}: its sources have another length; make the mixtures again"
        )
    sources = np.stack(sources)
    waves, cost = {"mixture": np.stack([mixed] * len(sources))}, None
    with torch.inference_mode():
        for name, model in models.items():
            estimates, cost = model.separate_with_cost(torch.from_numpy(mixed))
            if len(estimates) != len(sources):
                raise SpikeSepError(
                    f"{mixture.mixture}: holds {len(sources)} voices where the model separates {len(estimates)}; "
                    "give --data with as many"
                )
            waves[name] = estimates.numpy()
    return {
        "condition": condition,
        "utt": mixture.utt_id,
        "sexes": list(mixture.sexes),
        "seconds": len(mixed) / sample_rate,
        "scores": {name: _plain(score_utterance(wave, sources, mixed, sample_rate, metrics), metrics)
                   for name, wave in waves.items()},
        "cost": asdict(cost),  # of the last model, the spiking one
    }  # fmt: skip


def _read(path: Path, sample_rate: int) -> np.ndarray:
    channels, rate = read_channels(path)
    if rate != sample_rate:
        raise SpikeSepError(
            f"{path}: is at {rate} Hz, the model at {sample_rate}; mix at the model's rate (stage 1)"
        )
    return channels.mean(axis=0)


def _plain(scores: Any, metrics: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(scores, name) for name in ("si_sdr", "si_sdri", *metrics)}
    return {
        **{name: None if math.isnan(value) else value for name, value in values.items()},
        "refused": scores.refusals,
    }


def load_models(exp: Path) -> dict[str, torch.nn.Module]:
    """Both separators, the analog one first."""
    return {name: load_separator(exp / name) for name in STAGES}


# --- many utterances ------------------------------------------------------------------------------------------------


def _records(
    jobs: list[tuple[str, Mixture]], exp: Path, key: str, metrics: tuple[str, ...], n_jobs: int
) -> Iterator[dict]:
    """The record of each job as it is finished, computed by one thread wherever it runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Workers(n_jobs) as workers:
            function = partial(_score, exp=exp, key=key, metrics=metrics)
            yield from workers.map(function, jobs, "scoring", chunk=1, in_order=False)
    finally:
        torch.set_num_threads(threads)


def _score(job: tuple[str, Mixture], exp: Path, key: str, metrics: tuple[str, ...]) -> dict:
    return score_mixture(*job, _models(exp, key), metrics)


@lru_cache(maxsize=1)
def _models(exp: Path, key: str) -> dict[str, torch.nn.Module]:
    """Both separators, read once a process and once again if `key` (see `Inputs`) says that they changed."""
    torch.set_num_threads(1)
    return load_models(exp)


# --- files ----------------------------------------------------------------------------------------------------------


def _name(condition: str, mixture: Mixture | str) -> tuple[str, str]:
    return condition, mixture if isinstance(mixture, str) else mixture.utt_id


def _read_journal(path: Path, key: str) -> dict[tuple[str, str], dict]:
    """The finished records; none where the journal belongs to other inputs. A torn last line is left out."""
    if not path.is_file():
        return {}
    records = []
    for line in path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]:
        try:
            records.append(json.loads(line))
        except ValueError:
            records.append(None)
    if not records or not records[0] or records[0].get("key") != key:
        return {}
    return {_name(record["condition"], record["utt"]): record for record in records[1:] if record}


@contextmanager
def _open_journal(
    path: Path, key: str, finished: dict[Any, dict]
) -> Iterator[Callable[[dict], None]]:
    """Write the journal anew with what is finished, then give a function that appends a line for good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(
        path, "".join(json.dumps(record) + "\n" for record in ({"key": key}, *finished.values()))
    )
    with explain_full_disk(path), path.open("a", encoding="utf-8") as file:

        def append(record: dict) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

        yield append


def _write_scores(path: Path, records: list[dict], metrics: Iterable[str]) -> None:
    columns = ("si_sdr", "si_sdri", *metrics)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["utt", "condition", "sexes", "method", *columns, "refused"])
        for record in records:
            for method, scores in record["scores"].items():
                values = ["" if scores[name] is None else f"{scores[name]:.4f}" for name in columns]
                refused = "; ".join(
                    f"{name}: {reason}" for name, reason in scores["refused"].items()
                )
                whose = [record["utt"], record["condition"], "-".join(record["sexes"]), method]
                table.writerow([*whose, *values, refused])


def closed_voices_heard(data: Path, mixtures: Iterable[Mixture]) -> bool:
    """Whether training heard the voices of the closed condition, as it did in the paper; in LibriMix it did not."""
    if (data / UTTERANCE_TABLE).is_file():
        trained = {row.speaker for row in read_table(data / UTTERANCE_TABLE) if row.split == "tr"}
    elif (data / "tr" / "utt2spk").is_file():
        trained = {
            speaker for mixture in read_data_dir(data / "tr") for speaker in mixture.speakers
        }
    else:
        return True
    return all(speaker in trained for mixture in mixtures for speaker in mixture.speakers)


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _digest_of_data(mixtures: dict[str, list[Mixture]]) -> str:
    """Of what is in the files and lists, not of where they lie."""
    digest = hashlib.sha256()
    for condition, group in mixtures.items():
        for mixture in group:
            digest.update(
                json.dumps([condition, mixture.utt_id, mixture.speakers, mixture.sexes]).encode()
            )
            for path in (mixture.mixture, *mixture.sources):
                if not path.is_file():
                    raise SpikeSepError(
                        f"{path}: not found; make the mixtures again (spikesep-prepare)"
                    )
            digest.update(_digest((mixture.mixture, *mixture.sources)).encode())
    return digest.hexdigest()
