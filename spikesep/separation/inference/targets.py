"""Input recordings named by command-line arguments, and the output files of their voices."""

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import AUDIO_SUFFIXES
from spikesep.separation.audio.wav import wav_header

STDIN, MICROPHONE = "-", "mic"
VOICE = re.compile(r"_spk[1-9]\d*\.wav$")
"""Suffix of output files."""


@dataclass
class Found:
    """Result of a search for recordings.

    Attributes:
        places: each recording and its path relative to the output folder.
        passed_over: how many other files the folders contain, by suffix.
        own_voices: how many outputs of an earlier run were left out.
    """

    places: dict[Path, Path] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    own_voices: int = 0

    def left_out(self) -> str:
        """Summarize in one line what was left out; empty if nothing was."""
        notes = []
        if self.passed_over:
            kinds = ", ".join(
                f"{suffix or 'no suffix'} {n}" for suffix, n in self.passed_over.most_common(5)
            )
            total = self.passed_over.total()
            notes.append(
                f"{_files(total)} without an audio suffix passed over ({kinds}); name a file to have it read"
            )
        if self.own_voices:
            notes.append(
                f"{_files(self.own_voices)} left out as output of an earlier run; name a file to have it read"
            )
        return "; ".join(notes)


def find_recordings(arguments: Iterable[str], out: Path = Path(".")) -> Found:
    """Expand files, folders and glob patterns.

    A folder expands to the audio files in it and its subfolders, except hidden ones, and keeps its
    layout. A pattern expands to its matches (`**` spans folders) unless a file has that name. Both
    skip what an earlier run wrote to `out`. An argument that expands to nothing is kept, so that
    reading it fails with its name.
    """
    found = Found()
    seen = set()
    for argument in arguments:
        path = Path(argument)
        matches = [path]
        if is_pattern := not os.path.lexists(path) and glob.has_magic(argument):
            matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))] or [
                path
            ]
        for match in matches:
            is_folder = os.path.isdir(match)
            inside = _audio_files(match, found.passed_over) if is_folder else []
            for recording in inside or [match]:
                real = os.path.realpath(recording)  # resolves even a link to itself
                if real in seen:
                    continue
                seen.add(real)
                if (inside or is_pattern) and _is_own_voice(real, match if inside else None, out):
                    found.own_voices += 1
                else:
                    found.places[recording] = (
                        recording.relative_to(match) if inside else Path(recording.name)
                    )
    return found


def _audio_files(folder: Path, passed_over: Counter[str]) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        if (
            any(part.startswith(".") for part in path.relative_to(folder).parts)
            or not path.is_file()
        ):
            continue
        if path.suffix.lower() in AUDIO_SUFFIXES:
            found.append(path)
        else:
            passed_over[path.suffix.lower()] += 1
    return found


def _is_own_voice(real: str, folder: Path | None, out: Path) -> bool:
    """Whether a file found in `folder` (None: by a pattern) lies where this run would write voices.

    The recording it came from may be gone, so only its name and place count.
    """
    out_real = os.path.realpath(out)
    if not VOICE.search(real) or not Path(real).is_relative_to(out_real):
        return False
    place = Path(real).relative_to(out_real).parent
    if folder is None:
        return place == Path(".")
    home = os.path.realpath(folder)
    return (out_real != home and Path(out_real).is_relative_to(home)) or os.path.isdir(
        os.path.join(home, place)
    )


@dataclass(frozen=True)
class Target:
    """A recording and the base name of its output files.

    Attributes:
        recording: a file or pipe; `-` is standard input.
        base: path of the output files up to `_spk1.wav`.
    """

    recording: Path
    base: str

    def voices(self, tracks: list[str], n_speakers: int) -> list[Path]:
        """List the output files, track by track; `tracks` are names from `channels.tracks`."""
        return [
            Path(f"{self.base}{track}_spk{k + 1}.wav")
            for track in tracks
            for k in range(n_speakers)
        ]


def name_targets(places: dict[Path, Path], out: Path) -> list[Target]:
    """Give every recording a unique base name for its output files.

    The default is its path below the output folder, without suffix. Recordings that would share a
    name keep the suffix. If that is not enough, they get their path below the common parent folder
    of all recordings, first without and then with the suffix.
    """
    if not places:
        return []
    absolute = {recording: os.path.abspath(recording) for recording in places}
    common = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])
    names = {}
    for recording, place in places.items():
        paths = str(place), os.path.relpath(absolute[recording], common)
        names[recording] = [
            name for path in paths for name in (path.removesuffix(place.suffix), path)
        ]
    level = dict.fromkeys(places, 0)
    while True:
        chosen = {
            recording: os.path.join(out, names[recording][level[recording]]) for recording in places
        }
        times = Counter(chosen.values())
        alike = [
            recording
            for recording, name in chosen.items()
            if times[name] > 1 and level[recording] < 3
        ]
        if not alike:
            return [Target(recording, name) for recording, name in chosen.items()]
        for recording in alike:
            level[recording] += 1


def check_files(
    voices: Iterable[Path],
    recordings: Iterable[Path],
    report: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Check that output files overwrite neither recordings, nor each other, nor existing files.

    Raises:
        SpikeSepError: one would, or the report cannot be written.
    """
    taken = {os.path.realpath(path): "one of the recordings" for path in recordings}
    for option, files in {"--out-dir": voices, "--json": [report] if report else []}.items():
        for file in files:
            real = os.path.realpath(file)
            if real in taken:
                raise SpikeSepError(f"{file}: is {taken[real]}; give another {option}")
            if os.path.isdir(file):
                raise SpikeSepError(f"{file}: is a folder; give another {option}")
            if os.path.lexists(file) and not overwrite:
                resume = (
                    " to replace it, --resume to skip finished recordings,"
                    if option == "--out-dir"
                    else ""
                )
                raise SpikeSepError(
                    f"{file}: is there already; give --overwrite{resume} or another {option}"
                )
            taken[real] = "where a voice goes"
            taken |= dict.fromkeys(map(str, Path(real).parents), "a folder that voices go to")
    if report and (reason := _why_not_written(report)):
        raise SpikeSepError(f"{report}: {reason}; give another --json")


def check_name(file: Path) -> None:
    """Check that the file system accepts the length of a file's name.

    Raises:
        SpikeSepError: the name is too long.
    """
    most = os.pathconf(_folder_of(file), "PC_NAME_MAX")
    size = max(len(os.fsencode(part)) for part in file.parts)
    if size > most:
        raise SpikeSepError(
            f"{file}: this name has {size} bytes, the limit is {most}; rename the recording"
        )


def _why_not_written(file: Path) -> str:
    folder = _folder_of(file)
    if not os.path.isdir(folder):
        return f"{folder} is not a folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"


def _folder_of(file: Path) -> Path:
    """Find the nearest existing parent of a file."""
    return next(folder for folder in Path(os.path.abspath(file)).parents if os.path.lexists(folder))


def is_complete(voices: list[Path], recording: Path) -> bool:
    """Whether all output files of a recording exist and are at least as new as the recording."""
    try:
        changed = os.stat(recording).st_mtime
        found = [os.stat(file) for file in voices]
    except OSError:
        return False
    smallest = len(wav_header(1, 1))
    return all(
        stat.S_ISREG(s.st_mode) and s.st_size > smallest and s.st_mtime >= changed for s in found
    )


def is_pipe(recording: Path) -> bool:
    """Whether a path is a FIFO, such as one of `mkfifo` or of the shell's `<(...)`."""
    try:
        return stat.S_ISFIFO(os.stat(recording).st_mode)
    except OSError:
        return False


def _files(n: int) -> str:
    return f"{n} file{'s' * (n != 1)}"
