"""Separation of a signal that arrives in blocks of any size, equal to separating it in one piece.

    blocks -> Resampler -> Conditioner -> SeparatorStream -> level restored -> Resampler -> voices

The network works on a fixed grid of blocks, independent of how samples arrive. The estimates
therefore do not depend on the sizes of the blocks pushed. Each layer keeps the spikes that it still
reads, so that nothing is computed twice, however short the blocks are.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from spikesep.separation.audio.downmix import select_channels, to_float32
from spikesep.separation.audio.files import MAX_MAGNITUDE, SAMPLE_RATE_RANGE
from spikesep.separation.audio.resampling import Resampler, Window
from spikesep.separation.model.latency import block_length, delays_of
from spikesep.separation.model.separator import Separator
from spikesep.separation.model.stream import SeparatorStream
from spikesep.spiking.cost import Cost

Wave = TypeVar("Wave", np.ndarray, Tensor)


class Separating(Protocol):
    """Interface of a stream for `separate_tracks`."""

    @property
    def cost(self) -> Cost: ...  # noqa: D102
    def push(self, block: Wave) -> Wave: ...  # noqa: D102
    def flush(self) -> np.ndarray: ...  # noqa: D102


class Stream:
    """One recording on its way through a model: `push` its blocks, then `flush`.

    Args:
        separator: analog or spiking separator in inference mode.
        sample_rate: sample rate of the recording in Hz.
        block_seconds: length of the network's blocks; None for that of `live_block_seconds`. Longer
            ones save calls.

    Attributes:
        delays: what the delay of an estimate consists of.

    Raises:
        ValueError: the sample rate is out of range, or `block_seconds` is not positive.
    """

    def __init__(self, separator: Separator, sample_rate: int, block_seconds: float | None = None):
        if (
            sample_rate != int(sample_rate)
            or not SAMPLE_RATE_RANGE[0] <= sample_rate <= SAMPLE_RATE_RANGE[1]
        ):
            raise ValueError(
                f"a sample rate of {sample_rate} Hz; it must be a whole number from "
                f"{SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]}"
            )
        if block_seconds is not None and not 0 < block_seconds < float("inf"):
            raise ValueError(f"block_seconds must be positive, not {block_seconds}")
        self.sample_rate = int(sample_rate)
        self.delays = delays_of(separator, self.sample_rate, block_seconds)
        self._stream = SeparatorStream(separator)
        self._device = next(separator.parameters()).device
        self._n_speakers = separator.config.n_speakers
        self._length = block_length(separator, block_seconds)
        self._to_model = Resampler(self.sample_rate, separator.sample_rate)
        self._from_model = Resampler(separator.sample_rate, self.sample_rate)
        self._conditioner = separator.conditioner()
        self._mixture = Window()  # [2, n]: conditioned samples and the factor of their level
        self._factors = Window()  # of samples whose estimates are not known yet
        self._n_pending = 0  # samples pushed whose estimates were not returned yet
        self._flushed = False

    @property
    def cost(self) -> Cost:
        """Operations of the separator so far."""
        return self._stream.cost

    @property
    def latency(self) -> float:
        """Largest delay of an estimate in seconds of signal; computing time comes on top."""
        return self.delays.total

    def push(self, block: Wave) -> Wave:
        """Take the next samples of the recording and return the estimates available so far.

        Args:
            block: [n] or [channels, n], any n, NumPy or torch: float with full scale at 1, or
                int16, int32 or uint8. Channels are averaged; push `block[0]` for the first alone.
                The voices are returned in the same library.

        Returns:
            Estimates [n_speakers, m], float32, that follow those returned before; m may be 0. They
            keep the network's level; see `spikesep.separation.inference.output_level.set_level`.

        Raises:
            ValueError: the block has another shape or type or contains NaN or Inf, or the stream
                was flushed.
        """
        if self._flushed:
            raise ValueError("this stream was flushed; open another for another recording")
        samples = to_mono(np.asarray(block.detach().cpu() if isinstance(block, Tensor) else block))
        self._n_pending += len(samples)
        self._mixture.push(self._conditioner.push(self._to_model.push(samples)))
        estimates = self._trimmed(self._from_model.push(self._separate(last=False)))
        if isinstance(block, Tensor):
            return torch.from_numpy(estimates).to(block.device)
        return estimates

    def flush(self) -> np.ndarray:
        """End the recording and return the remaining estimates, [n_speakers, m].

        Raises:
            ValueError: the stream was flushed before.
        """
        if self._flushed:
            raise ValueError("this stream was flushed; open another for another recording")
        self._flushed = True
        nothing = np.empty(0, np.float32)
        rest = [self._to_model.push(nothing), self._to_model.flush()]  # flush needs a push before
        self._mixture.push(self._conditioner.push(np.concatenate(rest)))
        self._mixture.push(self._conditioner.flush())
        last = [self._from_model.push(self._separate(last=True)), self._from_model.flush()]
        return self._trimmed(np.concatenate(last, axis=1))

    def _trimmed(self, estimates: np.ndarray) -> np.ndarray:
        """Cut off samples that resampling adds at the end."""
        estimates = estimates[:, : self._n_pending]
        self._n_pending -= estimates.shape[1]
        return estimates

    def _separate(self, last: bool) -> np.ndarray:
        """Separate all complete blocks; with `last`, everything that is left."""
        window, pieces = self._mixture, []
        while (left := window.stop - window.position) > 0 and (last or left >= self._length):
            stop = window.position + min(left, self._length)
            samples, factor = window.between(window.position, stop)
            window.advance(stop, 0)
            self._factors.push(factor)
            mixture = torch.from_numpy(np.ascontiguousarray(samples)).to(self._device)
            pieces.append(self._leveled(self._stream.push(mixture)))
        if last and self._factors.stop:
            pieces.append(self._leveled(self._stream.flush()))
        nothing = np.empty((self._n_speakers, 0), np.float32)
        return np.concatenate([nothing, *pieces], axis=1)

    def _leveled(self, estimates: Tensor) -> np.ndarray:
        """Give the next estimates the level of the mixture."""
        begin = self._factors.position
        stop = begin + estimates.shape[1]
        factor = self._factors.between(begin, stop)
        self._factors.advance(stop, 0)
        return estimates.cpu().numpy() * factor


def separate_tracks(
    streams: Sequence[Separating], blocks: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Push the blocks of several signals of one recording, each into its own stream; then flush.

    Args:
        streams: one for each signal, of equal sample rate and latency.
        blocks: [n_tracks, n] each.

    Yields:
        Samples [n_tracks, m] and the estimates of the same samples, [n_tracks * n_speakers, m].
    """
    mixtures = Window()

    def pair(voices: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        begin = mixtures.position
        if stop := voices[0].shape[1]:
            stop += begin
            samples = mixtures.between(begin, stop)
            mixtures.advance(stop, 0)
            yield samples, np.concatenate(voices)

    for block in blocks:
        samples = to_channels(block)
        mixtures.push(samples)
        yield from pair([stream.push(row) for stream, row in zip(streams, samples, strict=True)])
    yield from pair([stream.flush() for stream in streams])


def total_cost(streams: Iterable[Separating]) -> Cost:
    """Add up the costs of streams."""
    return sum((stream.cost for stream in streams), Cost())


def to_mono(samples: np.ndarray) -> np.ndarray:
    """Average samples [channels, n] to [n]; check and convert them as `to_channels` does.

    Raises:
        ValueError: see `to_channels`.
    """
    (samples,) = select_channels(to_channels(samples), "mix")
    return np.require(samples, requirements=["C", "W"])  # torch expects a writable array


def to_channels(samples: np.ndarray) -> np.ndarray:
    """Check samples [n] or [channels, n]; convert them to float32 [channels, n], full scale at 1.

    Raises:
        ValueError: they have another shape or type, or values are not finite or absurdly large.
    """
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not len(samples)):
        raise ValueError(
            f"a recording is [samples] or [channels, samples]; this one is {samples.shape}"
        )
    samples = np.atleast_2d(to_float32(samples))
    peak = np.abs(samples).max(initial=0.0)
    if not peak <= MAX_MAGNITUDE:
        raise ValueError("the recording contains NaN or Inf, or values far beyond full scale")
    return samples
