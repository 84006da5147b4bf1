"""Mixture lists, which name the recordings of each mixture and their gains.

Two formats are supported, for any number of speakers: the published lists of WSJ0-2mix
(`mix_2_spk_tr.txt`) and the metadata of LibriMix (`libri2mix_train-clean-100.csv`).
"""

import csv
import hashlib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spikesep.errors import SpikeSepError
from spikesep.files import WHITESPACE, atomic_path, read_lines, split_fields, write_text
from spikesep.separation.data.corpora.table import SPLITS

PUBLISHED = {
    "tr": (20000, 101, "199ab7b858e3629f"),
    "cv": (5000, 101, "5189272f186fc22c"),
    "tt": (3000, 18, "f75123c40384a204"),
}
"""Number of rows, number of speakers and `hash_mixture_list` of the published WSJ0-2mix lists."""


@dataclass(frozen=True)
class MixtureListRow:
    """One mixture of a list.

    Attributes:
        where: Position of the row, `file:line`.
        name: Name of the mixture.
        recordings: Its recordings, as listed.
        gains: Their gains; dB in WSJ0-2mix, factors in LibriMix.
        noise: Path of its noise in WHAM, or empty.
        noise_gain: Gain of the noise, as a factor.
    """

    where: str
    name: str
    recordings: tuple[str, ...]
    gains: tuple[float, ...]
    noise: str = ""
    noise_gain: float = 0.0

    @property
    def keys(self) -> tuple[str, ...]:
        """The `recording_key` of each recording."""
        return tuple(recording_key(name) for name in self.recordings)


MixtureList = tuple[Path, list[MixtureListRow]]
"""A list file and its rows."""


def recording_key(name: str | Path) -> str:
    """Return what identifies a recording in a corpus: its lower-case stem.

    Discs and lists differ in folders, suffixes and case.
    """
    return PurePosixPath(name).stem.lower()


def find_mixture_lists(folder: str | Path, n_speakers: int) -> dict[str, list[Path]]:
    """Find the mixture lists in a folder, by split.

    Raises:
        SpikeSepError: If a split has no list.
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
                f"{folder}: has no mix_{n_speakers}_spk_{split}.txt "
                f"(or metadata of Libri{n_speakers}Mix); give the folder of all three lists "
                "(--mix-lists), or leave the option out to have lists drawn"
            )
    return found


def read_mixture_lists(
    folder: str | Path, n_speakers: int, subsets: Collection[str]
) -> tuple[dict[str, list[MixtureList]], list[str]]:
    """Read all mixture lists in a folder.

    If a split has several lists (LibriMix has two for training), those of subsets that the corpus
    lacks are ignored.

    Args:
        folder: Folder of the lists.
        n_speakers: Speakers per mixture.
        subsets: Subsets that the corpus contains.

    Returns:
        The lists by split, and notices for the user.

    Raises:
        SpikeSepError: See `find_mixture_lists` and `read_mixture_list`.
    """
    notices, read = [], {}
    for split, paths in find_mixture_lists(folder, n_speakers).items():
        found = [(path, read_mixture_list(path)) for path in paths]
        read[split] = [
            (path, rows)
            for path, rows in found
            if len(found) == 1 or rows[0].recordings[0].split("/")[0] in subsets
        ] or found
        ignored = [path for path, rows in found if (path, rows) not in read[split]]
        notices += [
            f"{path}: ignored, as its subset is not in the corpus folder" for path in ignored
        ]
    return read, notices


def read_mixture_list(path: Path) -> list[MixtureListRow]:
    """Read the rows of a mixture list in either format.

    Raises:
        SpikeSepError: If the file cannot be read, is empty, or has an invalid or repeated row. The
            message is `file:line: fault; remedy`.
    """
    try:
        rows = _read_librimix_metadata(path) if path.suffix == ".csv" else _read_wsj0_list(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpikeSepError(f"{path}: cannot be read ({error}); give another list") from error
    if not rows:
        raise SpikeSepError(f"{path}: lists no mixture; give a list that is not empty")
    names: set[str] = set()
    for row in rows:
        if re.search(f"[/{WHITESPACE}]", row.name) or row.name in ("", ".", ".."):
            raise SpikeSepError(
                f"{row.where}: {row.name!r} cannot name a mixture's files; leave out spaces and /"
            )
        if row.name in names:
            raise SpikeSepError(f"{row.where}: {row.name} occurs twice; remove one row")
        if len(row.recordings) != len(rows[0].recordings):
            raise SpikeSepError(
                f"{row.where}: {len(row.recordings)} recordings where the first row has "
                f"{len(rows[0].recordings)}; give each row as many"
            )
        names.add(row.name)
    return rows


def describe_mixture_list(path: Path, rows: Sequence[MixtureListRow]) -> str:
    """Describe a list in one line: rows, speakers, and whether it is the published one."""
    speakers = {PurePosixPath(name).parent.name for row in rows for name in row.recordings}
    line = f"{path}: {len(rows)} mixtures of {len(speakers)} speakers"
    split = path.stem.rpartition("_")[2]
    if path.suffix == ".csv" or path.stem != f"mix_2_spk_{split}" or split not in PUBLISHED:
        return line
    n_rows, n_speakers, digest = PUBLISHED[split]
    if hash_mixture_list(rows) == digest and (len(rows), len(speakers)) == (n_rows, n_speakers):
        return f"{line}: the published list"
    return f"{line}: NOT the published list, which has {n_rows} of {n_speakers}"


def hash_mixture_list(rows: Sequence[MixtureListRow]) -> str:
    """Return 16 hexadecimal digits that identify a list, ignoring whitespace and line ends."""
    text = "\n".join(f"{row.name} {' '.join(row.recordings)}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mixture_name(recordings: Sequence[str], weights: Sequence[float]) -> str:
    """Return `<utt1>_<w1>_<utt2>_<w2>`, with weights printed as the original script does."""
    return "_".join(
        f"{PurePosixPath(name).stem}_{weight:.5g}"
        for name, weight in zip(recordings, weights, strict=True)
    )


def write_wsj0_list(path: Path, rows: Sequence[MixtureListRow]) -> None:
    """Write a list in the format of WSJ0-2mix.

    Each line alternates recordings and weights, and ends with a space.

    Raises:
        SpikeSepError: If the name of a recording contains a space.
    """
    lines = []
    for row in rows:
        for name in row.recordings:
            if split_fields(name) != [name]:
                raise SpikeSepError(
                    f"{name!r}: a list of WSJ0-2mix cannot hold spaces; rename the recording"
                )
        pairs = zip(row.recordings, row.gains, strict=True)
        lines.append("".join(f"{name} {gain:.5g} " for name, gain in pairs))
    write_text(path, "\n".join(lines) + "\n")


def write_librimix_metadata(path: Path, rows: Sequence[MixtureListRow]) -> None:
    """Write a list in the format of LibriMix, with noise columns if the mixtures have noise."""
    n = len(rows[0].recordings)
    head = ["mixture_ID", *_source_columns(n)]
    noisy = bool(rows[0].noise)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head + ["noise_path", "noise_gain"] * noisy)
        for row in rows:
            sources = [
                value for pair in zip(row.recordings, row.gains, strict=True) for value in pair
            ]
            writer.writerow([row.name, *sources, *([row.noise, row.noise_gain] if noisy else [])])


def _source_columns(n: int) -> list[str]:
    return [f"source_{k + 1}_{field}" for k in range(n) for field in ("path", "gain")]


def _read_wsj0_list(path: Path) -> list[MixtureListRow]:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        if not (fields := split_fields(line)):
            continue
        where = f"{path}:{number}"
        weights = tuple(_number(where, text) for text in fields[1::2])
        if len(fields) < 4 or len(fields) % 2:
            raise SpikeSepError(
                f"{where}: {line!r} does not alternate recordings and weights; correct the row"
            )
        recordings = tuple(fields[::2])
        name = mixture_name(recordings, weights)
        rows.append(MixtureListRow(where, name, recordings, weights))
    return rows


def _read_librimix_metadata(path: Path) -> list[MixtureListRow]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or ()
        n = sum(name.startswith("source_") and name.endswith("_path") for name in columns)
        required = ["mixture_ID", *_source_columns(max(n, 1))]
        missing = [name for name in required if name not in columns]
        if missing:
            raise SpikeSepError(f"{path}:1: no column {missing[0]}; give metadata of LibriMix")
        for fields in reader:
            where = f"{path}:{reader.line_num}"
            noise = fields.get("noise_path") or ""
            rows.append(
                MixtureListRow(
                    where,
                    name=fields["mixture_ID"] or "",
                    recordings=tuple(fields[f"source_{k + 1}_path"] or "" for k in range(n)),
                    gains=tuple(_number(where, fields[f"source_{k + 1}_gain"]) for k in range(n)),
                    noise=noise,
                    noise_gain=_number(where, fields.get("noise_gain")) if noise else 0.0,
                )
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
