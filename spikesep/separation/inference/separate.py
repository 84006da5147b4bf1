"""Separation of recordings: any sample rate and length, in blocks of constant memory, at a stated output level."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.downmix import (
    Channels,
    channel_suffixes,
    choose_downmix,
    select_channels,
)
from spikesep.separation.audio.files import read_channels
from spikesep.separation.inference.streaming import Stream, Wave, aligned_tracks, sane
from spikesep.separation.model.hub import find_model
from spikesep.separation.model.separator import Separator, load_separator
from spikesep.spiking.cost import Cost
from spikesep.training.precision import exact_products

Level = Literal["match-mix", "peak", "none"]
PEAK = 0.9
PIECE = 2**16
"""Samples that are pushed at once."""


@dataclass(frozen=True)
class Separated:
    """Voices of one recording.

    Attributes:
        estimates: float32 [n_speakers, samples], or [channels, n_speakers, samples] with
            `channels="each"`.
        sample_rate: Hz, the recording's.
        cost: of the mask network, all blocks together; where there are several, their shared context is counted twice.
        scale: all voices were lowered by this common factor to stay within full scale; 1 where that was not needed.
        channels: what was separated: as requested, or the strongest channel if averaging cancels
            them.
    """

    estimates: np.ndarray
    sample_rate: int
    cost: Cost
    scale: float = 1.0
    channels: Channels = "mix"


class Model:
    """A trained separator, ready for recordings. Calls leave no state behind.

    Args:
        separator: analog or spiking.
        device: where it computes.
    """

    def __init__(self, separator: Separator, device: str = "cpu"):
        self.separator = separator.to(device).eval()
        self.device = torch.device(device)
        exact_products(self.device)

    @property
    def sample_rate(self) -> int:
        """Hz, of the network; recordings at other rates are resampled and the voices resampled back."""
        return self.separator.sample_rate

    @property
    def kind(self) -> str:
        """`ann` or `snn`."""
        return self.separator.kind

    @property
    def n_speakers(self) -> int:
        """How many voices come out."""
        return self.separator.config.n_speakers

    def separate(
        self,
        wave: Wave,
        sample_rate: int | None = None,
        level: Level = "match-mix",
        segment_seconds: float = 30.0,
        channels: Channels = "mix",
    ) -> Wave:
        """Separate the voices of a recording.

        Args:
            wave: [samples] or [channels, samples], numpy or torch: float with full scale at 1, or
                int16, int32 or uint8 as read from a WAV file. The voices come in the same library,
                as floats.
            sample_rate: of `wave`, Hz; None for the network's own.
            level: see `set_level`.
            segment_seconds: length of the blocks it is worked through in.
            channels: `mix` separates the average of all channels, `each` every channel by itself,
                and a number that channel, counted from 1. If the channels are in opposite phase and
                cancel when averaged, `mix` takes the strongest one and warns.

        Returns:
            Voices [n_speakers, samples], or [channels, n_speakers, samples] for `each`, at
            `sample_rate`, with full scale at 1.

        Raises:
            ValueError: `wave` has another shape ([samples, channels] for example) or type, is
                empty, holds NaN or Inf, or lacks the channel.
        """
        is_tensor = isinstance(wave, Tensor)
        samples = np.asarray(wave.detach().cpu() if is_tensor else wave)
        rate = self.sample_rate if sample_rate is None else sample_rate
        result = self.separate_recording(samples, rate, level, segment_seconds, channels=channels)
        if not is_tensor:
            return result.estimates
        estimates = torch.from_numpy(result.estimates).to(wave.device)
        return estimates.to(wave.dtype) if wave.is_floating_point() else estimates

    def separate_recording(
        self,
        samples: np.ndarray,
        sample_rate: int,
        level: Level = "match-mix",
        segment_seconds: float = 30.0,
        on_progress: Callable[[float], None] = lambda share: None,
        channels: Channels = "mix",
    ) -> Separated:
        """As `separate`, with what it cost; `on_progress` is told the share that is done."""
        if samples.ndim == 2 and samples.shape[0] > max(
            samples.shape[1], 64
        ):  # more than any recording's channels
            raise ValueError(
                f"a recording is [channels, samples]; transpose this one of shape {samples.shape}"
            )
        if not samples.size:
            raise ValueError("the recording is empty")
        samples = sane(samples)
        n_tracks = len(channel_suffixes(channels, len(samples)))
        heard = self._heard(samples, channels)
        mixture = np.ascontiguousarray(select_channels(samples, heard))
        streams = [self.stream(sample_rate, segment_seconds) for _ in range(n_tracks)]
        estimates, done, n = (
            np.empty((n_tracks * self.n_speakers, mixture.shape[1]), np.float32),
            0,
            mixture.shape[1],
        )
        for _, voices in aligned_tracks(
            streams, (mixture[:, k : k + PIECE] for k in range(0, n, PIECE))
        ):
            estimates[:, done : done + voices.shape[1]] = voices
            done += voices.shape[1]
            on_progress(done / n)
        meter = LevelMeter(self.n_speakers, n_tracks)
        meter.add(estimates, mixture)
        gains, scale = meter.gains(level)
        leveled = with_gains(estimates, gains)
        leveled = leveled.reshape(n_tracks, -1, n) if channels == "each" else leveled
        return Separated(leveled, streams[0].sample_rate, total_cost(streams), scale, heard)

    def _heard(self, samples: np.ndarray, channels: Channels) -> Channels:
        heard = choose_downmix([samples]) if channels == "mix" else channels
        if heard != channels:
            warnings.warn(
                "the channels are in opposite phase and cancel when averaged; separating the strongest, "
                f"channel {heard}; choose with channels=1 or 'each'",
                stacklevel=4,
            )
        return heard

    def separate_files(
        self,
        paths: Iterable[str | Path],
        level: Level = "match-mix",
        segment_seconds: float = 30.0,
        on_error: Callable[[Path, SpikeSepError], None] | None = None,
        channels: Channels = "mix",
    ) -> Iterator[tuple[Path, Separated]]:
        """Separate one audio file after the other: each with its voices, held in memory.

        Args:
            paths: audio files.
            level: see `set_level`.
            segment_seconds: as in `separate`.
            on_error: is told of a file that cannot be separated, and the rest goes on; without it, that is raised.
            channels: as in `separate`.

        Raises:
            SpikeSepError: a file cannot be read.
        """
        for path in map(Path, paths):
            try:
                samples, sample_rate = read_channels(path)
                found = self.separate_recording(
                    samples, sample_rate, level, segment_seconds, channels=channels
                )
            except (SpikeSepError, ValueError) as error:
                named = (
                    error if isinstance(error, SpikeSepError) else SpikeSepError(f"{path}: {error}")
                )
                if on_error is None:
                    raise named from error
                on_error(path, named)
            else:
                yield path, found

    def stream(self, sample_rate: int | None = None, block_seconds: float = 0.5) -> Stream:
        """A stream for a recording that arrives in blocks; its voices keep the network's own level.

        Args:
            sample_rate: of the recording, Hz; None for the network's own.
            block_seconds: of the network's blocks: shorter ones answer sooner, longer ones cost less.
        """
        return Stream(
            self.separator, self.sample_rate if sample_rate is None else sample_rate, block_seconds
        )


def load_model(
    path: str | Path | None = None,
    network: Literal["snn", "ann"] | None = None,
    device: str = "cpu",
) -> Model:
    """Load a separator; nothing in it is executed.

    Args:
        path: a model folder or `.safetensors` file, an experiment folder that holds `snn` and `ann`, the name of a
            shipped model, or `org/name` of the Hugging Face hub, with `@revision` for one of its versions; None for the
            shipped model. What is here comes before what is on the hub.
        network: which of an experiment's two; by default the spiking one, if there. A model must be of this kind.
        device: `cpu`, `cuda`, ...

    Raises:
        SpikeSepError: there is no such model, or not this network, or no such device, or the model was changed.
    """
    found = find_model(path, network)
    separator = load_separator(found)
    if network is not None and separator.kind != network:
        raise SpikeSepError(
            f"{found}: is of kind {separator.kind}, not {network}; leave --network out, or give the other"
        )
    try:
        return Model(separator, device)
    except (RuntimeError, AssertionError) as error:
        raise SpikeSepError(
            f"--device {device}: cannot be used ({str(error).splitlines()[0]}); try cpu"
        ) from error


class LevelMeter:
    """Statistics of voices and mixtures from which `gains` sets a level, gathered block by block.

    Args:
        n_speakers: voices per mixture.
        n_tracks: mixtures: channels of one recording that are separated by themselves.
    """

    def __init__(self, n_speakers: int, n_tracks: int = 1):
        self.gram, self.target = (
            np.zeros((n_tracks, n_speakers, n_speakers)),
            np.zeros((n_tracks, n_speakers)),
        )
        self.peaks = np.zeros(n_tracks * n_speakers)

    def add(self, estimates: np.ndarray, mixtures: np.ndarray) -> None:
        """Add a block: estimates [n_tracks * n_speakers, n] and mixtures [n_tracks, n] (or [n])."""
        voices = estimates.astype(np.float64).reshape(*self.target.shape, -1)
        mixtures = mixtures.astype(np.float64).reshape(len(voices), -1)
        self.gram += voices @ voices.transpose(0, 2, 1)
        self.target += (voices @ mixtures[:, :, None])[:, :, 0]
        self.peaks = np.maximum(self.peaks, np.abs(estimates).max(1, initial=0.0))

    def gains(self, level: Level) -> tuple[np.ndarray, float]:
        """Return gains, float64 [n_tracks * n_speakers], and the common factor included in them.

        The factor keeps all voices within full scale.
        """
        if level == "match-mix":
            gains = np.concatenate(
                [_matching_gains(*track) for track in zip(self.gram, self.target, strict=True)]
            )
        elif level == "peak":
            gains = np.divide(PEAK, self.peaks, out=np.zeros_like(self.peaks), where=self.peaks > 0)
        elif level == "none":
            gains = np.ones_like(self.peaks)
        else:
            raise ValueError(f"level must be 'match-mix', 'peak' or 'none', not {level!r}")
        scale = 1.0 / max(1.0, float((gains * self.peaks).max()))
        return gains * scale, scale


def _matching_gains(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve non-negative least squares: the best non-negative solution on any subset of voices."""
    n = len(gram)
    best, gains = 0.0, np.zeros(n)
    for some in (list(some) for size in range(n, 0, -1) for some in combinations(range(n), size)):
        part = np.linalg.lstsq(gram[np.ix_(some, some)], target[some], rcond=1e-10)[0]
        explained = float(part @ target[some])  # energy of the mixture
        if (part >= 0).all() and explained > best * (1 + 1e-9):
            best, gains = explained, np.zeros(n)
            gains[some] = part
    return gains


def total_cost(streams: Iterable[Stream]) -> Cost:
    """Add up the costs of streams."""
    return sum((stream.cost for stream in streams), Cost())


def set_level(estimates: np.ndarray, mixture: np.ndarray, level: Level) -> tuple[np.ndarray, float]:
    """Give the voices a level; the network's own, trained to be scale-invariant, says nothing.

    Args:
        estimates: [n_speakers, samples].
        mixture: [samples].
        level: `match-mix` finds the gains, none negative, with which the voices add up to the mixture best; `peak`
            brings each voice to a peak of 0.9; `none` leaves them.

    Returns:
        The voices, and the common factor by which they were lowered, after that, to stay within full scale.
    """
    meter = LevelMeter(len(estimates))
    meter.add(estimates, mixture)
    gains, scale = meter.gains(level)
    return with_gains(estimates, gains), scale


def with_gains(estimates: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Estimates [n_speakers, n] times gains [n_speakers] or [n_speakers, n], float32; rounding leaves them in ±1."""
    return (estimates * gains.reshape(len(estimates), -1)).astype(np.float32)
