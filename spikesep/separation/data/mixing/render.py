"""Rendering of plans to wav files, on all cores and safe to interrupt.

Each file that was written is recorded in a journal, with its checksum. Files that the journal lists
and whose checksum matches are kept; all others are written again.
"""

import pickle
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from spikesep.files import atomic_path, defer_signals, explain_full_disk
from spikesep.separation.audio.files import wav_bytes
from spikesep.separation.data.mixing.plan import PlannedMixture, Version
from spikesep.separation.data.mixing.procedures import PROCEDURES
from spikesep.workers import Workers

CACHE_FROM_USES = 1.5
"""Mean uses per recording from which caching it decoded and resampled saves time."""


@dataclass(frozen=True)
class Target:
    """Destination of one version of a set.

    Attributes:
        version: The version.
        folder: Folder of its files.
        journal: Path of its journal.
    """

    version: Version
    folder: Path
    journal: Path


class Journal:
    """File that records finished mixtures, one line each: name, checksums of files, and gains.

    A line that was cut off by a kill is dropped.

    Args:
        path: Path of the journal, which need not exist.
        n_files: Files per mixture.
        n_gains: Gains per mixture.

    Attributes:
        rows: Checksums and gains by name.
    """

    def __init__(self, path: Path, n_files: int, n_gains: int):
        self.path = path
        self.rows: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {}
        text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
        *lines, rest = text.split("\n")
        for line in lines:
            name, *fields = line.split("\t")
            with suppress(ValueError):
                if len(fields) == n_files + n_gains:
                    self.rows[name] = tuple(fields[:n_files]), tuple(map(float, fields[n_files:]))
        if rest or len(self.rows) < len(lines):  # a line was cut off, or a mixture written twice
            content = "".join(self._line(name) for name in self.rows)
            with atomic_path(path) as temporary:
                temporary.write_text(content, encoding="utf-8")

    def add(self, name: str, checksums: Sequence[str], gains: Sequence[float]) -> None:
        """Record a mixture whose files are complete."""
        self.rows[name] = tuple(checksums), tuple(map(float, gains))
        with explain_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
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
    """Write the mixtures of a plan in all versions, keeping those that are complete.

    Args:
        plan: Planned mixtures of one set.
        procedure: Name in `PROCEDURES`.
        targets: Destinations.
        scratch: Folder for temporary files.
        workers: Workers that render.
        title: Title of the progress bar.

    Returns:
        For each version, the number of mixtures written now, and the journal of all mixtures.

    Raises:
        SpikeSepError: If a recording cannot be used. Mixtures written until then are kept.
    """
    n_speakers = len(plan[0].voices)
    signals = PROCEDURES[procedure].signal_names(n_speakers, plan[0].noise is not None)
    journals = {t.version: Journal(t.journal, len(signals), n_speakers + 1) for t in targets}
    for abandoned in scratch.glob(".utterances*"):  # by a run that was killed
        shutil.rmtree(abandoned)
    missing = _find_missing(plan, signals, targets, journals, workers, title)
    written = dict.fromkeys(journals, 0)
    if missing:
        for target in targets:
            target.journal.parent.mkdir(parents=True, exist_ok=True)
            for name in signals:
                (target.folder / name).mkdir(parents=True, exist_ok=True)
        rates = tuple(sorted({target.version.rate for target in targets}))
        planned = [planned for planned, _ in missing]
        with _cached_recordings(planned, procedure, rates, scratch, workers, title) as cached:
            items = [
                (planned, wanted, [cached.get(row.path) for row in planned.utterances])
                for planned, wanted in missing
            ]
            render = partial(_render, procedure=procedure, rates=rates)
            results = workers.map(render, items, f"{title}: mixing")
            for (planned, _), versions in zip(missing, results, strict=True):
                for version, checksums, gains in versions:
                    journals[version].add(planned.name, checksums, gains)
                    written[version] += 1
    return {version: (written[version], journals[version]) for version in journals}


def _find_missing(
    plan: Sequence[PlannedMixture],
    signals: Sequence[str],
    targets: Sequence[Target],
    journals: dict[Version, Journal],
    workers: Workers,
    title: str,
) -> list[tuple[PlannedMixture, list[Target]]]:
    """Return the mixtures that are not complete, each with the targets that lack it."""
    recorded = [
        (planned.name, target)
        for planned in plan
        for target in targets
        if planned.name in journals[target.version].rows
    ]
    items = [
        (
            [target.folder / signal / f"{name}.wav" for signal in signals],
            journals[target.version].rows[name][0],
        )
        for name, target in recorded
    ]
    intact = workers.map(_is_intact, items, f"{title}: verifying")
    kept = {(name, t.version) for (name, t), ok in zip(recorded, intact, strict=True) if ok}
    missing = [
        (planned, [t for t in targets if (planned.name, t.version) not in kept]) for planned in plan
    ]
    return [(planned, wanted) for planned, wanted in missing if wanted]


def _is_intact(item: tuple[list[Path], tuple[str, ...]]) -> bool:
    """Return whether files exist with the given checksums."""
    try:
        return all(
            _checksum(path.read_bytes()) == recorded for path, recorded in zip(*item, strict=True)
        )
    except OSError:
        return False


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


@contextmanager
def _cached_recordings(
    plan: Sequence[PlannedMixture],
    procedure: str,
    rates: tuple[int, ...],
    scratch: Path,
    workers: Workers,
    title: str,
) -> Iterator[dict[Path, Path]]:
    """Yield temporary files with the result of `load_recording` for each recording.

    The dict is empty if recordings are used too rarely.
    """
    uses = [row.path for planned in plan for row in planned.utterances]
    paths = list(dict.fromkeys(uses))
    if len(uses) < CACHE_FROM_USES * len(paths):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix=".utterances", dir=scratch) as folder:
        files = {path: Path(folder) / f"{number}.pickle" for number, path in enumerate(paths)}
        cache = partial(_cache_recording, procedure=procedure, rates=rates)
        try:
            for _ in workers.map(cache, list(files.items()), f"{title}: reading", chunk=4):
                pass
            yield files
        except BaseException:
            workers.stop()  # before the folder in which they write is removed
            raise


def _cache_recording(item: tuple[Path, Path], procedure: str, rates: tuple[int, ...]) -> None:
    path, file = item
    with explain_full_disk(file):
        content = PROCEDURES[procedure].load_recording(path, rates)
        file.write_bytes(pickle.dumps(content, protocol=5))


def _render(
    item: tuple[PlannedMixture, list[Target], list[Path | None]],
    procedure: str,
    rates: tuple[int, ...],
) -> list[tuple[Version, list[str], tuple[float, ...]]]:
    """Write one mixture to the targets that lack it; return their checksums and gains."""
    planned, targets, files = item
    rules = PROCEDURES[procedure]
    voices = [
        rules.load_recording(row.path, rates) if file is None else pickle.loads(file.read_bytes())
        for row, file in zip(planned.utterances, files, strict=True)
    ]
    rendered = []
    for target in targets:
        signals, gains = rules.mix(planned, voices, target.version)
        checksums = [
            _write(target.folder / name / f"{planned.name}.wav", samples, target.version.rate)
            for name, samples in signals.items()
        ]
        rendered.append((target.version, checksums, gains))
    return rendered


def _write(path: Path, samples: np.ndarray, rate: int) -> str:
    # libsndfile discards an exception of a signal handler, and the rest of the file with it.
    with defer_signals():
        content = wav_bytes(samples, rate)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return _checksum(content)
