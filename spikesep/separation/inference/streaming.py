"""Separation of a signal that arrives in blocks of any size, equal to separating it in one piece.

    blocks -> Resampler -> Conditioner -> blocks of the network, with their context
           -> level restored -> Resampler -> voices

The network works on a fixed grid of blocks, independent of how samples arrive. The estimates
therefore do not depend on the sizes of the blocks pushed.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from spikesep.separation.audio.conditioning import Conditioner
from spikesep.separation.audio.downmix import select_channels, to_float32
from spikesep.separation.audio.files import MAX_MAGNITUDE, SAMPLE_RATE_RANGE
from spikesep.separation.audio.resampling import FILTER_HALF_WIDTH, resample
from spikesep.separation.model.separator import Separator
from spikesep.spiking.cost import Cost, CostMeter

Wave = TypeVar("Wave", np.ndarray, Tensor)


class Separating(Protocol):
    """Interface of a stream for `separate_blocks`."""

    @property
    def cost(self) -> Cost: ...  # noqa: D102
    def push(self, block: Wave) -> Wave: ...  # noqa: D102
    def flush(self) -> np.ndarray: ...  # noqa: D102


class Stream:
    """One recording on its way through a model: `push` its blocks, then `flush`.

    Args:
        separator: analog or spiking separator in inference mode.
        sample_rate: sample rate of the recording in Hz.
        block_seconds: length of the network's blocks. Longer ones cost less, as less context is
            computed twice.

    Attributes:
        cost: operations of the mask network so far.

    Raises:
        ValueError: the sample rate is out of range, or `block_seconds` is not positive.
    """

    def __init__(self, separator: Separator, sample_rate: int, block_seconds: float = 0.5):
        if (
            sample_rate != int(sample_rate)
            or not SAMPLE_RATE_RANGE[0] <= sample_rate <= SAMPLE_RATE_RANGE[1]
        ):
            raise ValueError(
                f"a sample rate of {sample_rate} Hz; it must be a whole number from "
                f"{SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]}"
            )
        if not 0 < block_seconds < float("inf"):
            raise ValueError(f"block_seconds must be positive, not {block_seconds}")
        self.sample_rate = int(sample_rate)
        self.cost = Cost()
        self._separator = separator
        self._device = next(separator.parameters()).device
        stride, rate = separator.stride, separator.sample_rate
        # Whole strides, so that blocks begin on the grid of the encoder's frames.
        self._context = -(-separator.context // stride) * stride
        self._length = max(1, round(block_seconds * rate) // stride) * stride
        self._to_model = Resampler(self.sample_rate, rate)
        self._from_model = Resampler(rate, self.sample_rate)
        self._conditioner = Conditioner(rate)
        self._mixture = Window()  # [2, n]: conditioned samples and the factor of their level
        self._n_pending = 0  # samples pushed whose estimates were not returned yet
        self._flushed = False

    @property
    def latency(self) -> float:
        """Largest delay of an estimate in seconds of signal; computing time comes on top."""
        core = (self._length + self._context) / self._separator.sample_rate
        resampling = self._to_model.latency + self._from_model.latency
        return resampling + self._conditioner.latency + core

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
        """Separate all blocks whose context is complete; with `last`, everything that is left."""
        window, context, pieces = self._mixture, self._context, []
        while window.position < window.stop:
            stop = window.position + self._length
            if not last and window.stop < stop + context:
                break
            left, right = max(0, window.position - context), min(window.stop, stop + context)
            samples, factor = window.between(left, right)
            own, meter = slice(window.position - left, min(stop, window.stop) - left), CostMeter()
            mixture = torch.from_numpy(samples).to(self._device)
            estimates = self._separator.separate_conditioned(mixture, meter)
            pieces.append(estimates[:, own].cpu().numpy() * factor[own])
            cost = self._separator.with_encoder_and_decoder(meter.cost, len(samples))
            self.cost = self.cost + cost
            window.advance(min(stop, window.stop), context)
        nothing = np.empty((self._separator.config.n_speakers, 0), np.float32)
        return np.concatenate([nothing, *pieces], axis=1)


class Resampler:
    """Block-wise `resample`: the concatenated blocks equal `resample` of the whole to the bit.

    Args:
        from_rate: input sample rate in Hz.
        to_rate: output sample rate in Hz.
    """

    def __init__(self, from_rate: int, to_rate: int):
        common = np.gcd(from_rate, to_rate)
        self.rates = from_rate, to_rate
        self._up, self._down = int(to_rate // common), int(from_rate // common)
        # Each cell of `down` input samples becomes `up` output samples, with the same filter phases
        # for every cell.
        reach = FILTER_HALF_WIDTH * max(self._up, self._down) / self._up
        self._context = 0 if from_rate == to_rate else -int(-reach // self._down) * self._down
        self._input = Window()

    @property
    def latency(self) -> float:
        """Largest delay of a sample in seconds."""
        return 0.0 if self._up == self._down else (self._down + self._context) / self.rates[0]

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples [..., n]; return the samples [..., m] that are final by now."""
        self._input.push(samples)
        stop = (self._input.stop - self._context) // self._down * self._down
        if stop <= self._input.position:
            return samples[..., :0]
        return self._resample(stop, self._context)

    def flush(self) -> np.ndarray:
        """End the signal and return the remaining samples."""
        return self._resample(self._input.stop, 0)

    def _resample(self, stop: int, context: int) -> np.ndarray:
        """Resample the input up to `stop`, with `context` samples after it."""
        window = self._input
        left, position = max(0, window.position - self._context), window.position
        if stop == position:
            return window.between(position, position)
        resampled = resample(window.between(left, stop + context), *self.rates)
        begin, end = (position - left) * self._up, (stop - left) * self._up
        window.advance(stop, self._context)
        return resampled[..., begin // self._down : -(-end // self._down)]


class Window:
    """The part of a signal [..., n] that is still needed, addressed by sample index of the signal.

    Attributes:
        position: samples before this index are processed.
        stop: number of samples received.
    """

    def __init__(self):
        self.position = self.stop = self._start = 0
        self._pieces: list[np.ndarray] = []

    def push(self, samples: np.ndarray) -> None:
        """Append the next samples."""
        self._pieces.append(samples)
        self.stop += samples.shape[-1]

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the samples start..stop-1."""
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces, axis=-1)]
        return self._pieces[0][..., start - self._start : stop - self._start]

    def advance(self, position: int, context: int) -> None:
        """Mark samples before `position` as processed; keep only `context` of them."""
        self.position = position
        start = max(self._start, position - context)
        self._pieces = [self.between(start, self.stop).copy()]
        self._start = start


def separate_blocks(
    stream: Separating, blocks: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Push all blocks of a recording, then flush.

    Yields:
        Averaged samples [m] and the estimates of the same samples, [n_speakers, m].
    """
    mixture = Window()

    def pair(estimates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        begin = mixture.position
        samples = mixture.between(begin, begin + estimates.shape[1])
        mixture.advance(begin + estimates.shape[1], 0)
        return samples, estimates

    for block in blocks:
        samples = to_mono(block)
        mixture.push(samples)
        estimates = stream.push(samples)
        if estimates.shape[1]:
            yield pair(estimates)
    estimates = stream.flush()
    if estimates.shape[1]:
        yield pair(estimates)


def separate_tracks(
    streams: Sequence[Separating],
    blocks: Iterable[np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run `separate_blocks` on several signals of one recording, each with its own stream.

    Blocks [n_tracks, n] become samples [n_tracks, m] and estimates [n_tracks * n_speakers, m].
    """

    def track(k: int, copy: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return (block[k] for block in copy)

    copies = tee(blocks, len(streams))
    pairs = [
        separate_blocks(stream, track(k, copy))
        for k, (stream, copy) in enumerate(zip(streams, copies, strict=True))
    ]
    for together in zip(*pairs, strict=True):  # equal lengths, as all share one sample rate
        yield (
            np.stack([samples for samples, _ in together]),
            np.concatenate([voices for _, voices in together]),
        )


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
