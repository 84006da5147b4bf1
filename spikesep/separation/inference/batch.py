"""Batches of recordings, separated one by one or in parallel, with a report for each."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import remove_abandoned
from spikesep.separation.audio.files import open_audio
from spikesep.separation.inference.inputs import is_pipe, open_source
from spikesep.separation.inference.on_disk import Progress, separate_to_sink, track_names
from spikesep.separation.inference.outputs import (
    Target,
    VoiceFiles,
    check_name_length,
    check_output_files,
    is_complete,
    name_targets,
)
from spikesep.separation.inference.report import Report, printable
from spikesep.separation.inference.settings import InferenceSettings, cached_model
from spikesep.workers import Workers

ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar with a title."""


class Batch:
    """Recordings and their output files, checked before any work starts.

    Args:
        relative_paths: each recording and its path below `out`; see `find_recordings`.
        out: output folder.
        settings: model and separation settings.
        reports: files to be written at the end, by option; see `check_output_files`.
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
        relative_paths: dict[Path, Path],
        out: Path,
        settings: InferenceSettings,
        *,
        reports: Mapping[str, Path] | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ):
        self.settings, self.overwrite = settings, overwrite
        self.targets = name_targets(relative_paths, out)
        self.skipped: set[Target] = set()
        self._invalid: dict[Target, str] = {}
        files = {target: self._voice_files(target, settings.n_planned) for target in self.targets}
        for target, voices in files.items():
            if resume and is_pipe(target.recording):
                raise SpikeSepError(
                    f"{target.recording}: a pipe cannot be resumed; give files, or leave out "
                    "--resume"
                )
            # The first voice of a signal is the last to appear; there may be no others.
            least = 1 if settings.voices == "auto" else settings.n_planned
            if resume and is_complete(self._voice_files(target, least), target.recording):
                self.skipped.add(target)
            try:
                check_name_length(voices[-1])
            except SpikeSepError as error:
                self._invalid[target] = str(error)
        written = [file for target in files if self._is_due(target) for file in files[target]]
        check_output_files(written, relative_paths, reports, overwrite=overwrite or resume)
        self._folders = {file.parent for voices in files.values() for file in voices}

    def _voice_files(self, target: Target, n_voices: int) -> list[Path]:
        """List the output files; for a pipe with unknown channels, those of the first."""
        channels = self.settings.channels
        n_channels = channels if isinstance(channels, int) else 1
        if channels == "each" and not is_pipe(target.recording):
            try:
                n_channels = open_audio(target.recording).channels
            except Exception:  # reported when the recording is read
                n_channels = 1
        return target.voice_files(track_names(channels, n_channels), n_voices)

    def _is_due(self, target: Target) -> bool:
        return target not in self.skipped and target not in self._invalid

    def run(self, n_jobs: int, bar: ProgressBar) -> Generator[Report, None, None]:
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
                    yield self._separate(target, partial(bar, title))
            else:
                yield from self._run_parallel(files, n_jobs)
        except BaseException:
            for folder in self._folders:
                remove_abandoned(folder)  # of killed workers
            raise

    def _run_parallel(self, files: list[Target], n_jobs: int) -> Iterator[Report]:
        """Separate the given files in worker processes, and all other recordings in this one."""
        _compile_kernels(self.settings)
        with Workers(n_jobs, "--jobs") as workers:
            separate = partial(separate_file, self.settings, overwrite=self.overwrite)
            reports = workers.map(separate, files, "separating", chunk=1)
            parallel = set(files)
            for target in self.targets:
                yield next(reports) if target in parallel else self._separate(target, nullcontext)

    def _separate(
        self, target: Target, bar: Callable[[], AbstractContextManager[Progress | None]]
    ) -> Report:
        if target in self._invalid:
            return {"recording": str(target.recording), "error": self._invalid[target]}
        if target in self.skipped:
            return {"recording": str(target.recording), "skipped": "its voices exist"}
        with bar() as on_progress:
            return separate_file(self.settings, target, on_progress, self.overwrite)


def _compile_kernels(settings: InferenceSettings) -> None:
    """Separate a short signal, so that kernels are compiled once and not by every worker."""
    model = cached_model(settings)
    model.separate(np.random.default_rng(0).normal(0, 0.1, model.sample_rate // 4))


def separate_file(
    settings: InferenceSettings,
    target: Target,
    on_progress: Progress | None = None,
    overwrite: bool = False,
) -> Report:
    """Separate one recording into files, in any process; report any error instead of raising it."""
    name = str(target.recording)
    try:
        with open_source(target.recording) as source:
            sound, channels = source.open_audible(settings.channels)
            names = track_names(settings.channels, sound.channels)
            files = target.voice_files(names, settings.n_planned)
            if settings.channels == "each" and is_pipe(target.recording):
                check_output_files(files, [], overwrite=overwrite)
            sink = VoiceFiles(target, names, settings.n_planned)
            report = separate_to_sink(
                settings,
                sound,
                channels,
                sink=sink,
                spool_folder=files[0].parent,
                on_progress=on_progress,
            )
        return {"recording": name, "voices": sink.names, **report}
    except Exception as error:  # the rest of the batch continues
        return {"recording": name, "error": _describe_error(error, name)}


def _describe_error(error: Exception, name: str) -> str:
    reason = str(error).replace("standard input", name)
    if isinstance(error, OSError) and not isinstance(error, SpikeSepError):
        reason = f"{reason}; check permissions and free space of the recording and of --out-dir"
    elif not isinstance(error, SpikeSepError):
        reason = f"unexpected {type(error).__name__} ({reason}); please report this as a bug"
    return reason if name in reason else f"{name}: {reason}"
