"""`spikesep-prepare`: list the utterances of a corpus, then render mixtures of them (stage 1).

Both tasks check what exists already and complete what is missing.
"""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spikesep.cli.common import exit_on_signal, recipe_parser, run, to_recipe
from spikesep.errors import SpikeSepError
from spikesep.files import hash_files, write_json
from spikesep.separation.data.corpora import list_utterances
from spikesep.separation.data.corpora.mixture_lists import find_mixture_lists
from spikesep.separation.data.corpora.table import (
    SPLITS,
    UTTERANCE_TABLE,
    Utterance,
    read_table,
    write_table,
)
from spikesep.separation.data.preparation import RenderedSet, check_procedure, make_mixtures
from spikesep.training.renamed import is_record

SETTINGS = "settings.json"
MAX_SPEAKERS_SHOWN = 40


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), prepare, argv)


def _parser() -> ArgumentParser:
    parser = recipe_parser(
        "spikesep-prepare",
        "List or download a corpus, and render mixtures of it.",
        exp=False,
    )
    parser.add_argument(
        "task",
        choices=["corpus", "mixtures"],
        help="list the utterances of the corpus, or mix listed utterances",
    )
    parser.add_argument(
        "--downloads",
        type=Path | None,
        default=None,
        help="folder for downloaded corpora (default: downloads beside --data)",
    )
    return parser


def prepare(options: Namespace) -> None:
    """Run the task that `options.task` names."""
    recipe = to_recipe(options)
    check_procedure(recipe)
    if recipe.model.n_speakers != recipe.mixing.n_speakers:
        raise SpikeSepError(
            f"--model.n_speakers {recipe.model.n_speakers}: mixtures would have "
            f"{recipe.mixing.n_speakers} voices; give --mixing.n_speakers and --model.n_speakers "
            "the same number"
        )
    with exit_on_signal():  # ends child processes and removes scratch files
        if options.task == "corpus":
            prepare_corpus(options)
        else:
            _print_mixtures(make_mixtures(options.data, recipe))


def prepare_corpus(options: Namespace) -> None:
    """Write `<data>/local/utterances.tsv`, unless one with these settings and all files exists."""
    path = options.data / UTTERANCE_TABLE
    stamp = path.with_name(SETTINGS)
    settings = _corpus_settings(options)
    if path.exists() and is_record(stamp, settings):
        table = read_table(path)
        n_missing = sum(not row.path.is_file() for row in table)
        if not n_missing:
            print(
                f"{path}: {len(table)} utterances are listed with these settings (remove the file "
                "to list them again)"
            )
            _print_speakers(table)
            return
        print(f"{path}: {n_missing} of its recordings are missing; listing the corpus again")
    table, notices = list_utterances(
        options.corpus,
        options.downloads or options.data.resolve().parent / "downloads",
        options.seed,
        options.launch.n_jobs,
        options.mixing.n_speakers,
    )
    stamp.unlink(missing_ok=True)
    write_table(path, table)
    write_json(stamp, settings)
    for notice in notices:
        print(f"note: {notice}")
    print(f"{path}: {len(table)} utterances")
    _print_speakers(table)


def _corpus_settings(options: Namespace) -> dict[str, Any]:
    """Collect the settings that decide which utterances are listed."""
    corpus = asdict(options.corpus)
    if not corpus["max_per_speaker"]:
        del corpus["max_per_speaker"]  # lists of earlier versions have no such setting
    settings = {
        "seed": options.seed,
        "corpus": corpus,
        "n_speakers": options.mixing.n_speakers,
    }
    if options.corpus.lists:
        lists = find_mixture_lists(options.corpus.lists, options.mixing.n_speakers)
        settings["lists"] = hash_files([path for paths in lists.values() for path in paths])
    return settings


def _print_speakers(table: list[Utterance]) -> None:
    """Print the number of utterances per speaker and split, or only the sums if there are many."""
    shown = Table("speaker", "sex", *SPLITS, "minutes", title="utterances")
    for column in shown.columns[2:]:
        column.justify = "right"
    speakers = sorted({(row.speaker, row.sex) for row in table})
    for speaker, sex in speakers if len(speakers) <= MAX_SPEAKERS_SHOWN else []:
        own = [row for row in table if row.speaker == speaker]
        shown.add_row(speaker, sex, *_counts(own))
    shown.add_row(f"all {len(speakers)}", "", *_counts(table))
    Console().print(shown)


def _counts(rows: list[Utterance]) -> list[str]:
    counts = Counter(row.split for row in rows)
    return [
        *(str(counts[split] or "-") for split in SPLITS),
        f"{sum(row.duration for row in rows) / 60:.1f}",
    ]


def _print_mixtures(made: list[RenderedSet]) -> None:
    """Print the number of mixtures and speakers of each set."""
    shown = Table(
        "set", "version", "mixtures", "same sex", "different", "speakers", title="mixtures"
    )
    for column in shown.columns[2:]:
        column.justify = "right"
    for each in made:
        groups = Counter(mixture.group for mixture in each.mixtures)
        speakers = {speaker for mixture in each.mixtures for speaker in mixture.speakers}
        counts = (len(each.mixtures), groups["same"], groups["diff"], len(speakers))
        shown.add_row(each.split, each.version.label, *map(str, counts))
    Console().print(shown)
