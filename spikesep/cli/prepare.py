"""`spikesep-prepare corpus` lists the utterances of a corpus; `spikesep-prepare mixtures` mixes them and writes the
data directories. A second run says what is there already, and mends what is missing of it.
"""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spikesep.cli.common import recipe_of, recipe_parser, run, unwinding
from spikesep.errors import SpikeSepError
from spikesep.files import hash_files, json_file_equals, write_json
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

SETTINGS = "settings.json"


def main(argv: list[str] | None = None) -> None:
    """Entry point of `spikesep-prepare`."""
    run(_parser(), _prepare, argv)


def _parser() -> ArgumentParser:
    parser = recipe_parser(
        "spikesep-prepare", "Find or fetch a corpus; make mixtures of it.", exp=False
    )
    parser.add_argument(
        "task", choices=["corpus", "mixtures"], help="list utterances, or mix those that are listed"
    )
    parser.add_argument(
        "--downloads",
        type=Path | None,
        default=None,
        help="folder of fetched corpora; beside --data",
    )
    return parser


def _prepare(options: Namespace) -> None:
    recipe = recipe_of(options)
    check_procedure(recipe)
    if recipe.model.n_speakers != recipe.mixing.n_speakers:
        raise SpikeSepError(
            f"--model.n_speakers {recipe.model.n_speakers}: mixtures would be of {recipe.mixing.n_speakers}; "
            "give --mixing.n_speakers and --model.n_speakers the same number"
        )
    with unwinding():  # apt-get ends with it, and scratch files are removed
        if options.task == "corpus":
            prepare_corpus(options)
        else:
            prepare_mixtures(options)


def prepare_corpus(options: Namespace) -> None:
    """Write `<data>/local/utterances.tsv`, unless it is there, made by these settings, and all its files are too."""
    path = options.data / UTTERANCE_TABLE
    stamp = path.with_name(SETTINGS)
    settings = {
        "seed": options.seed,
        "corpus": asdict(options.corpus),
        "n_speakers": options.mixing.n_speakers,
    }
    if options.corpus.lists:
        lists = find_mixture_lists(options.corpus.lists, options.mixing.n_speakers)
        settings["lists"] = hash_files([path for paths in lists.values() for path in paths])
    if path.exists() and json_file_equals(stamp, settings):
        table = read_table(path)
        lost = sum(not row.path.is_file() for row in table)
        if not lost:
            print(
                f"{path}: {len(table)} utterances are listed as asked (to list them anew, remove the file)"
            )
            _print_voices(table)
            return
        print(f"{path}: {lost} of its recordings are gone; listing the corpus anew")
    downloads = options.downloads or options.data.resolve().parent / "downloads"
    listing = (
        options.corpus,
        downloads,
        options.seed,
        options.launch.n_jobs,
        options.mixing.n_speakers,
    )
    table, notices = list_utterances(*listing)
    stamp.unlink(missing_ok=True)
    write_table(path, table)
    write_json(stamp, settings)
    for notice in notices:
        print(f"note: {notice}")
    print(f"{path}: {len(table)} utterances")
    _print_voices(table)


def prepare_mixtures(options: Namespace) -> None:
    """Write the mixtures and the data directories `<data>/{tr,cv,tt}/`."""
    _print_mixtures(make_mixtures(options.data, recipe_of(options)))


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
    return [
        *(str(counts[split] or "-") for split in SPLITS),
        f"{sum(row.duration for row in rows) / 60:.1f}",
    ]


def _print_mixtures(made: list[RenderedSet]) -> None:
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
