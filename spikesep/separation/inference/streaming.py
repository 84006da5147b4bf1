"""Separation of a signal that arrives in blocks of any size, with the result of one piece.

    blocks -> Resampler -> blocks of the network, with the context their samples can depend on -> Resampler -> voices

The network works on a grid of blocks that does not depend on how samples arrive; so neither does what comes out.
"""

from collections.abc import Iterable, Iterator
from itertools import tee
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from spikesep.separation.audio.downmix import select_channels, to_float32
from spikesep.separation.audio.files import MAX_MAGNITUDE, SAMPLE_RATE_RANGE
from spikesep.separation.audio.resampling import FILTER_HALF_WIDTH, resample
from spikesep.separation.model.separator import Separator
from spikesep.spiking.cost import Cost

Wave = TypeVar("Wave", np.ndarray, Tensor)


class Stream:
    """One recording on its way through a model: `push` its blocks, then `flush`.

    Args:
        separator: analog or spiking, in inference mode.
        sample_rate: of the recording, Hz.
        block_seconds: of the network's blocks; longer ones cost less, as less context is computed twice.

    Attributes:
        cost: of the mask network so far.

    Raises:
        ValueError: there is no recording of such a rate, or `block_seconds` is not positive.
    """

    def __init__(self, separator: Separator, sample_rate: int, block_seconds: float = 0.5):
        if (
            sample_rate != int(sample_rate)
            or not SAMPLE_RATE_RANGE[0] <= sample_rate <= SAMPLE_RATE_RANGE[1]
        ):
            raise ValueError(
                f"a sample rate of {sample_rate} Hz; it must be {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]}, a whole number"
            )
        if not 0 < block_seconds < float("inf"):
            raise ValueError(f"block_seconds must be positive, not {block_seconds}")
        self.sample_rate = int(sample_rate)
        self.cost = Cost()
        self._separator = separator
        self._device = next(separator.parameters()).device
        stride, rate = separator.stride, separator.sample_rate
        self._context = (
            -(-separator.context // stride) * stride
        )  # blocks begin on the grid of the encoder's frames
        self._length = max(1, round(block_seconds * rate) // stride) * stride
        self._inward, self._outward = (
            Resampler(self.sample_rate, rate),
            Resampler(rate, self.sample_rate),
        )
        self._mixture = Window()
        self._owed = 0  # estimates still to come
        self._flushed = False

    @property
    def latency(self) -> float:
        """Seconds of signal after which the estimate of a sample comes at the latest; computing comes on top."""
        core = (self._length + self._context) / self._separator.sample_rate
        return self._inward.latency + core + self._outward.latency

    def push(self, block: Wave) -> Wave:
        """Take the next samples of the recording; give what can be said of the voices so far.

        Args:
            block: [n] or [channels, n], any n, numpy or torch: float with full scale at 1, or
                int16, int32 or uint8. Channels are averaged; push `block[0]` for the first alone.
                The voices come in the same library.

        Returns:
            [n_speakers, m], float32, the estimates that follow on those returned before; m may be 0. Their level is the
            network's own, see `spikesep.separation.separate.set_level`.

        Raises:
            ValueError: the block has another shape or type or holds NaN or Inf, or the stream was
                flushed.
        """
        if self._flushed:
            raise ValueError("this stream was flushed; open another for another recording")
        samples = mono(np.asarray(block.detach().cpu() if isinstance(block, Tensor) else block))
        self._owed += len(samples)
        self._mixture.push(self._inward.push(samples))
        estimates = self._paid(self._outward.push(self._separated(last=False)))
        return (
            torch.from_numpy(estimates).to(block.device) if isinstance(block, Tensor) else estimates
        )

    def flush(self) -> np.ndarray:
        """The estimates that are still owed, [n_speakers, m]: the recording is at its end."""
        if self._flushed:
            raise ValueError("this stream was flushed; open another for another recording")
        self._flushed = True
        self._mixture.push(
            self._inward.push(np.empty(0, np.float32))
        )  # should nothing have come at all
        self._mixture.push(self._inward.flush())
        last = [self._outward.push(self._separated(last=True)), self._outward.flush()]
        return self._paid(np.concatenate(last, axis=1))

    def _paid(self, estimates: np.ndarray) -> np.ndarray:
        """Without the samples that resampling adds at the end."""
        estimates = estimates[:, : self._owed]
        self._owed -= estimates.shape[1]
        return estimates

    def _separated(self, last: bool) -> np.ndarray:
        """Estimates of the blocks whose context is there; at the end, of all that is left."""
        window, context, pieces = self._mixture, self._context, []
        while window.position < window.stop:
            stop = window.position + self._length
            if not last and window.stop < stop + context:
                break
            left, right = max(0, window.position - context), min(window.stop, stop + context)
            mixture = torch.from_numpy(window.between(left, right)).to(self._device)
            estimates, cost = self._separator.separate_with_cost(mixture)
            own = slice(window.position - left, min(stop, window.stop) - left)
            pieces.append(estimates[:, own].cpu().numpy())
            self.cost = self.cost + cost
            window.advance(min(stop, window.stop), context)
        nothing = np.empty((self._separator.config.n_speakers, 0), np.float32)
        return np.concatenate([nothing, *pieces], axis=1)


class Resampler:
    """`resample`, block by block: the blocks together are to the bit what it makes of one piece.

    Args:
        from_rate: Hz.
        to_rate: Hz.
    """

    def __init__(self, from_rate: int, to_rate: int):
        common = np.gcd(from_rate, to_rate)
        self.rates = from_rate, to_rate
        self._up, self._down = int(to_rate // common), int(from_rate // common)
        # Cells of `down` samples become `up`; every cell sees the same phases of the filter.
        reach = (
            0 if from_rate == to_rate else FILTER_HALF_WIDTH * max(self._up, self._down) / self._up
        )
        self._context = -int(-reach // self._down) * self._down
        self._input = Window()

    @property
    def latency(self) -> float:
        """Seconds of signal for which a sample may have to wait."""
        return 0.0 if self._up == self._down else (self._down + self._context) / self.rates[0]

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Samples [..., n] that come next; what is certain by then, [..., m] at the new rate."""
        self._input.push(samples)
        whole = (self._input.stop - self._context) // self._down * self._down
        if whole <= self._input.position:
            return samples[..., :0]
        return self._until(whole, self._context)

    def flush(self) -> np.ndarray:
        """What is left to say at the end."""
        return self._until(self._input.stop, 0)

    def _until(self, stop: int, context: int) -> np.ndarray:
        window = self._input
        left, position = max(0, window.position - self._context), window.position
        if stop == position:
            return window.between(position, position)
        made = resample(window.between(left, stop + context), *self.rates)
        begin, end = ((place - left) * self._up for place in (position, stop))
        window.advance(stop, self._context)
        return made[..., begin // self._down : -(-end // self._down)]


class Window:
    """The stretch of a signal [..., n] that is still needed, told by places in the whole signal.

    Attributes:
        position: up to where work is done.
        stop: up to where samples have come.
    """

    def __init__(self):
        self.position = self.stop = self._start = 0
        self._pieces: list[np.ndarray] = []

    def push(self, samples: np.ndarray) -> None:
        """Samples that come next."""
        self._pieces.append(samples)
        self.stop += samples.shape[-1]

    def between(self, start: int, stop: int) -> np.ndarray:
        """The samples start..stop-1."""
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces, axis=-1)]
        return self._pieces[0][..., start - self._start : stop - self._start]

    def advance(self, position: int, context: int) -> None:
        """Work is done up to `position`; of what came before, only `context` samples are needed still."""
        self.position = position
        start = max(self._start, position - context)
        self._pieces = [self.between(start, self.stop).copy()]
        self._start = start


def aligned(
    stream: Stream, blocks: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Push all blocks of a recording, and flush: its samples [m], averaged, beside their estimates [n_speakers, m]."""
    mixture = Window()

    def beside(estimates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        begin = mixture.position
        samples = mixture.between(begin, begin + estimates.shape[1])
        mixture.advance(begin + estimates.shape[1], 0)
        return samples, estimates

    for block in blocks:
        samples = mono(block)
        mixture.push(samples)
        estimates = stream.push(samples)
        if estimates.shape[1]:
            yield beside(estimates)
    estimates = stream.flush()
    if estimates.shape[1]:
        yield beside(estimates)


def aligned_tracks(
    streams: list[Stream],
    blocks: Iterable[np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run `aligned` on several signals of one recording, each with its own stream.

    Blocks [n_tracks, n] become samples [n_tracks, m] and estimates [n_tracks * n_speakers, m].
    """

    def of_track(k: int, copy: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return (block[k] for block in copy)

    copies = tee(blocks, len(streams))
    pairs = [
        aligned(stream, of_track(k, copy))
        for k, (stream, copy) in enumerate(zip(streams, copies, strict=True))
    ]
    for together in zip(*pairs, strict=True):  # in step, as all have one sample rate
        yield (
            np.stack([samples for samples, _ in together]),
            np.concatenate([voices for _, voices in together]),
        )


def mono(samples: np.ndarray) -> np.ndarray:
    """Average [channels, n], or take [n] as it is; see `sane`.

    Raises:
        ValueError: as `sane`.
    """
    (samples,) = select_channels(sane(samples), "mix")
    return np.require(samples, requirements=["C", "W"])  # writable, as torch wants it


def sane(samples: np.ndarray) -> np.ndarray:
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
        raise ValueError("the recording holds NaN or Inf, or samples past any scale")
    return samples
