"""From a plan to wav files, on all cores, so that it can be killed at any moment and taken up again.

Every file that was written is noted, with its checksum, in a journal. What the journal has and the checksum confirms is
kept; everything else is made, anew if need be.
"""

import pickle
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from spikesep.files import atomic_path, room_for, uninterrupted
from spikesep.separation.audio.files import wav_bytes
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.mixing.plan import PlannedMixture, Version
from spikesep.separation.data.mixing.procedures import PROCEDURES
from spikesep.workers import Workers

CACHE_FROM_USES = 1.5
"""Uses of an utterance, on average, from which reading and resampling it once for all saves more than it costs."""


@dataclass(frozen=True)
class Target:
    """One version of a set: where its files go, and the journal that keeps account of them."""

    version: Version
    folder: Path
    journal: Path


class Journal:
    """`name`, checksums of its files, and its gains, a line a mixture; a line that a kill cut short is dropped."""

    def __init__(self, path: Path, n_files: int, n_gains: int):
        self.path = path
        self.rows: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {}
        *lines, rest = (
            path.read_bytes().decode("utf-8", "replace").split("\n") if path.exists() else [""]
        )
        for line in lines:
            name, *fields = line.split("\t")
            with suppress(ValueError):
                if len(fields) == n_files + n_gains:
                    self.rows[name] = tuple(fields[:n_files]), tuple(map(float, fields[n_files:]))
        if rest or len(self.rows) < len(lines):  # cut short, or a mixture made twice
            with atomic_path(path) as temporary:
                temporary.write_text(
                    "".join(self._line(name) for name in self.rows), encoding="utf-8"
                )

    def add(self, name: str, checksums: Sequence[str], gains: Sequence[float]) -> None:
        """Note a mixture whose files are all there."""
        self.rows[name] = tuple(checksums), tuple(map(float, gains))
        with room_for(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(self._line(name))

    def _line(self, name: str) -> str:
        checksums, gains = self.rows[name]
        return "\t".join([name, *checksums, *map(repr, gains)]) + "\n"


def render_mixtures(
    plan: Sequence[PlannedMixture],
    procedure: str,
    targets: Sequence[Target],
    scratch: Path,
    workers: Workers,
    title: str,
) -> dict[Version, tuple[int, Journal]]:
    """Write the mixtures of a plan in all versions; those that are there whole are kept.

    Args:
        plan: mixtures of one set.
        procedure: a name in `PROCEDURES`.
        targets: where to.
        scratch: a folder in which utterances may be kept while this runs.
        workers: who does it.
        title: of the set, for the progress bar.

    Returns:
        for each version, how many mixtures were written now, and the journal with all of them.

    Raises:
        SpikeSepError: a recording cannot serve; what was written until then stays and is not done again.
    """
    n_speakers = len(plan[0].utterances)
    parts = PROCEDURES[procedure].parts(n_speakers, plan[0].noise is not None)
    journals = {t.version: Journal(t.journal, len(parts), n_speakers + 1) for t in targets}
    for left_behind in scratch.glob(".utterances*"):  # by a run that was killed
        shutil.rmtree(left_behind)
    missing = _missing(plan, parts, targets, journals, workers, title)
    written = dict.fromkeys(journals, 0)
    if missing:
        for target in targets:
            target.journal.parent.mkdir(parents=True, exist_ok=True)
            for part in parts:
                (target.folder / part).mkdir(parents=True, exist_ok=True)
        rates = tuple(sorted({target.version.rate for target in targets}))
        with _kept_utterances(
            [planned for planned, _ in missing], procedure, rates, scratch, workers, title
        ) as kept:
            items = [
                (p, wanted, [kept.get(row.path) for row in p.utterances]) for p, wanted in missing
            ]
            make = partial(_make, procedure=procedure, rates=rates)
            for (planned, _, _), made in zip(
                items, workers.map(make, items, f"{title}: mixing"), strict=True
            ):
                for version, checksums, gains in made:
                    journals[version].add(planned.name, checksums, gains)
                    written[version] += 1
    return {version: (written[version], journals[version]) for version in journals}


def _missing(
    plan: Sequence[PlannedMixture], parts: Sequence[str], targets: Sequence[Target], journals: dict[Version, Journal],
    workers: Workers, title: str,
) -> list[tuple[PlannedMixture, list[Target]]]:  # fmt: skip
    """The mixtures that are not there whole, each with the versions that lack it."""
    noted = [
        (planned.name, t)
        for planned in plan
        for t in targets
        if planned.name in journals[t.version].rows
    ]
    items = [
        ([t.folder / part / f"{name}.wav" for part in parts], journals[t.version].rows[name][0])
        for name, t in noted
    ]
    sound = workers.map(_is_sound, items, f"{title}: verifying")
    kept = {(name, t.version) for (name, t), ok in zip(noted, sound, strict=True) if ok}
    missing = [
        (planned, [t for t in targets if (planned.name, t.version) not in kept]) for planned in plan
    ]
    return [(planned, wanted) for planned, wanted in missing if wanted]


def _is_sound(item: tuple[list[Path], tuple[str, ...]]) -> bool:
    """Whether files are there with the checksums that were noted."""
    try:
        return all(_checksum(path.read_bytes()) == noted for path, noted in zip(*item, strict=True))
    except OSError:
        return False


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


@contextmanager
def _kept_utterances(
    plan: Sequence[PlannedMixture],
    procedure: str,
    rates: tuple[int, ...],
    scratch: Path,
    workers: Workers,
    title: str,
):
    """Files of what `procedure.load` gives, by recording, where recordings are used often enough; gone afterwards."""
    rows: dict[Path, Utterance] = {row.path: row for planned in plan for row in planned.utterances}
    if sum(len(planned.utterances) for planned in plan) < CACHE_FROM_USES * len(rows):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix=".utterances", dir=scratch) as folder:
        files = {path: Path(folder) / f"{number}.pickle" for number, path in enumerate(rows)}
        keep = partial(_keep, procedure=procedure, rates=rates)
        try:
            for _ in workers.map(keep, list(files.items()), f"{title}: reading", chunk=4):
                pass
            yield files
        except BaseException:
            workers.stop()  # before the folder goes in which they write
            raise


def _keep(item: tuple[Path, Path], procedure: str, rates: tuple[int, ...]) -> None:
    path, file = item
    with room_for(file):
        file.write_bytes(pickle.dumps(PROCEDURES[procedure].load(path, rates), protocol=5))


def _make(
    item: tuple[PlannedMixture, list[Target], list[Path | None]],
    procedure: str,
    rates: tuple[int, ...],
) -> list[tuple[Version, list[str], tuple[float, ...]]]:
    """Write one mixture in the versions that lack it; version, checksums and gains of each."""
    planned, targets, files = item
    rules = PROCEDURES[procedure]
    voices = [
        rules.load(row.path, rates) if file is None else pickle.loads(file.read_bytes())
        for row, file in zip(planned.utterances, files, strict=True)
    ]
    made = []
    for target in targets:
        signals, gains = rules.mix(planned, voices, target.version)
        checksums = [
            _write(target.folder / part / f"{planned.name}.wav", samples, target.version.rate)
            for part, samples in signals.items()
        ]
        made.append((target.version, checksums, gains))
    return made


def _write(path: Path, samples: np.ndarray, rate: int) -> str:
    with (
        uninterrupted()
    ):  # libsndfile loses what a signal handler raises, and the end of the file with it
        content = wav_bytes(samples, rate)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return _checksum(content)
