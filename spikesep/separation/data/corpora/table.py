"""The table of utterances: one row per recording, with its speaker and its split.

It is a TSV file with a header, which people may read and edit. Every corpus is reduced to it.
"""

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import is_listable, read_lines, split_fields, write_text

SEXES = ("f", "m", "u")
"""Female, male, unknown."""
ABSENT = "none"
"""Speaker of a source that is silent throughout, in a mixture of fewer voices than sources."""
SPLITS = ("tr", "cv", "tt")
"""Training; closed condition (development, voices heard in training); open condition (test, voices
never heard)."""
UTTERANCE_TABLE = Path("local", "utterances.tsv")
"""Path of a recipe's table in its data folder."""


@dataclass(frozen=True)
class Utterance:
    """One recording of one voice.

    Attributes:
        utt_id: `<speaker>-<rest>`, unique in the table.
        path: Audio file.
        speaker: Letters and digits only, so that ids made of several speakers can be split.
        sex: `f`, `m`, or `u` if unknown.
        split: `tr`, `cv` or `tt`.
        duration: In seconds.
        corpus: Number of the corpus, from 0.
    """

    utt_id: str
    path: Path
    speaker: str
    sex: str
    split: str
    duration: float
    corpus: int = 0


ALL_COLUMNS = tuple(f.name for f in fields(Utterance))
COLUMNS = ALL_COLUMNS[:-1]
"""Columns of a table of one corpus; one of several has the column `corpus` too."""


def speaker_id(name: str) -> str:
    """Reduce a speaker's name to letters and digits (`tuxpaint-bg` becomes `tuxpaintbg`)."""
    return re.sub(r"[^A-Za-z0-9]", "", name)


def check_listable(path: Path) -> None:
    """Check that the table can hold the path of a recording.

    Raises:
        SpikeSepError: If the path contains a tab or a newline, or is not UTF-8.
    """
    if not is_listable(str(path), "\t\n"):
        raise SpikeSepError(
            f"{str(path)!r}: a list cannot hold this path (a tab, a newline, or not UTF-8); "
            "rename it"
        )


def write_table(path: str | Path, table: Iterable[Utterance]) -> None:
    """Write the table atomically, sorted by utterance id.

    Raises:
        SpikeSepError: See `check_listable`.
    """
    table = sorted(table, key=lambda row: row.utt_id)
    columns = ALL_COLUMNS if any(row.corpus for row in table) else COLUMNS
    rows = ["\t".join(columns)]
    for row in table:
        check_listable(row.path)
        *words, duration, corpus = astuple(row)
        rows.append("\t".join([*map(str, words), f"{duration:.6f}", str(corpus)][: len(columns)]))
    write_text(path, "\n".join(rows) + "\n")


def read_table(path: str | Path) -> list[Utterance]:
    """Read a table and check every row.

    Raises:
        SpikeSepError: If the file is missing, has a wrong header or number of fields, an invalid
            value, or a repeated utterance id. The message is `file:line: fault; remedy`.
    """
    path = Path(path)
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeSepError(
            f"{path}: no readable table of utterances; run spikesep-prepare corpus first ({error})"
        ) from error
    columns = tuple(lines[0].split("\t")) if lines else ()
    if columns not in (COLUMNS, ALL_COLUMNS):
        raise SpikeSepError(
            f"{path}:1: the header must be {' '.join(COLUMNS)}, tab-separated; restore it"
        )
    table: dict[str, Utterance] = {}
    for number, line in enumerate(lines[1:], start=2):
        row = _parse_row(line, f"{path}:{number}", len(columns))
        if row.utt_id in table:
            raise SpikeSepError(
                f"{path}:{number}: utterance id {row.utt_id} occurs twice; remove one row"
            )
        table[row.utt_id] = row
    if not table:
        raise SpikeSepError(f"{path}: lists no utterance; run spikesep-prepare corpus again")
    return list(table.values())


def _parse_row(line: str, where: str, n_columns: int) -> Utterance:
    words = line.split("\t")
    if len(words) != n_columns:
        raise SpikeSepError(
            f"{where}: {len(words)} fields where {n_columns} are needed; separate them by one tab"
        )
    utt_id, path, speaker, sex, split, duration, corpus = [*words, "0"][: len(ALL_COLUMNS)]
    try:
        seconds = float(duration)
    except ValueError:
        seconds = 0.0
    valid_speaker = bool(speaker) and speaker == speaker_id(speaker)
    valid_id = (
        utt_id.startswith(f"{speaker}-")
        and len(utt_id) > len(speaker) + 1
        and split_fields(utt_id) == [utt_id]
    )
    rules = {
        f"speaker {speaker!r} may hold letters and digits only": valid_speaker,
        f"utterance id {utt_id!r} must be {speaker}- and a name without spaces": valid_id,
        f"sex {sex!r} must be one of {' '.join(SEXES)}": sex in SEXES,
        f"split {split!r} must be one of {' '.join(SPLITS)}": split in SPLITS,
        f"duration {duration!r} must be a positive number of seconds": 0 < seconds < float("inf"),
        "the path is empty": bool(path),
        f"corpus {corpus!r} must be a whole number": corpus.isascii() and corpus.isdigit(),
    }
    for rule, satisfied in rules.items():
        if not satisfied:
            raise SpikeSepError(f"{where}: {rule}; correct the row")
    return Utterance(utt_id, Path(path), speaker, sex, split, seconds, int(corpus))
