"""Recordings to separate: expansion of command-line arguments, and opening of files and pipes."""

import glob
import os
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import explain_full_disk, walk_files
from spikesep.separation.audio.downmix import Channels, choose_downmix
from spikesep.separation.audio.files import AUDIO_SUFFIXES, AudioStream, open_audio

VOICE_FILE = re.compile(r"_spk[1-9]\d*\.wav$")
"""Suffix of output files."""
MOST_CHANNELS = 64
"""An array with more rows than this, and more rows than columns, is taken for a transposed one."""


@dataclass
class FoundRecordings:
    """Result of a search for recordings.

    Attributes:
        relative_paths: each recording and its path relative to the output folder.
        ignored: number of files in the folders without an audio suffix, by suffix.
        n_own_voices: number of files left out as output of an earlier run.
    """

    relative_paths: dict[Path, Path] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    n_own_voices: int = 0

    def describe_left_out(self) -> str:
        """Describe in one line which files were left out; empty if none were."""
        notes = []
        if self.ignored:
            kinds = ", ".join(
                f"{suffix or 'no suffix'} {n}" for suffix, n in self.ignored.most_common(5)
            )
            notes.append(f"{_n_files(self.ignored.total())} without an audio suffix ({kinds})")
        if self.n_own_voices:
            notes.append(f"{_n_files(self.n_own_voices)} written by an earlier run")
        if not notes:
            return ""
        return f"left out {' and '.join(notes)}; name a file to have it read"


def find_recordings(arguments: Iterable[str], out: Path = Path(".")) -> FoundRecordings:
    """Expand files, folders and glob patterns.

    A folder expands to the audio files in it and its subfolders, except hidden ones, and keeps its
    layout. A pattern expands to its matches (`**` spans folders) unless a file has that name. Both
    skip what an earlier run wrote to `out`. An argument that expands to nothing is kept, so that
    reading it fails with its name.
    """
    found = FoundRecordings()
    seen = set()
    for argument in arguments:
        is_pattern = not os.path.lexists(argument) and glob.has_magic(argument)
        for match in _matches(argument) if is_pattern else [Path(argument)]:
            inside = _audio_files(match, found.ignored) if os.path.isdir(match) else []
            for recording in inside or [match]:
                real = os.path.realpath(recording)  # resolves even a link to itself
                if real in seen:
                    continue
                seen.add(real)
                if (inside or is_pattern) and _is_own_voice(real, match if inside else None, out):
                    found.n_own_voices += 1
                else:
                    relative = recording.relative_to(match) if inside else Path(recording.name)
                    found.relative_paths[recording] = relative
    return found


def _matches(pattern: str) -> list[Path]:
    """Match a glob pattern; without a match, return the pattern itself."""
    return [Path(match) for match in sorted(glob.glob(pattern, recursive=True))] or [Path(pattern)]


def _audio_files(folder: Path, ignored: Counter[str]) -> list[Path]:
    """List the audio files below a folder, and count the others by suffix.

    Folders below it that cannot be opened are listed, too, so that reading them fails.
    """
    found: list[Path] = []
    closed: list[OSError] = []
    for path in walk_files(folder, closed.append):
        if path.suffix.lower() in AUDIO_SUFFIXES:
            found.append(path)
        else:
            ignored[path.suffix.lower()] += 1
    return sorted({*found, *(Path(error.filename) for error in closed)} - {folder})


def _is_own_voice(real: str, folder: Path | None, out: Path) -> bool:
    """Whether a file found in `folder` (None: by a pattern) is one that this run would write.

    Only its name and location count, as the recording it came from may be gone.
    """
    out_real = os.path.realpath(out)
    if not VOICE_FILE.search(real) or not Path(real).is_relative_to(out_real):
        return False
    parent = Path(real).relative_to(out_real).parent
    if folder is None:
        return parent == Path(".")
    folder_real = os.path.realpath(folder)
    is_out_below = out_real != folder_real and Path(out_real).is_relative_to(folder_real)
    return is_out_below or os.path.isdir(os.path.join(folder_real, parent))


def is_pipe(recording: Path) -> bool:
    """Whether a path is a FIFO, such as one of `mkfifo` or of the shell's `<(...)`."""
    try:
        return stat.S_ISFIFO(os.stat(recording).st_mode)
    except OSError:
        return False


def _n_files(n: int) -> str:
    return f"{n} file{'s' * (n != 1)}"


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

    def open_audible(self, channels: Channels) -> tuple[AudioStream, Channels]:
        """Open the recording and choose the channels: those requested, unless averaging cancels."""
        sound = self.open()
        if channels != "mix" or sound.channels == 1:
            return sound, channels
        audible = choose_downmix(sound.blocks)  # reads to the end
        return self.open(), audible


@contextmanager
def open_source(recording: Path) -> Iterator[Source]:
    """Open a file, or spool a pipe into one.

    Raises:
        SpikeSepError: it is empty, or a folder.
    """
    if is_pipe(recording):
        with recording.open("rb") as pipe, spooled(pipe) as file:
            yield Source(file)
    elif recording.is_dir():
        raise SpikeSepError(f"{recording}: {_fault_of_folder(recording)}")
    elif recording.is_file() and not recording.stat().st_size:
        raise SpikeSepError(f"{recording}: is empty (0 bytes); copy or record it again")
    else:
        yield Source(recording)


def _fault_of_folder(folder: Path) -> str:
    try:
        os.scandir(folder).close()
    except OSError as error:
        return f"cannot be opened ({error.strerror}); check its permissions"
    return "a folder without audio files; give another folder, or name a file in it"


@contextmanager
def spooled(pipe: IO[bytes]) -> Iterator[IO[bytes]]:
    """Copy a pipe into an unnamed temporary file.

    Raises:
        SpikeSepError: the pipe is empty, or the disk is full.
    """
    with explain_full_disk(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        shutil.copyfileobj(pipe, file)
        if not file.tell():
            raise SpikeSepError("standard input: is empty; check the program that writes to it")
        yield file


def check_layout(samples: np.ndarray) -> np.ndarray:
    """Return the samples of a recording held in memory, [samples] or [channels, samples].

    Raises:
        ValueError: the array is empty or looks transposed.
    """
    if samples.ndim == 2 and samples.shape[0] > max(samples.shape[1], MOST_CHANNELS):
        raise ValueError(
            f"a recording is [channels, samples]; transpose this one of shape {samples.shape}"
        )
    if not samples.size:
        raise ValueError("the recording is empty")
    return samples
