"""The table of utterances that every corpus comes down to: one row a recording, with its speaker and its split.
It is a TSV file with a header, meant to be read and edited by people too.
"""

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import fields_of, listable, read_lines, write_text

SEXES = ("f", "m", "u")
SPLITS = ("tr", "cv", "tt")
"""Training; closed condition (development: voices heard in training); open condition (test: voices never heard)."""
UTTERANCES = Path("local", "utterances.tsv")
"""Where a recipe's table lies, in its folder of data."""


@dataclass(frozen=True)
class Utterance:
    """One recording of one voice.

    Attributes:
        utt_id: `<speaker>-<rest>`, unique in the table.
        path: the audio file.
        speaker: letters and digits only, so that ids made of several speakers can be taken apart again.
        sex: `f`, `m`, or `u` where it is not known.
        split: `tr`, `cv` or `tt`.
        duration: seconds.
    """

    utt_id: str
    path: Path
    speaker: str
    sex: str
    split: str
    duration: float


COLUMNS = tuple(f.name for f in fields(Utterance))


def speaker_id(name: str) -> str:
    """A speaker's name as it stands in the tables: its letters and digits (`tuxpaint-bg` becomes `tuxpaintbg`)."""
    return re.sub(r"[^A-Za-z0-9]", "", name)


def check_listable(path: Path) -> None:
    """Check that a recording's path can stand in the table.

    Raises:
        SpikeSepError: it holds a tab or a newline, or is not UTF-8.
    """
    if not listable(str(path), "\t\n"):
        raise SpikeSepError(
            f"{str(path)!r}: a list cannot hold this path (a tab, a newline, or not UTF-8); rename it"
        )


def write_table(path: str | Path, table: Iterable[Utterance]) -> None:
    """Write the table sorted by utterance id, whole or not at all.

    Raises:
        SpikeSepError: as `check_listable`.
    """
    rows = ["\t".join(COLUMNS)]
    for row in sorted(table, key=lambda row: row.utt_id):
        check_listable(row.path)
        *words, duration = astuple(row)
        rows.append("\t".join([*map(str, words), f"{duration:.6f}"]))
    write_text(path, "\n".join(rows) + "\n")


def read_table(path: str | Path) -> list[Utterance]:
    """Read a table and check every row.

    Raises:
        SpikeSepError: `file:line: what; remedy` for a missing file, a wrong header, a wrong number of fields, a value
            that cannot be, or a repeated utterance id.
    """
    path = Path(path)
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeSepError(
            f"{path}: no readable table of utterances; run spikesep-prepare corpus first ({error})"
        ) from error
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        raise SpikeSepError(
            f"{path}:1: the header must be {' '.join(COLUMNS)}, tab-separated; put it back"
        )
    table: dict[str, Utterance] = {}
    for number, line in enumerate(lines[1:], start=2):
        row = _parse(line, f"{path}:{number}")
        if row.utt_id in table:
            raise SpikeSepError(
                f"{path}:{number}: utterance id {row.utt_id} stands twice; remove one row"
            )
        table[row.utt_id] = row
    if not table:
        raise SpikeSepError(f"{path}: lists no utterance; run spikesep-prepare corpus again")
    return list(table.values())


def _parse(line: str, where: str) -> Utterance:
    words = line.split("\t")
    if len(words) != len(COLUMNS):
        raise SpikeSepError(
            f"{where}: {len(words)} fields where {len(COLUMNS)} are needed; separate them by one tab"
        )
    utt_id, path, speaker, sex, split, duration = words
    try:
        seconds = float(duration)
    except ValueError:
        seconds = 0.0
    faults = {
        f"speaker {speaker!r} may hold letters and digits only": not speaker
        or speaker != speaker_id(speaker),
        f"utterance id {utt_id!r} must be {speaker}- and a name without spaces": not (
            utt_id.startswith(f"{speaker}-")
            and len(utt_id) > len(speaker) + 1
            and fields_of(utt_id) == [utt_id]
        ),
        f"sex {sex!r} must be one of {' '.join(SEXES)}": sex not in SEXES,
        f"split {split!r} must be one of {' '.join(SPLITS)}": split not in SPLITS,
        f"duration {duration!r} must be a positive number of seconds": not 0
        < seconds
        < float("inf"),
        "the path is empty": not path,
    }
    for fault, found in faults.items():
        if found:
            raise SpikeSepError(f"{where}: {fault}; correct the row")
    return Utterance(utt_id, Path(path), speaker, sex, split, seconds)
