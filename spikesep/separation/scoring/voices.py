"""Voices to score: outputs of a separator, and in conversations the tracks of the speakers."""

from dataclasses import dataclass

import numpy as np
import torch

from spikesep.separation.inference.output_level import LevelMeter
from spikesep.separation.inference.streaming import Stream
from spikesep.separation.inference.voices import seconds_of_outputs, seconds_of_turns
from spikesep.separation.model.latency import Delays
from spikesep.separation.model.separator import Separator
from spikesep.separation.tracks.embedder import SpeakerEmbedder
from spikesep.separation.tracks.leveling import level_voices
from spikesep.separation.tracks.rttm import Turn
from spikesep.separation.tracks.tracker import GatedStream
from spikesep.spiking.cost import Cost

BLOCK_SECONDS = 10.0
"""Length of the network's blocks in conversations, which bounds memory."""
TRACKS = "_tracks"
"""Ending of the method of a network whose voices follow their speakers."""


@dataclass(frozen=True)
class SeparatedVoices:
    """Voices of a mixture.

    Attributes:
        estimates: the voices, [S, T].
        seconds: how long each is active, [S].
        turns: who spoke when, if the voices follow their speakers.
    """

    estimates: np.ndarray
    seconds: np.ndarray
    turns: tuple[Turn, ...] | None = None


class Replay:
    """A stream of outputs that are known.

    Args:
        outputs: the outputs, [S, T].
        sample_rate: sample rate in Hz.
    """

    cost, delays = Cost(), Delays(network=0.0, conditioning=0.0, block=0.0)

    def __init__(self, outputs: np.ndarray, sample_rate: int):
        self.sample_rate = sample_rate
        self._outputs, self._done = outputs, 0

    def push(self, block: np.ndarray) -> np.ndarray:
        """Return the outputs of the next samples."""
        start, self._done = self._done, self._done + len(block)
        return self._outputs[:, start : self._done]

    def flush(self) -> np.ndarray:
        """Return nothing, as `push` holds nothing back."""
        return self._outputs[:, self._done :]


def separate(
    model: Separator, embedder: SpeakerEmbedder | None, mixture: np.ndarray, in_turns: bool
) -> tuple[dict[str, SeparatedVoices], Cost]:
    """Separate a mixture [T].

    Args:
        model: the separator.
        embedder: tells speakers apart.
        mixture: the mixture.
        in_turns: whether it is a conversation, which is separated in blocks and, with an embedder,
            also given as tracks.

    Returns:
        Outputs under the name "", tracks under `TRACKS`; and the operations of the separator.
    """
    rate = model.sample_rate
    if not in_turns:
        estimates, cost = model.separate_with_cost(torch.from_numpy(mixture))
        outputs = estimates.numpy()
        return {"": SeparatedVoices(outputs, seconds_of_outputs(outputs, mixture, rate))}, cost
    stream = Stream(model, rate, BLOCK_SECONDS)
    outputs = np.concatenate([stream.push(mixture), stream.flush()], axis=1)
    found = {"": SeparatedVoices(outputs, seconds_of_outputs(outputs, mixture, rate))}
    if embedder is not None:
        found[TRACKS] = _follow_speakers(outputs, mixture, embedder, rate)
    return found, stream.cost


def _follow_speakers(
    outputs: np.ndarray, mixture: np.ndarray, embedder: SpeakerEmbedder, rate: int
) -> SeparatedVoices:
    """Arrange outputs [S, T] as tracks, as `spikesep-infer` does."""
    stream = GatedStream(Replay(outputs, rate), embedder, len(outputs))
    gated = np.concatenate([stream.push(mixture), stream.flush()], axis=1)
    meter = LevelMeter(len(outputs))
    meter.add(gated, mixture)
    blocks, _ = level_voices(lambda: [gated], meter, "match-mix", [stream])
    tracks = np.concatenate(list(blocks), axis=1)
    return SeparatedVoices(
        tracks, seconds_of_turns(stream.turns, len(outputs)), tuple(stream.turns)
    )
