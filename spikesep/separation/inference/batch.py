"""Batches of recordings, separated one by one or in parallel, with a report for each."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import explain_full_disk, remove_abandoned
from spikesep.separation.audio.downmix import Channels, choose_downmix
from spikesep.separation.audio.files import AudioStream, open_audio
from spikesep.separation.inference.recordings import (
    Separation,
    open_files,
    separate_sound,
    tracks_of,
)
from spikesep.separation.inference.separate import Level, Model, load_model
from spikesep.separation.inference.targets import (
    Target,
    check_files,
    check_name,
    is_complete,
    is_pipe,
    name_targets,
)
from spikesep.spiking.conversion.time_steps import use_steps
from spikesep.workers import Workers

Report = dict[str, Any]
"""JSON object of a recording: `recording`, and its `facts`, `error`, or why it was `skipped`."""
Progress = Callable[[float, float | None, float], object]
"""Receives seconds done, total seconds if known, and the real-time factor."""
Sink = Callable[[int, int], AbstractContextManager[Callable[[np.ndarray], None]]]
"""Opens an output (sample rate, length); yields a function that appends int16 [n, n_voices]."""


@dataclass(frozen=True)
class Settings:
    """Model and separation settings that a worker process needs."""

    model: str | None = None
    network: str | None = None
    steps: int | None = None
    engine: str = "auto"
    device: str = "cpu"
    level: Level = "match-mix"
    segment: float = 10.0
    channels: Channels = "mix"


@lru_cache(maxsize=1)
def model_of(settings: Settings) -> Model:
    """Load the model, once per process."""
    model = load_model(settings.model, settings.network, settings.device)
    model.separator.network.use_engine(settings.engine)
    if settings.steps is not None:
        try:
            use_steps(model.separator.network, settings.steps)
        except ValueError as error:
            raise SpikeSepError(f"--steps {settings.steps}: {error}; leave it out") from error
    return model


class Batch:
    """Recordings and their output files, checked before any work starts.

    Args:
        places: each recording and its path below `out`; see `find_recordings`.
        out: output folder.
        settings: model and separation settings.
        report: JSON file to be written at the end.
        overwrite: replace existing files.
        resume: skip finished recordings and replace partial output of the others.

    Attributes:
        targets: all recordings, in order.
        skipped: finished recordings.

    Raises:
        SpikeSepError: output files conflict, or a pipe was to be resumed.
    """

    def __init__(
        self,
        places: dict[Path, Path],
        out: Path,
        settings: Settings,
        report: Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ):
        self.settings, self.overwrite = settings, overwrite
        self.targets = name_targets(places, out)
        self.skipped: set[Target] = set()
        self._refused: dict[Target, str] = {}
        files = {target: self._files(target) for target in self.targets}
        for target, voices in files.items():
            if resume and is_pipe(target.recording):
                raise SpikeSepError(
                    f"{target.recording}: a pipe cannot be resumed; give files, or leave out --resume"
                )
            if resume and is_complete(voices, target.recording):
                self.skipped.add(target)
            try:
                check_name(voices[-1])
            except SpikeSepError as error:
                self._refused[target] = str(error)
        written = [file for target in files if self._is_due(target) for file in files[target]]
        check_files(written, places, report, overwrite or resume)
        self._folders = {file.parent for voices in files.values() for file in voices}

    def _files(self, target: Target) -> list[Path]:
        """List the output files; for a pipe with unknown channels, those of the first."""
        n_channels = self.settings.channels if isinstance(self.settings.channels, int) else 1
        if self.settings.channels == "each" and not is_pipe(target.recording):
            try:
                n_channels = open_audio(target.recording).channels
            except Exception:  # reported when the recording is read
                n_channels = 1
        return target.voices(
            tracks_of(self.settings.channels, n_channels), model_of(self.settings).n_speakers
        )

    def _is_due(self, target: Target) -> bool:
        return target not in self.skipped and target not in self._refused

    def run(
        self, n_jobs: int, bar: Callable[[str], AbstractContextManager[Progress]]
    ) -> Iterator[Report]:
        """Separate all recordings; yield their reports in order.

        No partial files remain, however it ends. Partial files that killed processes left in the
        same folders are removed.

        Args:
            n_jobs: worker processes, 0 for one per core; pipes are read in this process.
            bar: opens a progress bar with a title; used without worker processes.
        """
        for folder in self._folders:
            remove_abandoned(folder)
        files = [
            target
            for target in self.targets
            if self._is_due(target) and not is_pipe(target.recording)
        ]
        try:
            if n_jobs == 1 or len(files) < 2:
                for number, target in enumerate(self.targets, start=1):
                    title = f"{number}/{len(self.targets)} {printable(target.recording.name)}"
                    yield self._report(target, partial(bar, title))
            else:
                yield from self._shared_out(files, n_jobs)
        except BaseException:
            for folder in self._folders:
                remove_abandoned(folder)  # by workers that were killed
            raise

    def _shared_out(self, files: list[Target], n_jobs: int) -> Iterator[Report]:
        model = model_of(self.settings)
        model.separate(
            np.random.default_rng(0).normal(0, 0.1, model.sample_rate // 4)
        )  # compiles once for all
        with Workers(n_jobs, "--jobs") as workers:
            separate = partial(separate_file, self.settings, overwrite=self.overwrite)
            reports = workers.map(separate, files, "separating", chunk=1)
            shared = set(files)
            for target in self.targets:
                yield next(reports) if target in shared else self._report(target, nullcontext)

    def _report(
        self, target: Target, bar: Callable[[], AbstractContextManager[Progress | None]]
    ) -> Report:
        if target in self._refused:
            return {"recording": str(target.recording), "error": self._refused[target]}
        if target in self.skipped:
            return {"recording": str(target.recording), "skipped": "its voices are there"}
        with bar() as on_progress:
            return separate_file(self.settings, target, on_progress, self.overwrite)


def separate_file(
    settings: Settings, target: Target, on_progress: Progress | None = None, overwrite: bool = False
) -> Report:
    """Separate one recording into files, in any process; report any error instead of raising it."""
    name, model = str(target.recording), model_of(settings)
    try:
        with open_source(target.recording) as source:
            sound, heard = source.listen(settings)
            files = target.voices(tracks_of(settings.channels, sound.channels), model.n_speakers)
            if settings.channels == "each" and is_pipe(target.recording):
                check_files(files, [], overwrite=overwrite)
            report = separate(
                settings, sound, heard, files[0].parent, partial(open_files, files), on_progress
            )
        return {"recording": name, "voices": [str(file) for file in files], **report}
    except Exception as error:  # the rest of the batch goes on
        return {"recording": name, "error": _reason(error, name)}


def _reason(error: Exception, name: str) -> str:
    reason = str(error).replace("standard input", name)
    if isinstance(error, OSError) and not isinstance(error, SpikeSepError):
        reason = f"{reason}; check permissions and free space of the recording and of --out-dir"
    elif not isinstance(error, SpikeSepError):
        reason = f"unexpected {type(error).__name__} ({reason}); please report this as a bug"
    return reason if name in reason else f"{name}: {reason}"


@dataclass(frozen=True)
class Source:
    """A recording that can be read repeatedly.

    Attributes:
        file: a path or an open file.
        raw_rate: sample rate in Hz of headerless 16-bit mono samples.
    """

    file: Path | IO[bytes]
    raw_rate: int | None = None

    def open(self) -> AudioStream:
        """Open the recording at its start."""
        if not isinstance(self.file, Path):
            self.file.seek(0)
        return open_audio(self.file, self.raw_rate)

    def listen(self, settings: Settings) -> tuple[AudioStream, Channels]:
        """Open the recording and choose the channels: those asked for, unless averaging cancels."""
        sound = self.open()
        if settings.channels != "mix" or sound.channels == 1:
            return sound, settings.channels
        heard = choose_downmix(sound.blocks)  # reads to the end
        return self.open(), heard


@contextmanager
def open_source(recording: Path) -> Iterator[Source]:
    """Open a file, or spool a pipe into one.

    Raises:
        SpikeSepError: it is empty or a folder.
    """
    if is_pipe(recording):
        with recording.open("rb") as pipe, kept(pipe) as file:
            yield Source(file)
    elif recording.is_dir():
        raise SpikeSepError(
            f"{recording}: a folder without audio files; give another folder, or name a file in it"
        )
    elif recording.is_file() and not recording.stat().st_size:
        raise SpikeSepError(f"{recording}: is empty (0 bytes); copy or record it again")
    else:
        yield Source(recording)


@contextmanager
def kept(pipe: IO[bytes]) -> Iterator[IO[bytes]]:
    """Spool a pipe into an unnamed temporary file.

    Raises:
        SpikeSepError: the pipe is empty, or the disk is full.
    """
    with explain_full_disk(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        shutil.copyfileobj(pipe, file)
        if not file.tell():
            raise SpikeSepError("standard input: is empty; check the program that writes to it")
        yield file


def separate(
    settings: Settings,
    sound: AudioStream,
    heard: Channels,
    place: Path,
    sink: Sink,
    on_progress: Progress | None,
) -> Report:
    """Separate one recording into a sink and return its `facts`.

    Args:
        settings: model and separation settings.
        sound: the recording.
        heard: channels to separate; see `Source.listen`.
        place: folder for temporary estimates.
        sink: output for the voices.
        on_progress: receives the progress.

    Raises:
        SpikeSepError: the recording is unreadable, or memory or disk space runs out.
    """
    model, begun = model_of(settings), time.perf_counter()

    def progress(seconds: float) -> None:
        if on_progress:
            total = sound.length and sound.length / sound.sample_rate
            on_progress(seconds, total, (time.perf_counter() - begun) / seconds)

    def write(n_samples: int, blocks: Iterator[np.ndarray]) -> None:
        with sink(sound.sample_rate, n_samples) as append:
            for block in blocks:
                append(block)

    try:
        found = separate_sound(
            model, sound, place, write, settings.level, settings.segment, progress, heard
        )
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        raise SpikeSepError("not enough memory; give a shorter --segment") from error
    return facts(settings, sound, heard, found, time.perf_counter() - begun)


def facts(
    settings: Settings, sound: AudioStream, heard: Channels, found: Separation, spent: float
) -> Report:
    """Collect the report entries of a recording that took `spent` seconds to separate."""
    model = model_of(settings)
    return {
        "seconds": found.seconds,
        "sample_rate": sound.sample_rate,
        "channels": sound.channels,
        "separated": heard,
        "opposite_phase": heard != settings.channels,
        "real_time_factor": spent / found.seconds if found.seconds else 0.0,
        "network": model.kind,
        "scale": found.scale,
        "cost": found.cost.to_dict(),
        "engines": {
            name: layer.ran_on
            for name, layer in model.separator.network.layers.items()
            if layer.ran_on
        },
    }


def line_of(report: Report) -> str:
    """Format the report of a separated recording as one line."""
    cost = report["cost"]
    work = f"{cost['macs'] / 1e6:.0f} M MACs"
    if cost["synops"]:
        work = f"{cost['synops'] / 1e6:.0f} M SynOps ({cost['synops_ratio']:.2f} of the ANN's MACs)"
    seconds, factor = report["seconds"], report["real_time_factor"]
    notes = [
        f"{seconds:.2f} s at {report['sample_rate']} Hz in {seconds * factor:.2f} s, real-time factor {factor:.3f}",
        f"{report['network']} {work}",
    ]
    if report["channels"] > 1:
        notes.append(
            _on_channels(report["channels"], report["separated"], report["opposite_phase"])
        )
    if report["scale"] < 1:
        notes.append(f"lowered by {report['scale']:.2f} to stay within full scale")
    line = f"{report['recording']} -> {', '.join(report['voices'])}: {', '.join(notes)}"
    return printable(line)


def printable(text: str) -> str:
    """Escape control characters, so that text with file names stays on one line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _on_channels(n: int, separated: Channels, opposite_phase: bool) -> str:
    if separated == "mix":
        return f"{n} channels averaged"
    if separated == "each":
        return f"{n} channels separately"
    reason = " because the channels cancel when averaged (opposite phase)" if opposite_phase else ""
    return f"channel {separated} of {n}{reason}"
