"""Who speaks when on the listening page: a lane of bars for each voice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spikesep.separation.tracks.rttm import Turn


@dataclass(frozen=True)
class Lane:
    """Turns of one voice, in seconds of what the page plays.

    Attributes:
        reference: turns of the speaker.
        found: turns of the voice of the spiking network.
    """

    reference: tuple[Turn, ...]
    found: tuple[Turn, ...]

    @property
    def summary(self) -> str:
        """Number and length of both kinds of turns."""
        return f"reference {_summary(self.reference)}; found {_summary(self.found)}"


def _summary(turns: Sequence[Turn]) -> str:
    if not turns:
        return "silent"
    seconds = sum(turn.stop - turn.start for turn in turns)
    return f"{len(turns)} turn{'' if len(turns) == 1 else 's'}, {seconds:.1f} s"


def make_lanes(
    reference: Iterable[Turn], found: Iterable[Turn], n_voices: int, start: float, stop: float
) -> list[Lane]:
    """Return the lanes of an excerpt from `start` to `stop` in seconds.

    Turns of both kinds are numbered as the voices, from 1.
    """
    kinds = [cut_turns(turns, start, stop) for turns in (reference, found)]
    return [
        Lane(*(tuple(turn for turn in turns if turn.speaker == number) for turns in kinds))
        for number in range(1, n_voices + 1)
    ]


def cut_turns(turns: Iterable[Turn], start: float, stop: float) -> list[Turn]:
    """Return what lies in an excerpt, in seconds from its beginning."""
    return [
        Turn(max(turn.start, start) - start, min(turn.stop, stop) - start, turn.speaker)
        for turn in turns
        if turn.start < stop and turn.stop > start
    ]
