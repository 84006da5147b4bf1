"""Number of voices: which outputs of a separator are heard, and which of them to return."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spikesep.separation.inference.streaming import Stream
from spikesep.separation.tracks.activity import FRAMES_PER_SECOND
from spikesep.separation.tracks.gate import Gate
from spikesep.separation.tracks.rttm import Turn
from spikesep.separation.tracks.tracker import GatedStream

Voices = Literal["all", "auto"] | int
"""Voices to return: all outputs of the network, as many as are heard, or the N most active."""
LEAST_SECONDS, LEAST_SHARE = 0.4, 0.1
"""Time and share of the most active voice's time for which a voice is active if it is heard."""


@dataclass(frozen=True)
class Choice:
    """The voices of a recording to return.

    Attributes:
        heard: number of voices heard in each separated signal; empty if they were not counted.
        kept: outputs to return of each signal, [n_signals, K], in ascending order.
        n_outputs: outputs of the separator, S.
    """

    heard: tuple[int, ...]
    kept: np.ndarray
    n_outputs: int

    @property
    def rows(self) -> np.ndarray | slice:
        """Rows to return of estimates [n_signals * S, n]."""
        if self.kept.shape[1] == self.n_outputs:
            return slice(None)
        return (self.kept + self.n_outputs * np.arange(len(self.kept))[:, None]).ravel()

    def number_turns(self, signals: Iterable[Iterable[Turn]]) -> tuple[tuple[Turn, ...], ...]:
        """Number the turns of each signal as the voices that are returned; leave out the others."""
        return tuple(
            tuple(
                replace(turn, speaker=numbers[turn.speaker])
                for turn in turns
                if turn.speaker in numbers
            )
            for turns, kept in zip(signals, self.kept, strict=False)
            for numbers in [{int(output) + 1: k for k, output in enumerate(kept, start=1)}]
        )


class VoiceChooser:
    """Measures how long the voices of a recording are active, block by block, and chooses some.

    Voices that follow their speakers are active in their turns, others where the gate of tracks
    would let them pass.

    Args:
        voices: voices to return.
        streams: streams of the recording, one per signal.
        n_outputs: outputs of the separator, S.

    Raises:
        ValueError: there are fewer outputs, or `voices` is something else.
    """

    def __init__(self, voices: Voices, streams: Sequence[Stream | GatedStream], n_outputs: int):
        check_voices(voices, n_outputs)
        self._voices, self._streams, self._n = voices, streams, n_outputs
        self._gates: list[Gate | None] = [
            None
            if isinstance(stream, GatedStream) or not self._counts
            else Gate(n_outputs, stream.sample_rate)
            for stream in streams
        ]
        self._frames = np.zeros((len(streams), n_outputs))

    @property
    def _counts(self) -> bool:
        """Whether voices are counted, which two outputs need only on request."""
        return self._voices != "all" or self._n > 2

    def add(self, estimates: np.ndarray, mixtures: np.ndarray) -> None:
        """Add a block: estimates [n_signals * S, n] and mixtures [n_signals, n]."""
        own = estimates.reshape(len(self._gates), self._n, -1)
        for k, gate in enumerate(self._gates):
            if gate is not None:
                self._frames[k] += gate.push(mixtures[k], own[k])[1].sum(1)

    def choose(self) -> Choice:
        """Choose voices after the last block, when the streams were flushed."""
        if not self._counts:
            return Choice((), np.arange(self._n)[None].repeat(len(self._streams), 0), self._n)
        seconds = np.stack([self._seconds(k) for k in range(len(self._streams))])
        heard = are_heard(seconds).sum(1)
        most_active = np.argsort(-seconds, axis=1, kind="stable")[:, : self._n_kept(heard)]
        return Choice(tuple(heard.tolist()), np.sort(most_active, axis=1), self._n)

    def _n_kept(self, heard: np.ndarray) -> int:
        """Return the number of voices to return of signals in which these numbers are heard."""
        if isinstance(self._voices, int):
            return self._voices
        return self._n if self._voices == "all" else max(1, int(heard.max()))

    def _seconds(self, k: int) -> np.ndarray:
        """Return how long each voice of a signal is active, [S]."""
        stream, gate = self._streams[k], self._gates[k]
        if isinstance(stream, GatedStream):
            return seconds_of_turns(stream.turns, self._n)
        assert gate is not None
        return (self._frames[k] + gate.flush()[1].sum(1)) / FRAMES_PER_SECOND


def check_voices(voices: Voices, n_outputs: int) -> None:
    """Check a choice of voices.

    Raises:
        ValueError: it is neither `all`, `auto`, nor a number of outputs that there are.
    """
    if voices in ("all", "auto") or (isinstance(voices, int) and 1 <= voices <= n_outputs):
        return
    raise ValueError(
        f"voices {voices}: this model separates {n_outputs}; give all, auto, or a number from 1"
    )


def seconds_of_turns(turns: Iterable[Turn], n_outputs: int) -> np.ndarray:
    """Return how long each speaker talks in turns, [n_outputs]."""
    seconds = np.zeros(n_outputs)
    for turn in turns:
        seconds[turn.speaker - 1] += turn.stop - turn.start
    return seconds


def activity_of_outputs(estimates: np.ndarray, mixture: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return in which frames each output [S, T] of a separator is active, bool [S, K]."""
    gate = Gate(len(estimates), sample_rate)
    return np.concatenate([gate.push(mixture, estimates)[1], gate.flush()[1]], axis=1)


def seconds_of_outputs(estimates: np.ndarray, mixture: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return how long each output [S, T] of a separator is active, [S]."""
    return activity_of_outputs(estimates, mixture, sample_rate).sum(1) / FRAMES_PER_SECOND


def are_heard(seconds: np.ndarray) -> np.ndarray:
    """Return which voices are heard, bool [..., S], of those active for `seconds` [..., S]."""
    return seconds >= np.maximum(LEAST_SECONDS, LEAST_SHARE * seconds.max(-1, keepdims=True))
