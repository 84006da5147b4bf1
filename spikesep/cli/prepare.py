"""`spikesep-prepare corpus` lists the utterances of a corpus; `spikesep-prepare mixtures` mixes them and writes the
data directories. A second run says what is there already, and mends what is missing of it.
"""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spikesep.cli.common import recipe_parser, run
from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, read_json, write_json
from spikesep.separation.config import MixingConfig
from spikesep.separation.corpora import list_utterances
from spikesep.separation.corpora.table import SPLITS, Utterance, read_table, write_table
from spikesep.separation.kaldi import Mixture, validate_data_dir, write_data_dir
from spikesep.separation.mixing import PlannedMixture, plan_mixtures, planned_files, render_mixtures

SETTINGS = "settings.json"


def main(argv: list[str] | None = None) -> None:
    """Entry point of `spikesep-prepare`."""
    run(_parser(), _prepare, argv)


def _parser() -> ArgumentParser:
    parser = recipe_parser("spikesep-prepare", "Find or fetch a corpus; make mixtures of it.", exp=False)
    parser.add_argument("task", choices=["corpus", "mixtures"], help="list utterances, or mix those that are listed")
    parser.add_argument("--downloads", type=Path | None, default=None, help="folder of fetched corpora; beside --data")
    return parser


def _prepare(options: Namespace) -> None:
    if options.task == "corpus":
        prepare_corpus(options)
    else:
        prepare_mixtures(options)


def prepare_corpus(options: Namespace) -> None:
    """Write `<data>/local/utterances.tsv`, unless it is there, made by these settings, and all its files are too."""
    path = options.data / "local" / "utterances.tsv"
    stamp = path.with_name(SETTINGS)
    settings = _as_json({"seed": options.seed, "corpus": asdict(options.corpus)})
    if path.exists() and _has_settings(stamp, settings):
        table = read_table(path)
        lost = sum(not row.path.is_file() for row in table)
        if not lost:
            print(f"{path}: {len(table)} utterances are listed as asked (to list them anew, remove the file)")
            _print_voices(table)
            return
        print(f"{path}: {lost} of its recordings are gone; listing the corpus anew")
    downloads = options.downloads or options.data.resolve().parent / "downloads"
    table, notices = list_utterances(options.corpus, downloads, options.seed, options.launch.n_jobs)
    stamp.unlink(missing_ok=True)
    write_table(path, table)
    write_json(stamp, settings)
    for notice in notices:
        print(f"note: {notice}")
    print(f"{path}: {len(table)} utterances")
    _print_voices(table)


def prepare_mixtures(options: Namespace) -> None:
    """Write `<data>/wav/{tr,cv,tt}/` and the data directories `<data>/{tr,cv,tt}/`."""
    path = options.data / "local" / "utterances.tsv"
    table = read_table(path)
    listed = hashlib.sha256(path.read_bytes()).hexdigest()
    mixing = options.mixing
    made = {}
    for split, n in zip(SPLITS, (mixing.n_train, mixing.n_closed, mixing.n_open), strict=True):
        plan = plan_mixtures(table, split, n, mixing, options.seed)
        settings = {"seed": options.seed, "n": n, "utterances_sha256": listed}
        settings |= {name: getattr(mixing, name) for name in ("sample_rate", "max_seconds", "snr_db")}
        made[split] = _prepare_split(options.data, split, plan, mixing, _as_json(settings), options.launch.n_jobs)
    _print_mixtures(made, mixing.sample_rate)


def _prepare_split(
    data: Path, split: str, plan: list[PlannedMixture], mixing: MixingConfig, settings: Any, n_jobs: int
) -> list[tuple[PlannedMixture, Mixture]]:
    """Render one split as far as it is missing, and write its data directory if that is not as it should be."""
    folder, directory = data / "wav" / split, data / split
    if not _has_settings(folder / SETTINGS, settings):
        _clear(folder)
        (directory / "wav.scp").unlink(missing_ok=True)  # what it lists is gone
        write_json(folder / SETTINGS, settings)
    written = render_mixtures(plan, folder.absolute(), mixing, n_jobs)
    mixtures = [planned_files(planned, folder.absolute()) for planned in plan]
    try:
        whole = validate_data_dir(directory) == mixtures and (directory / "mixtures.tsv").exists()
    except SpikeSepError:
        whole = False
    if not whole:
        _write_plan(directory / "mixtures.tsv", plan, mixing.sample_rate)
        write_data_dir(directory, mixtures)
        validate_data_dir(directory)
    if written == 0 and whole:
        print(f"{directory}: {len(plan)} mixtures are there as asked (to mix them anew, remove {folder})")
    else:
        print(f"{directory}: {len(plan)} mixtures, {written} of them written now")
    return list(zip(plan, mixtures, strict=True))


def _clear(folder: Path) -> None:
    """Remove mixtures of other settings; nothing that this command did not make."""
    if not folder.exists():
        return
    if not (folder / SETTINGS).exists():
        raise SpikeSepError(
            f"{folder}: holds files that spikesep-prepare did not make; move them away or give another --data"
        )
    print(f"{folder}: made with other settings; mixing anew")
    shutil.rmtree(folder)


def _write_plan(path: Path, plan: list[PlannedMixture], sample_rate: int) -> None:
    """What each mixture is made of, for people: a start is where a cut begins, unless there was a pause there."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        print("utt_id", "first", "second", "first_start", "second_start", "seconds", "snr_db", sep="\t", file=out)
        for planned in plan:
            seconds = (samples / sample_rate for samples in (*planned.starts, planned.samples))
            names = (row.utt_id for row in planned.utterances)
            print(planned.utt_id, *names, *(f"{s:.4f}" for s in seconds), planned.snr_db, sep="\t", file=out)


def _has_settings(stamp: Path, settings: Any) -> bool:
    try:
        return read_json(stamp) == settings
    except SpikeSepError:
        return False


def _as_json(value: Any) -> Any:
    """The value as reading it back will give it: tuples become lists."""
    return json.loads(json.dumps(value))


def _print_voices(table: list[Utterance]) -> None:
    shown = Table("speaker", "sex", *SPLITS, "minutes", title="utterances")
    for column in shown.columns[2:]:
        column.justify = "right"
    voices = sorted({(row.speaker, row.sex) for row in table})
    for speaker, sex in voices if len(voices) <= 40 else []:
        own = [row for row in table if row.speaker == speaker]
        shown.add_row(speaker, sex, *_counts(own))
    shown.add_row(f"all {len(voices)}", "", *_counts(table))
    Console().print(shown)


def _counts(rows: list[Utterance]) -> list[str]:
    counts = Counter(row.split for row in rows)
    return [*(str(counts[split] or "-") for split in SPLITS), f"{sum(row.duration for row in rows) / 60:.1f}"]


def _print_mixtures(made: dict[str, list[tuple[PlannedMixture, Mixture]]], sample_rate: int) -> None:
    shown = Table("set", "mixtures", "same sex", "different", "speakers", "minutes", title="mixtures")
    for column in shown.columns[1:]:
        column.justify = "right"
    for split, rows in made.items():
        groups = Counter(mixture.group for _, mixture in rows)
        speakers = {speaker for _, mixture in rows for speaker in mixture.speakers}
        minutes = sum(planned.samples for planned, _ in rows) / sample_rate / 60
        shown.add_row(split, *map(str, (len(rows), groups["same"], groups["diff"], len(speakers))), f"{minutes:.1f}")
    Console().print(shown)
