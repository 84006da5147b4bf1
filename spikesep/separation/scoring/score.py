"""Score the mixtures, the analog and the spiking network of an experiment in both conditions.

Each finished utterance is one line of a journal, so that a killed run resumes. A journal belongs to
one set of models and data. Shards, on one machine or several, keep one journal each; a run without
a shard merges all journals and scores what is missing. `results` computes and formats the means.
"""

import csv
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spikesep.errors import SpikeSepError, SpikeSepWarning
from spikesep.files import atomic_path, read_json, write_json, write_text
from spikesep.provenance import provenance
from spikesep.separation.config import ScoringConfig
from spikesep.separation.scoring import by_voices, figures, results
from spikesep.separation.scoring.inputs import (
    STAGES,
    Inputs,
    Job,
    UtteranceKey,
    closed_voices_heard,
    find_inputs,
)
from spikesep.separation.scoring.journal import (
    find_journals,
    journal_path,
    open_journal,
    read_journals,
    remove_journals,
    utterance_key,
)
from spikesep.separation.scoring.utterance import Record, score_all
from spikesep.training.records.history import History, cut_short


@dataclass(frozen=True)
class Shard:
    """A part of the utterances: every `of`-th, starting with the `number`-th, counted from 1."""

    number: int
    of: int

    @property
    def name(self) -> str:
        """Name of the shard in file names."""
        return f"{self.number}of{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse a shard such as `2/8`.

        Raises:
            SpikeSepError: the text has another form, or the number is out of range.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise SpikeSepError(
                f"--shard {text}: give the number of the shard and the number of shards, as 2/8"
            )
        return cls(int(number), int(of))


def score_experiment(
    data: Path,
    exp: Path,
    config: ScoringConfig,
    *,
    modes: Mapping[str, Path] | None = None,
    n_jobs: int = 0,
    seed: int = 0,
    redo: bool = False,
    command: str = "",
    shard: Shard | None = None,
) -> dict[str, Any] | None:
    """Score `exp/ann` and `exp/snn` on `data/cv` and `data/tt`.

    Args:
        data: folder of the Kaldi data directories.
        exp: folder of the two models; receives `results.json`, `scores.csv`, `RESULTS.md` and
            `figures/`.
        config: the metrics.
        modes: folders of the data directories of each mode, that of `data` first; see
            `find_modes`. None for `data` alone.
        n_jobs: processes; 0 uses all cores, 1 computes in this process.
        seed, command: recorded in the results; scoring itself is deterministic.
        redo: score finished utterances again.
        shard: score only this part, into its journal.

    Returns:
        The contents of `results.json`; None for a shard.

    Raises:
        SpikeSepError: a model or file is missing or unreadable, or a process died.
    """
    inputs = find_inputs(data, exp, config, modes)
    _tell_left_out(inputs, exp)
    journal = journal_path(exp, shard.name if shard else None)
    journals = [journal] if shard else find_journals(exp)
    finished = {} if redo else read_journals(journals, inputs.key)
    jobs = _jobs(inputs, shard)
    waiting = _waiting(jobs, finished)
    with open_journal(journal, inputs.key, finished) as append:
        for record in score_all(waiting, exp, inputs, tuple(config.metrics), n_jobs):
            append(record)
            finished[utterance_key(record)] = record
    if shard:
        return None
    records = [finished[job.key] for job in jobs]
    found = _summarize(records, exp, config, inputs)
    closed = [job.mixture for job in jobs if job.condition == "closed"]
    found["closed_voices_heard"] = closed_voices_heard(data, closed)
    found |= {"seed": seed, "command": command}
    found["energy"] = results.energy_of(found, config.energy_table)[0].to_dict()
    _write(found, records, exp, config.metrics)
    remove_journals(journals)
    return found


def _tell_left_out(inputs: Inputs, exp: Path) -> None:
    """Warn that the tracks of conversations cannot be scored, if they cannot."""
    if inputs.tracks is None and any(job.turns for job in inputs.jobs):
        warnings.warn(
            f"{exp}: has no embedder of speakers, so conversations are scored without tracks; "
            "spikesep-tracks trains one (stage 6)",
            SpikeSepWarning,
            stacklevel=3,
        )


def _jobs(inputs: Inputs, shard: Shard | None) -> list[Job]:
    """List the mixtures of a shard, or all of them."""
    return inputs.jobs[shard.number - 1 :: shard.of] if shard else inputs.jobs


def _waiting(jobs: list[Job], finished: dict[UtteranceKey, Record]) -> list[Job]:
    """List the unfinished jobs, longest first, as a long last one would leave cores idle."""
    waiting = [job for job in jobs if job.key not in finished]
    return sorted(waiting, key=lambda job: job.mixture.mixture.stat().st_size, reverse=True)


def _summarize(
    records: list[Record], exp: Path, config: ScoringConfig, inputs: Inputs
) -> dict[str, Any]:
    """Compute the means, and add what the scores depend on."""
    models = {name: read_json(exp / name / "config.json") for name in STAGES}
    return {
        **results.summarize(records, config.metrics, inputs.modes[0]),
        "modes": list(inputs.modes),
        "by_voices": by_voices.summarize(records, config.metrics),
        "sample_rate": models["ann"]["model"]["sample_rate"],
        "config": {"scoring": asdict(config), **models},
        "model_hash": inputs.model_hash,
        "data_hash": inputs.data_hash,
        "cut_short": cut_short(History(exp / "history.csv").read()),
        **provenance(),
        "key": inputs.key,
    }


def _write(found: dict[str, Any], records: list[Record], exp: Path, metrics: Iterable[str]) -> None:
    _write_scores(exp / "scores.csv", records, metrics)
    _write_report(exp, found, found["energy"]["table"])
    figures.draw(exp, exp / "figures")
    write_json(exp / "results.json", found)  # last, as it marks scoring as complete


def _write_report(exp: Path, found: dict[str, Any], table: str) -> None:
    report = [results.markdown(found, table), *by_voices.markdown(found)]
    write_text(exp / "RESULTS.md", "\n".join(report))


def set_energy_table(exp: Path, found: dict[str, Any], table: str) -> None:
    """Write complete results again with the energies of another table, if it is another one."""
    if found.get("energy", {}).get("table", "45nm") != table:
        found["energy"] = results.energy_of(found, table)[0].to_dict()
        _write_report(exp, found, table)
        write_json(exp / "results.json", found)


def _write_scores(path: Path, records: list[Record], metrics: Iterable[str]) -> None:
    """Write one row per utterance and method."""
    columns = ("si_sdr", "si_sdri", *metrics, *by_voices.COLUMNS)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        about = ["utt", "condition", "mode", "voices", "sexes", "method"]
        table.writerow([*about, *columns, "refused"])
        for record in records:
            values = {**record, "sexes": "-".join(record["sexes"])}
            for method, scores in record["scores"].items():
                row = [values[name] for name in about[:-1]] + [method]
                found = [scores.get(name) for name in columns]
                row += ["" if value is None else f"{value:.4f}" for value in found]
                reasons = (f"{name}: {reason}" for name, reason in scores["refused"].items())
                table.writerow([*row, "; ".join(reasons)])
