"""Output files of the voices: their names, checks before any is written, and writing."""

import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_file
from spikesep.separation.audio.wav import wav_header


@dataclass(frozen=True)
class Target:
    """A recording and the base name of its output files.

    Attributes:
        recording: a file or pipe; `-` is standard input.
        base: path of the output files up to `_spk1.wav`.
    """

    recording: Path
    base: str

    def voice_files(self, tracks: list[str], n_speakers: int) -> list[Path]:
        """List the output files, signal by signal; `tracks` are their `channel_suffixes`."""
        return [
            Path(f"{self.base}{track}_spk{k + 1}.wav")
            for track in tracks
            for k in range(n_speakers)
        ]


class VoiceFiles:
    """Output files of a recording, opened when the number of its voices is known.

    Args:
        target: the recording.
        tracks: names of the separated signals; see `Target.voice_files`.
        n_planned: largest number of voices of each signal. Files of an earlier run for voices that
            were not heard this time are removed.

    Attributes:
        names: files that were opened.
    """

    def __init__(self, target: Target, tracks: list[str], n_planned: int):
        self.names: list[str] = []
        self._target, self._tracks = target, tracks
        self._planned = target.voice_files(tracks, n_planned)

    @contextmanager
    def __call__(
        self, sample_rate: int, n_samples: int | None, n_voices: int
    ) -> Iterator[Callable[[np.ndarray], None]]:
        """Open the files like `open_voice_files`."""
        files = self._target.voice_files(self._tracks, n_voices)
        self.names = [str(file) for file in files]
        with open_voice_files(files, sample_rate, n_samples) as write:
            yield write
        for file in set(self._planned) - set(files):
            file.unlink(missing_ok=True)


class StandardOutput:
    """Standard output as one WAV stream with a channel per voice.

    Args:
        n_signals: number of separated signals.
    """

    names = ("-",)

    def __init__(self, n_signals: int):
        self._n_signals = n_signals

    def __call__(
        self, sample_rate: int, n_samples: int | None, n_voices: int
    ) -> AbstractContextManager[Callable[[np.ndarray], None]]:
        """Open the stream."""
        n_channels = self._n_signals * n_voices
        return open_wav_stream(sys.stdout.buffer, n_channels, sample_rate, n_samples)


def name_targets(relative_paths: dict[Path, Path], out: Path) -> list[Target]:
    """Give every recording a unique base name for its output files.

    The default is its path below the output folder, without suffix. Recordings that would share a
    name keep the suffix. If that is not enough, they get their path below the common parent folder
    of all recordings, first without and then with the suffix.

    Args:
        relative_paths: each recording and its path below the output folder.
        out: output folder.
    """
    if not relative_paths:
        return []
    candidates = _candidate_names(relative_paths)
    n_tried = dict.fromkeys(relative_paths, 0)
    while True:
        chosen = {
            recording: os.path.join(out, names[n_tried[recording]])
            for recording, names in candidates.items()
        }
        times = Counter(chosen.values())
        clashing = [
            recording
            for recording, name in chosen.items()
            if times[name] > 1 and n_tried[recording] < len(candidates[recording]) - 1
        ]
        if not clashing:
            return [Target(recording, name) for recording, name in chosen.items()]
        for recording in clashing:
            n_tried[recording] += 1


def _candidate_names(relative_paths: dict[Path, Path]) -> dict[Path, list[str]]:
    """List four base names for each recording, from the shortest to the most specific."""
    absolute = {recording: os.path.abspath(recording) for recording in relative_paths}
    common = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])
    candidates = {}
    for recording, relative in relative_paths.items():
        paths = str(relative), os.path.relpath(absolute[recording], common)
        candidates[recording] = [
            name for path in paths for name in (path.removesuffix(relative.suffix), path)
        ]
    return candidates


def check_output_files(
    voices: Iterable[Path],
    recordings: Iterable[Path],
    reports: Mapping[str, Path] | None = None,
    overwrite: bool = False,
) -> None:
    """Check that output files overwrite neither recordings, nor each other, nor existing files.

    Args:
        voices: output files of voices.
        recordings: files that are read.
        reports: output files of other options, such as `--json`, by option.
        overwrite: whether existing files may be replaced.

    Raises:
        SpikeSepError: one would, or a report cannot be written.
    """
    reports = reports or {}
    taken = {os.path.realpath(path): "one of the recordings" for path in recordings}
    outputs = {"--out-dir": voices} | {option: [file] for option, file in reports.items()}
    for option, files in outputs.items():
        for file in files:
            real = os.path.realpath(file)
            if real in taken:
                raise SpikeSepError(f"{file}: is {taken[real]}; give another {option}")
            if os.path.isdir(file):
                raise SpikeSepError(f"{file}: is a folder; give another {option}")
            if os.path.lexists(file) and not overwrite:
                resume = " to replace it, --resume to skip finished recordings,"
                raise SpikeSepError(
                    f"{file}: already exists; give --overwrite"
                    f"{resume if option == '--out-dir' else ''} or another {option}"
                )
            is_voice = option == "--out-dir"
            taken[real] = "the output file of a voice" if is_voice else f"the file of {option}"
            taken |= dict.fromkeys(map(str, Path(real).parents), "an output folder of voices")
    for option, file in reports.items():
        if reason := _unwritable_reason(file):
            raise SpikeSepError(f"{file}: {reason}; give another {option}")


def check_name_length(file: Path) -> None:
    """Check that the file system accepts the length of a file's name.

    Raises:
        SpikeSepError: the name is too long.
    """
    limit = os.pathconf(_existing_parent(file), "PC_NAME_MAX")
    size = max(len(os.fsencode(part)) for part in file.parts)
    if size > limit:
        raise SpikeSepError(
            f"{file}: this name has {size} bytes, the limit is {limit}; rename the recording"
        )


def _unwritable_reason(file: Path) -> str:
    folder = _existing_parent(file)
    if not os.path.isdir(folder):
        return f"{folder} is not a folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"


def _existing_parent(file: Path) -> Path:
    """Find the nearest existing parent of a file."""
    return next(folder for folder in Path(os.path.abspath(file)).parents if os.path.lexists(folder))


def is_complete(voices: list[Path], recording: Path) -> bool:
    """Whether all output files of a recording exist and are at least as new as the recording."""
    try:
        changed = os.stat(recording).st_mtime
        found = [os.stat(file) for file in voices]
    except OSError:
        return False
    header_size = len(wav_header(1, 1))
    return all(
        stat.S_ISREG(s.st_mode) and s.st_size > header_size and s.st_mtime >= changed for s in found
    )


@contextmanager
def open_voice_files(
    paths: list[Path], sample_rate: int, n_samples: int | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends int16 [n, n_voices] to 16-bit WAV files, one per voice.

    The files appear at the end, all or none.

    Args:
        paths: output files.
        sample_rate: sample rate in Hz.
        n_samples: samples of each voice; if None, the headers are completed at the end.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_file(path)) for path in paths]
        written = 0
        for file in files:
            file.write(wav_header(sample_rate, n_samples))

        def write(block: np.ndarray) -> None:
            nonlocal written
            for file, voice in zip(files, block.T, strict=True):
                file.write(voice.astype("<i2").tobytes())
            written += len(block)

        yield write
        for file in files if n_samples is None else ():
            header = wav_header(sample_rate, written)
            # Beyond 4 GiB the header would be longer; the file then keeps that of a stream.
            if len(header) == len(wav_header(sample_rate, None)):
                file.seek(0)
                file.write(header)
        for file in files:
            file.flush()  # all of them before the first appears


@contextmanager
def open_wav_stream(
    file: BinaryIO, n_voices: int, sample_rate: int, n_samples: int | None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that writes int16 [n, n_voices] to a pipe as one WAV stream."""
    file.write(wav_header(sample_rate, n_samples, n_voices))

    def write(block: np.ndarray) -> None:
        file.write(block.astype("<i2").tobytes())
        file.flush()

    yield write
