"""Separation of recordings held in memory, at any sample rate and of any length."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

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
from spikesep.separation.inference.band.high_bands import Band
from spikesep.separation.inference.band.stream import FullBandStream, widen
from spikesep.separation.inference.inputs import check_layout
from spikesep.separation.inference.output_level import Level, LevelMeter
from spikesep.separation.inference.streaming import (
    Stream,
    Wave,
    separate_tracks,
    to_channels,
    total_cost,
)
from spikesep.separation.inference.voices import VoiceChooser, Voices
from spikesep.separation.model.hub import find_model, find_tracks
from spikesep.separation.model.separator import Separator, load_separator
from spikesep.separation.tracks.embedder import SpeakerEmbedder, load_embedder
from spikesep.separation.tracks.leveling import level_voices, turns_of
from spikesep.separation.tracks.rttm import Turn
from spikesep.separation.tracks.tracker import GatedStream, TrackStream
from spikesep.spiking.cost import Cost
from spikesep.training.precision import exact_products

Tracks = Literal["auto", "off"]
CHUNK = 2**16
"""Samples pushed into a stream at once."""


@dataclass(frozen=True)
class Separated:
    """Voices of one recording.

    Attributes:
        estimates: float32 [n_voices, samples], or [channels, n_voices, samples] with
            `channels="each"`.
        sample_rate: sample rate of the recording in Hz.
        cost: operations of the separator.
        scale: common factor by which all voices were attenuated to stay within full scale; 1 if
            they were not.
        channels: what was separated: as requested, or the strongest channel if averaging cancels
            them.
        turns: who spoke when in each separated signal; empty if the voices do not follow speakers.
        heard: number of voices heard in each separated signal; empty if they were not counted,
            which for two outputs is done only if `voices` is given.
    """

    estimates: np.ndarray
    sample_rate: int
    cost: Cost
    scale: float = 1.0
    channels: Channels = "mix"
    turns: tuple[tuple[Turn, ...], ...] = ()
    heard: tuple[int, ...] = ()


class Model:
    """A trained separator, ready for recordings. Calls leave no state behind.

    Args:
        separator: analog or spiking separator.
        device: torch device to compute on.
        embedder: tells speakers apart, so that each voice follows its speaker; None to keep the
            order of the network's outputs.
        band: `full` gives the voices of recordings with a higher sample rate than the network's
            their shares of the band above it; `network` leaves that band out.
    """

    def __init__(
        self,
        separator: Separator,
        device: str = "cpu",
        embedder: SpeakerEmbedder | None = None,
        band: Band = "full",
    ):
        if band not in ("full", "network"):
            raise ValueError(f"band must be 'full' or 'network', not {band!r}")
        self.band: Band = band
        self.separator = separator.to(device).eval()
        self.embedder = None if embedder is None else embedder.eval()
        self.device = torch.device(device)
        exact_products(self.device)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the network in Hz; recordings at other rates are resampled."""
        return self.separator.sample_rate

    def crossed_rate(self, sample_rate: int) -> int | None:
        """Return the network's rate if voices at `sample_rate` get the band above it, else None."""
        is_crossed = self.band == "full" and sample_rate > self.sample_rate
        return self.sample_rate if is_crossed else None

    @property
    def kind(self) -> str:
        """`ann` or `snn`."""
        return self.separator.kind

    @property
    def n_speakers(self) -> int:
        """Number of voices per mixture."""
        return self.separator.config.n_speakers

    def separate(
        self,
        wave: Wave,
        sample_rate: int | None = None,
        level: Level = "match-mix",
        segment_seconds: float = 30.0,
        channels: Channels = "mix",
        tracks: Tracks = "auto",
        *,
        voices: Voices = "all",
    ) -> Wave:
        """Separate the voices of a recording.

        Args:
            wave: [samples] or [channels, samples], NumPy or torch: float with full scale at 1, or
                int16, int32 or uint8 as read from a WAV file. The voices are returned in the same
                library, as floats.
            sample_rate: sample rate of `wave` in Hz; None for that of the network.
            level: see `spikesep.separation.inference.output_level.set_level`.
            segment_seconds: length of the network's blocks, which bounds memory.
            channels: `mix` separates the average of all channels, `each` every channel by itself,
                and a number that channel, counted from 1. If the channels are in opposite phase and
                cancel when averaged, `mix` takes the strongest one and warns.
            tracks: `auto` lets every voice follow its speaker, if the model has an embedder; `off`
                keeps the order of the network's outputs, which may change after a pause.
            voices: `all` returns every output of the network, also those without a voice; `auto`
                as many as are heard, at least one; a number as many of the most active ones. Of
                several signals, `auto` takes the largest count.

        Returns:
            Voices [n_voices, samples], or [channels, n_voices, samples] for `each`, at
            `sample_rate`, with full scale at 1.

        Raises:
            ValueError: `wave` has another shape ([samples, channels] for example) or type, is
                empty, contains NaN or Inf, or lacks the channel; or the network has fewer outputs
                than `voices`.
        """
        is_tensor = isinstance(wave, Tensor)
        samples = np.asarray(wave.detach().cpu() if is_tensor else wave)
        rate = self.sample_rate if sample_rate is None else sample_rate
        result = self.separate_recording(
            samples, rate, level, segment_seconds, channels=channels, tracks=tracks, voices=voices
        )
        if not is_tensor:
            return cast(Wave, result.estimates)
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
        tracks: Tracks = "auto",
        *,
        voices: Voices = "all",
    ) -> Separated:
        """Separate a recording like `separate`, and return its cost, scale and turns as well.

        `on_progress` receives the finished share, up to 1.
        """
        samples = to_channels(check_layout(samples))
        n_tracks = len(channel_suffixes(channels, len(samples)))
        chosen = self._audible(samples, channels)
        mixture = np.ascontiguousarray(select_channels(samples, chosen))
        streams = self.streams(n_tracks, sample_rate, segment_seconds, tracks)
        n, done = mixture.shape[1], 0
        estimates = np.empty((n_tracks * self.n_speakers, n), np.float32)
        chunks = (mixture[:, k : k + CHUNK] for k in range(0, n, CHUNK))
        meter = LevelMeter(self.n_speakers, n_tracks)
        chooser = VoiceChooser(voices, streams, self.n_speakers)
        for mixtures, block in separate_tracks(streams, chunks):
            estimates[:, done : done + block.shape[1]] = block
            done += block.shape[1]
            meter.add(block, mixtures)
            chooser.add(block, mixtures)
            on_progress(done / n)
        network_rate = self.crossed_rate(streams[0].sample_rate)
        rows = estimates if network_rate is None else np.concatenate([estimates, mixture])
        blocks = [rows[:, k : k + CHUNK] for k in range(0, n, CHUNK)]
        leveled, scale = level_voices(lambda: blocks, meter, level, streams, network_rate)
        choice = chooser.choose()
        kept = np.concatenate([block[choice.rows] for block in leveled], axis=1)
        return Separated(
            kept.reshape(n_tracks, -1, n) if channels == "each" else kept,
            streams[0].sample_rate,
            total_cost(streams),
            scale,
            chosen,
            choice.number_turns(turns_of(streams)),
            choice.heard,
        )

    def _audible(self, samples: np.ndarray, channels: Channels) -> Channels:
        """Return the requested channels, or the strongest one, with a warning, if they cancel."""
        audible = choose_downmix([samples]) if channels == "mix" else channels
        if audible != channels:
            warnings.warn(
                "the channels are in opposite phase and cancel when averaged; separating the "
                f"strongest, channel {audible}; choose with channels=1 or 'each'",
                stacklevel=4,
            )
        return audible

    def separate_files(
        self,
        paths: Iterable[str | Path],
        level: Level = "match-mix",
        segment_seconds: float = 30.0,
        on_error: Callable[[Path, SpikeSepError], None] | None = None,
        channels: Channels = "mix",
    ) -> Iterator[tuple[Path, Separated]]:
        """Separate audio files one by one; yield each path with its voices.

        Args:
            paths: audio files.
            level: see `spikesep.separation.inference.output_level.set_level`.
            segment_seconds: as in `separate`.
            on_error: receives each file that cannot be separated, with the error, and the
                remaining files are processed; None raises the error.
            channels: as in `separate`.

        Raises:
            SpikeSepError: a file cannot be read.
        """
        for path in map(Path, paths):
            try:
                samples, sample_rate = read_channels(path)
                separated = self.separate_recording(
                    samples, sample_rate, level, segment_seconds, channels=channels
                )
            except (SpikeSepError, ValueError) as error:
                is_named = isinstance(error, SpikeSepError)
                named = error if is_named else SpikeSepError(f"{path}: {error}")
                if on_error is None:
                    raise named from error
                on_error(path, named)
            else:
                yield path, separated

    def streams(
        self, n: int, sample_rate: int, block_seconds: float | None, tracks: Tracks
    ) -> list[Stream] | list[GatedStream]:
        """Open streams for the signals of a recording; with an embedder, they are gated.

        Raises:
            ValueError: `tracks` is neither `auto` nor `off`.
        """
        if tracks not in ("auto", "off"):
            raise ValueError(f"tracks must be 'auto' or 'off', not {tracks!r}")
        streams = [Stream(self.separator, sample_rate, block_seconds) for _ in range(n)]
        if tracks == "off" or self.embedder is None:
            return streams
        return [GatedStream(stream, self.embedder, self.n_speakers) for stream in streams]

    def track_stream(
        self, sample_rate: int | None = None, block_seconds: float | None = None
    ) -> TrackStream | FullBandStream:
        """Open a stream like `stream` whose voices follow their speakers; it has more latency.

        Raises:
            ValueError: the model has no embedder.
        """
        if self.embedder is None:
            raise ValueError("this model has no embedder to tell speakers apart; use stream")
        rate = self.sample_rate if sample_rate is None else sample_rate
        plain = Stream(self.separator, rate, block_seconds)
        stream = TrackStream(plain, self.embedder, self.n_speakers)
        return widen(stream, self.n_speakers, self.crossed_rate(rate), gated=True)

    def stream(
        self, sample_rate: int | None = None, block_seconds: float | None = None
    ) -> Stream | FullBandStream:
        """Open a stream for a recording that arrives in blocks; voices keep the network's level.

        They also keep the order of its outputs; see `track_stream`.

        Args:
            sample_rate: sample rate of the recording in Hz; None for that of the network.
            block_seconds: length of the network's blocks. Shorter blocks reduce latency;
                longer ones save calls. By default 0.1 s, or 20 ms for a causal network.
        """
        rate = self.sample_rate if sample_rate is None else sample_rate
        stream = Stream(self.separator, rate, block_seconds)
        return widen(stream, self.n_speakers, self.crossed_rate(rate), gated=False)


def load_model(
    path: str | Path | None = None,
    network: Literal["snn", "ann"] | None = None,
    device: str = "cpu",
    band: Band = "full",
) -> Model:
    """Load a trained separator. No code from the model is executed.

    Args:
        path: a model folder or `.safetensors` file, an experiment folder that contains `snn` and
            `ann`, the name of a shipped model, or `org/name` of the Hugging Face hub, with
            `@revision` for a certain version; None for the shipped model. Local files take
            precedence over the hub.
        network: which network of an experiment; by default the spiking one, if present. A single
            model must be of this kind.
        device: torch device, such as `cpu` or `cuda`.
        band: see `Model`.

    Raises:
        SpikeSepError: the model, the network or the device does not exist, or the model's checksum
            does not match.
    """
    found = find_model(path, network)
    separator = load_separator(found)
    if network is not None and separator.kind != network:
        raise SpikeSepError(
            f"{found}: is of kind {separator.kind}, not {network}; leave --network out, or give "
            "the other"
        )
    tracks = find_tracks(found)
    embedder = None if tracks is None else load_embedder(tracks)
    try:
        return Model(separator, device, embedder, band)
    except (RuntimeError, AssertionError) as error:
        raise SpikeSepError(
            f"--device {device}: cannot be used ({str(error).splitlines()[0]}); try cpu"
        ) from error
