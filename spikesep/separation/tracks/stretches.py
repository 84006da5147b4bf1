"""Stretches of a recording: parts in which the same outputs are active, with their embeddings."""

from dataclasses import dataclass

import numpy as np
import torch

from spikesep.separation.audio.resampling import Resampler, Window
from spikesep.separation.tracks.activity import FRAMES_PER_SECOND, constant_runs
from spikesep.separation.tracks.embedder import SpeakerEmbedder


@dataclass(frozen=True)
class Stretch:
    """A part of a recording in which the same outputs are active.

    Attributes:
        start: first frame.
        stop: frame behind the last.
        seconds: active time of each output, [S].
        embeddings: embedding of each output, [S, E]; zeros where it is inactive.
    """

    start: int
    stop: int
    seconds: np.ndarray
    embeddings: np.ndarray


class StretchCollector:
    """Cuts the gated outputs of a separator into stretches and embeds them.

    Args:
        embedder: embeds the voices, in inference mode.
        n_outputs: outputs of the separator, S.
        sample_rate: sample rate in Hz.
        longest: frames of the longest stretch.
        chunk: frames that the embedder processes at once. Longer ones cost less, as less context
            is computed twice.

    Attributes:
        stretches: complete stretches.
    """

    def __init__(
        self,
        embedder: SpeakerEmbedder,
        n_outputs: int,
        sample_rate: int,
        *,
        longest: int,
        chunk: int,
    ):
        self.stretches: list[Stretch] = []
        self._embedder, self._n, self._longest = embedder, n_outputs, longest
        self._chunk = chunk
        self._resampler = Resampler(sample_rate, embedder.config.sample_rate)
        self._voices = Window()
        self._active = np.zeros((n_outputs, 0), bool)  # of frames that are not embedded yet
        self._n_embedded = 0
        self._sums = _Sums(embedder, n_outputs)

    @property
    def latency(self) -> float:
        """Largest delay in seconds between a sample and the stretch that contains it."""
        frames = self._chunk + self._longest + self._embedder.config.context
        return frames / FRAMES_PER_SECOND + self._resampler.latency

    def push(self, gated: np.ndarray, active: np.ndarray) -> None:
        """Take further samples [S, n] and the activity of further frames, bool [S, K]."""
        self._voices.push(self._resampler.push(gated))
        self._active = np.concatenate([self._active, active], 1)
        hop, context = self._embedder.config.hop, self._embedder.config.context
        while (
            self._active.shape[1] >= self._chunk
            and self._voices.stop >= (self._n_embedded + self._chunk + context) * hop
        ):
            self._embed(self._chunk)

    def flush(self) -> None:
        """End the recording and complete the last stretch."""
        self._voices.push(self._resampler.push(np.zeros((self._n, 0), np.float32)))
        self._voices.push(self._resampler.flush())
        if n_frames := self._active.shape[1]:
            self._embed(n_frames)
        self._cut()

    def _embed(self, n_frames: int) -> None:
        """Compute potentials of the next frames of active outputs and add them to stretches."""
        active, self._active = self._active[:, :n_frames], self._active[:, n_frames:]
        hop, context = self._embedder.config.hop, self._embedder.config.context
        start, stop = self._n_embedded, self._n_embedded + n_frames
        potentials = np.zeros((self._n, self._embedder.config.n_potentials, n_frames), np.float32)
        heard = active.any(1)
        if heard.any():
            left, right = max(0, start - context), stop + context
            voices = self._voices.between(left * hop, min(right * hop, self._voices.stop))[heard]
            voices = np.pad(voices, ((0, 0), (0, (right - left) * hop - voices.shape[1])))
            potentials[heard] = self._potentials(voices)[..., start - left :][..., :n_frames]
        self._voices.advance(stop * hop, context * hop)
        self._n_embedded = stop
        for first, last in constant_runs(active):
            self._add(active[:, first], potentials[:, :, first:last])

    def _add(self, active: np.ndarray, potentials: np.ndarray) -> None:
        """Add frames of the same activity [S], with potentials [S, D, K], to stretches."""
        if self._sums.ends_before(active):
            self._cut()
        while potentials.shape[2]:
            room = self._longest - self._sums.n_frames
            self._sums.add(active, potentials[:, :, :room])
            potentials = potentials[:, :, room:]
            if self._sums.n_frames == self._longest:
                self._cut()

    def _potentials(self, voices: np.ndarray) -> np.ndarray:
        """Return the potentials [B, D, K] of voices [B, K * hop]."""
        with torch.inference_mode():
            device = self._embedder.filters.device
            features = self._embedder.features(torch.from_numpy(voices).to(device))
            return self._embedder.network(features).cpu().numpy()

    def _cut(self) -> None:
        if self._sums.n_frames:
            self.stretches.append(self._sums.stretch())
            self._sums = _Sums(self._embedder, self._n, self._sums.start + self._sums.n_frames)


class _Sums:
    """Sums over the frames of a stretch that is not complete yet."""

    def __init__(self, embedder: SpeakerEmbedder, n_outputs: int, start: int = 0):
        n_potentials = embedder.config.n_potentials
        self.start, self.n_frames = start, 0
        self._embedder = embedder
        self._active = np.zeros(n_outputs, bool)
        self._total = np.zeros((n_outputs, n_potentials))
        self._squares = np.zeros((n_outputs, n_potentials))

    def ends_before(self, active: np.ndarray) -> bool:
        """Whether a frame with this activity begins another stretch."""
        return self.n_frames > 0 and bool((active != self._active).any())

    def add(self, active: np.ndarray, potentials: np.ndarray) -> None:
        """Add frames: their activity [S] and potentials [S, D, K]."""
        self._active = active
        self.n_frames += potentials.shape[2]
        self._total += potentials.sum(2)
        self._squares += np.square(potentials).sum(2)

    def stretch(self) -> Stretch:
        """Return the stretch."""
        frames = np.where(self._active, float(self.n_frames), 0.0)
        embeddings = np.zeros((len(frames), self._embedder.config.n_dimensions), np.float32)
        if self._active.any():
            sums = (frames, self._total, self._squares)
            tensors = [torch.from_numpy(x[self._active]).float() for x in sums]
            with torch.inference_mode():
                embeddings[self._active] = self._embedder.embed(*tensors).cpu().numpy()
        return Stretch(
            self.start, self.start + self.n_frames, frames / FRAMES_PER_SECOND, embeddings
        )
