"""Lists that say which recordings are mixed, and how: the published ones of WSJ0-2mix (`mix_2_spk_tr.txt`) and the
metadata of LibriMix (`libri2mix_train-clean-100.csv`), or any of the same form and for any number of speakers.
"""

import csv
import hashlib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spikesep.errors import SpikeSepError
from spikesep.files import SPACES, atomic_path, fields_of, read_lines, write_text
from spikesep.separation.data.corpora.table import SPLITS

PUBLISHED = {
    "tr": (20000, 101, "199ab7b858e3629f"),
    "cv": (5000, 101, "5189272f186fc22c"),
    "tt": (3000, 18, "f75123c40384a204"),
}
"""Rows and speakers of the published lists of WSJ0-2mix, and their `hash_of_list`."""


@dataclass(frozen=True)
class ListRow:
    """One mixture of a list: where it stands (`file:line`), its name, its recordings as listed, and their gains."""

    where: str
    name: str
    recordings: tuple[str, ...]
    gains: tuple[float, ...]
    noise: str = ""
    noise_gain: float = 0.0

    @property
    def keys(self) -> tuple[str, ...]:
        """What tells a recording of the corpus from the others: its file name without folder and suffix."""
        return tuple(recording_key(name) for name in self.recordings)


def recording_key(name: str | Path) -> str:
    """File name without folder and suffix, in small letters: discs and lists differ in the rest."""
    return PurePosixPath(name).stem.lower()


def find_lists(folder: str | Path, n_speakers: int) -> dict[str, list[Path]]:
    """The lists in a folder, by split.

    Raises:
        SpikeSepError: it is no folder, or holds no list for a split.
    """
    folder = Path(folder)
    found = {split: sorted(folder.glob(f"mix_{n_speakers}_spk_{split}.txt")) for split in SPLITS}
    if not any(found.values()):
        subsets = {"tr": "train-*", "cv": "dev-*", "tt": "test-*"}
        found = {
            split: [
                path
                for name in (split, subsets[split])
                for path in sorted(folder.glob(f"libri{n_speakers}mix_{name}.csv"))
                if not path.stem.endswith("_info")
            ]
            for split in SPLITS
        }
    for split, paths in found.items():
        if not paths:
            raise SpikeSepError(
                f"{folder}: no mix_{n_speakers}_spk_{split}.txt (or metadata of Libri{n_speakers}Mix) is there; "
                "give the folder of all three lists (--mix-lists), or leave the option out to have lists drawn"
            )
    return found


def read_lists(
    folder: str | Path, n_speakers: int, subsets: Collection[str]
) -> tuple[dict[str, list[tuple[Path, list[ListRow]]]], list[str]]:
    """All lists in a folder, by split, and notices for the user.

    Of several lists of a split (LibriMix has two for training), those of subsets that the corpus lacks are left out.

    Raises:
        SpikeSepError: as `find_lists` and `read_list`.
    """
    notices, read = [], {}
    for split, paths in find_lists(folder, n_speakers).items():
        lists = [(path, read_list(path)) for path in paths]
        read[split] = [
            (path, rows)
            for path, rows in lists
            if len(lists) == 1 or rows[0].recordings[0].split("/")[0] in subsets
        ] or lists
        left_out = [path for path, rows in lists if (path, rows) not in read[split]]
        notices += [
            f"{path}: left out, as its subset is not in the corpus folder" for path in left_out
        ]
    return read, notices


def read_list(path: Path) -> list[ListRow]:
    """The rows of one list, of either form.

    Raises:
        SpikeSepError: `file:line: what; remedy` for a file that cannot be read, is empty or has a faulty or repeated
        row.
    """
    try:
        rows = _read_metadata(path) if path.suffix == ".csv" else _read_mix_list(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpikeSepError(f"{path}: cannot be read ({error}); give another list") from error
    if not rows:
        raise SpikeSepError(f"{path}: lists no mixture; give a list that is not empty")
    names: set[str] = set()
    for row in rows:
        if re.search(f"[/{SPACES}]", row.name) or row.name in ("", ".", ".."):
            raise SpikeSepError(
                f"{row.where}: {row.name!r} cannot name a mixture's files; leave out spaces and /"
            )
        if row.name in names:
            raise SpikeSepError(f"{row.where}: {row.name} stands twice; remove one row")
        if len(row.recordings) != len(rows[0].recordings):
            raise SpikeSepError(
                f"{row.where}: {len(row.recordings)} recordings where others have another number"
            )
        names.add(row.name)
    return rows


def describe_list(path: Path, rows: Sequence[ListRow]) -> str:
    """One line for the user: rows and speakers, and whether it is the published list."""
    speakers = {PurePosixPath(name).parent.name for row in rows for name in row.recordings}
    line = f"{path}: {len(rows)} mixtures of {len(speakers)} speakers"
    split = path.stem.rpartition("_")[2]
    if path.suffix == ".csv" or path.stem != f"mix_2_spk_{split}" or split not in PUBLISHED:
        return line
    n_rows, n_speakers, digest = PUBLISHED[split]
    if hash_of_list(rows) == digest and (len(rows), len(speakers)) == (n_rows, n_speakers):
        return f"{line}: the published list"
    return f"{line}: NOT the published list, which has {n_rows} of {n_speakers}"


def hash_of_list(rows: Sequence[ListRow]) -> str:
    """Of what a list says, whatever its spaces and line ends."""
    text = "\n".join(f"{row.name} {' '.join(row.recordings)}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mixture_name(recordings: Sequence[str], weights: Sequence[float]) -> str:
    """`<utt1>_<w1>_<utt2>_<w2>`, weights with five significant digits, as the original script prints them."""
    return "_".join(
        f"{PurePosixPath(name).stem}_{weight:.5g}"
        for name, weight in zip(recordings, weights, strict=True)
    )


def write_mix_list(path: Path, rows: Sequence[ListRow]) -> None:
    """Write a list in the form of WSJ0-2mix: recording and weight by turns, and a space at the end of each line.

    Raises:
        SpikeSepError: the name of a recording has a space in it.
    """
    lines = []
    for row in rows:
        for name in row.recordings:
            if fields_of(name) != [name]:
                raise SpikeSepError(
                    f"{name!r}: a list of WSJ0-2mix cannot hold spaces; rename the recording"
                )
        lines.append(
            "".join(
                f"{name} {gain:.5g} " for name, gain in zip(row.recordings, row.gains, strict=True)
            )
        )
    write_text(path, "\n".join(lines) + "\n")


def write_metadata(path: Path, rows: Sequence[ListRow]) -> None:
    """In the form of LibriMix; its noise columns too where there is noise."""
    n = len(rows[0].recordings)
    head = ["mixture_ID"] + [
        f"source_{k + 1}_{what}" for k in range(n) for what in ("path", "gain")
    ]
    noisy = bool(rows[0].noise)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head + ["noise_path", "noise_gain"] * noisy)
        for row in rows:
            sources = [
                value for pair in zip(row.recordings, row.gains, strict=True) for value in pair
            ]
            writer.writerow([row.name, *sources, *([row.noise, row.noise_gain] if noisy else [])])


def _read_mix_list(path: Path) -> list[ListRow]:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        if not (fields := fields_of(line)):
            continue
        where = f"{path}:{number}"
        weights = tuple(_number(where, text) for text in fields[1::2])
        if len(fields) < 4 or len(fields) % 2:
            raise SpikeSepError(
                f"{where}: {line!r} is not recording and weight by turns; correct the row"
            )
        recordings = tuple(fields[::2])
        rows.append(ListRow(where, mixture_name(recordings, weights), recordings, weights))
    return rows


def _read_metadata(path: Path) -> list[ListRow]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        n = sum(
            column.endswith("_path") and column.startswith("source_")
            for column in reader.fieldnames or ()
        )
        wanted = [
            "mixture_ID",
            *(f"source_{k + 1}_{what}" for k in range(n) for what in ("path", "gain")),
        ]
        absent = [column for column in wanted if column not in (reader.fieldnames or ())]
        if absent or not n:
            raise SpikeSepError(
                f"{path}:1: no column {(absent or ['source_1_path'])[0]}; give metadata of LibriMix"
            )
        for fields in reader:
            where = f"{path}:{reader.line_num}"
            recordings = tuple(fields[f"source_{k + 1}_path"] or "" for k in range(n))
            gains = tuple(_number(where, fields[f"source_{k + 1}_gain"]) for k in range(n))
            noise = fields.get("noise_path") or ""
            noise_gain = _number(where, fields.get("noise_gain")) if noise else 0.0
            rows.append(
                ListRow(where, fields["mixture_ID"] or "", recordings, gains, noise, noise_gain)
            )
    return rows


def _number(where: str, text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SpikeSepError(f"{where}: {text!r} is not a number; correct the row")
    return number
