"""Who spoke when, in the Rich Transcription Time Marked format (NIST, RT-09 evaluation plan)."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import read_lines
from spikesep.separation.inference import STDIN
from spikesep.separation.tracks.activity import FRAMES_PER_SECOND, constant_runs
from spikesep.separation.tracks.stretches import Stretch


@dataclass(frozen=True)
class Turn:
    """A time in which a speaker talks.

    Attributes:
        start: beginning in seconds.
        stop: end in seconds.
        speaker: track of the speaker, from 1.
    """

    start: float
    stop: float
    speaker: int


def find_turns(stretches: Sequence[Stretch], maps: np.ndarray) -> list[Turn]:
    """Return the turns in stretches, in order of their beginnings.

    Args:
        stretches: the stretches in order.
        maps: speaker of each output in each stretch, [T, S].
    """
    turns: list[Turn] = []
    open_turns: dict[int, list[int]] = {}  # first frame and frame behind the last
    for stretch, map_ in zip(stretches, maps, strict=True):
        speakers = {int(map_[k]) for k in np.flatnonzero(stretch.seconds)}
        for speaker in [s for s in open_turns if s not in speakers]:
            turns.append(_turn(speaker, *open_turns.pop(speaker)))
        for speaker in speakers:
            start = open_turns.get(speaker, [stretch.start])[0]
            open_turns[speaker] = [start, stretch.stop]
    turns += [_turn(speaker, *frames) for speaker, frames in open_turns.items()]
    return sorted(turns, key=lambda turn: (turn.start, turn.speaker))


def turns_of_activity(active: np.ndarray) -> list[Turn]:
    """Return when each voice is active as turns, in order of their beginnings.

    Args:
        active: activity of the voices in frames, bool [S, K].
    """
    turns = [
        _turn(speaker, start, stop)
        for speaker, frames in enumerate(active)
        for start, stop in constant_runs(frames[None])
        if frames[start]
    ]
    return sorted(turns, key=lambda turn: (turn.start, turn.speaker))


def _turn(speaker: int, start: int, stop: int) -> Turn:
    return Turn(start / FRAMES_PER_SECOND, stop / FRAMES_PER_SECOND, speaker + 1)


def format_rttm(name: str, turns: Iterable[Turn], channel: int = 1) -> str:
    """Return a line `SPEAKER name channel start duration ...` for each turn.

    Args:
        name: name of the recording; white space becomes `_`.
        turns: the turns.
        channel: channel of the recording, from 1.
    """
    name = re.sub(r"\s+", "_", name)
    return "".join(
        f"SPEAKER {name} {channel} {turn.start:.2f} {turn.stop - turn.start:.2f} "
        f"<NA> <NA> spk{turn.speaker} <NA> <NA>\n"
        for turn in turns
    )


def read_rttm(path: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Read speaker, start and stop in seconds of the turns in each recording, by its name.

    Raises:
        SpikeSepError: the file cannot be read, or a line is not as the format has it.
    """
    turns: dict[str, list[tuple[str, float, float]]] = {}
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeSepError(f"{path}: cannot be read ({error}); save it as UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if fields[:1] != ["SPEAKER"]:
            continue  # other types of lines, and comments
        try:
            name, start, seconds, speaker = fields[1], *map(float, fields[3:5]), fields[7]
            if not (0 <= start < math.inf and 0 <= seconds < math.inf):
                raise ValueError("no time")
        except (IndexError, ValueError) as error:
            raise SpikeSepError(
                f"{path}:{number}: not SPEAKER, name, channel, start, duration, <NA>, <NA>, "
                "speaker; correct the line"
            ) from error
        turns.setdefault(name, []).append((speaker, start, start + seconds))
    return turns


def format_reports(reports: Iterable[dict[str, Any]], channel: int, out: Path) -> str:
    """Format the turns of separated recordings.

    Args:
        reports: see `spikesep.separation.inference.report.Report`; those with an error are left
            out. Recordings are named like the files of their voices below `out`, without which two
            of them could have one name.
        channel: channel of the first separated signal; the others follow.
        out: output folder of the voices.
    """
    lines = []
    for report in reports:
        signals = report.get("turns", [])
        for k, turns in enumerate(signals):
            name = _name_of_recording(report, out)
            lines.append(format_rttm(name, [Turn(**turn) for turn in turns], channel + k))
    return "".join(lines)


def _name_of_recording(report: dict[str, Any], out: Path) -> str:
    voice, recording = report["voices"][0], report["recording"]
    if voice == STDIN:  # standard output
        return "stdin" if recording == STDIN else recording
    return re.sub(r"(_ch\d+)?_spk\d+\.wav$", "", str(Path(voice).relative_to(out)))
