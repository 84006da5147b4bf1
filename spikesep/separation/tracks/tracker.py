"""Streams whose voices follow the speakers; used like a `Stream`.

    block -> Stream -> outputs -> Gate -> gated outputs -> StretchCollector -> stretches
    gated outputs, maps of the stretches -> Arranger -> tracks

A `GatedStream` leaves assignment and arrangement to the end of the recording; a `TrackStream`
assigns each stretch from what has been heard so far.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spikesep.separation.audio.resampling import Window
from spikesep.separation.inference.streaming import Wave, to_mono
from spikesep.separation.model.latency import Delays
from spikesep.separation.tracks.arrangement import Arranger
from spikesep.separation.tracks.assignment import OnlineAssignment, assign
from spikesep.separation.tracks.embedder import SpeakerEmbedder
from spikesep.separation.tracks.gate import Gate, frame_start
from spikesep.separation.tracks.rttm import Turn, find_turns
from spikesep.separation.tracks.stretches import StretchCollector
from spikesep.spiking.cost import Cost


class OutputStream(Protocol):
    """A stream of the outputs of a separator."""

    @property
    def sample_rate(self) -> int: ...  # noqa: D102
    @property
    def cost(self) -> Cost: ...  # noqa: D102
    @property
    def delays(self) -> Delays: ...  # noqa: D102
    def push(self, block: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def flush(self) -> np.ndarray: ...  # noqa: D102


class GatedStream:
    """A stream whose voices are gated, in the order of the network's outputs.

    Args:
        stream: separates the recording.
        embedder: embeds the voices, in inference mode.
        n_outputs: outputs of the separator, S.
    """

    longest, chunk = 100, 250
    """Frames of the longest stretch, and those that are embedded at once."""

    def __init__(self, stream: OutputStream, embedder: SpeakerEmbedder, n_outputs: int):
        self.sample_rate, self.n_outputs = stream.sample_rate, n_outputs
        self._stream = stream
        self._mixture = Window()
        self._maps = np.zeros((0, n_outputs), int)
        self._gate = Gate(n_outputs, self.sample_rate)
        self._collector = StretchCollector(
            embedder, n_outputs, self.sample_rate, longest=self.longest, chunk=self.chunk
        )

    @property
    def cost(self) -> Cost:
        """Operations of the mask network so far."""
        return self._stream.cost

    @property
    def delays(self) -> Delays:
        """What the delay of a voice consists of."""
        return replace(self._stream.delays, tracks=self._gate.latency)

    @property
    def latency(self) -> float:
        """Largest delay of a voice in seconds of signal; computing time comes on top."""
        return self.delays.total

    @property
    def maps(self) -> np.ndarray:
        """Speaker of each output in each stretch, [T, S], after `flush`."""
        return self._maps

    @property
    def turns(self) -> list[Turn]:
        """Who spoke when, after `flush`."""
        return find_turns(self._collector.stretches, self.maps)

    def arranger(self) -> Arranger:
        """Return what turns the voices of the recording into tracks, after `flush`."""
        arranger = Arranger(self.n_outputs, self.sample_rate)
        arranger.plan((stretch.start for stretch in self._collector.stretches), self.maps)
        return arranger

    def push(self, block: Wave) -> Wave:
        """Take the next samples and return the voices available so far; see `Stream.push`."""
        samples = to_mono(np.asarray(block.detach().cpu() if isinstance(block, Tensor) else block))
        self._mixture.push(samples)
        voices = self._collect(*self._gate.push(*self._paired(self._stream.push(samples))))
        if isinstance(block, Tensor):
            return torch.from_numpy(voices).to(block.device)
        return voices

    def flush(self) -> np.ndarray:
        """End the recording and return the remaining voices, [n_speakers, m]."""
        self._mixture.push(np.zeros(0, np.float32))
        voices = [self._collect(*self._gate.push(*self._paired(self._stream.flush())))]
        voices.append(self._collect(*self._gate.flush()))
        self._collector.flush()
        voices.append(self._release())
        return np.concatenate(voices, axis=1)

    def _paired(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return outputs [S, n] with their samples of the mixture, [n]."""
        start, stop = self._mixture.position, self._mixture.position + outputs.shape[1]
        mixture = self._mixture.between(start, stop)
        self._mixture.advance(stop, 0)
        return mixture, outputs

    def _collect(self, gated: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Add gated outputs to the stretches; return the voices that are final."""
        self._collector.push(gated, active)
        return gated

    def _release(self) -> np.ndarray:
        """Return the voices that were held back, after the last stretch."""
        self._maps = assign(self._collector.stretches, self.n_outputs)
        return np.zeros((self.n_outputs, 0), np.float32)


class TrackStream(GatedStream):
    """A stream whose voices follow the speakers, from what has been heard so far."""

    longest, chunk = 50, 25

    def __init__(self, stream: OutputStream, embedder: SpeakerEmbedder, n_outputs: int):
        super().__init__(stream, embedder, n_outputs)
        self._assignment = OnlineAssignment(n_outputs)
        self._arranger = Arranger(n_outputs, self.sample_rate)
        self._held = Window()

    @property
    def delays(self) -> Delays:
        """What the delay of a voice consists of."""
        return replace(super().delays, tracks=super().delays.tracks + self._collector.latency)

    def _collect(self, gated: np.ndarray, active: np.ndarray) -> np.ndarray:
        self._held.push(gated)
        super()._collect(gated, active)
        return self._release()

    def _release(self) -> np.ndarray:
        stretches = self._collector.stretches
        for stretch in stretches[len(self._maps) :]:
            map_ = self._assignment.assign(stretch)
            self._arranger.plan([stretch.start], [map_])
            self._maps = np.vstack([self._maps, map_])
        stop = int(frame_start(stretches[-1].stop, self.sample_rate)) if stretches else 0
        start, stop = self._held.position, min(stop, self._held.stop)
        held = self._held.between(start, stop)
        self._held.advance(stop, 0)
        return self._arranger.arrange(held)
