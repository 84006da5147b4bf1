"""Separation of recordings of any length in constant memory, from disk or a pipe into a sink."""

import errno
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import explain_full_disk
from spikesep.separation.audio.downmix import Channels, channel_suffixes, select_channels
from spikesep.separation.audio.files import AudioStream, to_pcm16
from spikesep.separation.inference.in_memory import Model, Tracks
from spikesep.separation.inference.output_level import Level, LevelMeter
from spikesep.separation.inference.report import Report, Separation, separation_report
from spikesep.separation.inference.settings import InferenceSettings, cached_model
from spikesep.separation.inference.streaming import Stream, separate_tracks, total_cost
from spikesep.separation.inference.voices import VoiceChooser, Voices
from spikesep.separation.tracks.leveling import level_voices, turns_of
from spikesep.separation.tracks.tracker import GatedStream

CHUNK = 2**16
"""Samples of each voice that are read back from the spool at once."""

Progress = Callable[[float, float | None, float], object]
"""Receives finished seconds, total seconds if known, and the real-time factor."""
Sink = Callable[[int, int | None, int], AbstractContextManager[Callable[[np.ndarray], None]]]
"""Opens an output (sample rate in Hz, number of samples if known, voices per signal); yields a
function that appends int16 [n, n_signals * n_voices]."""


def separate_to_sink(
    settings: InferenceSettings,
    sound: AudioStream,
    channels: Channels,
    *,
    sink: Sink,
    spool_folder: Path,
    on_progress: Progress | None = None,
) -> Report:
    """Separate one recording into a sink and return its report entries.

    Args:
        settings: model and separation settings.
        sound: the recording.
        channels: channels to separate; see `Source.open_audible`.
        sink: output for the voices.
        spool_folder: folder for temporary estimates.
        on_progress: receives the progress.

    Raises:
        SpikeSepError: the recording is unreadable, or memory or disk space runs out.
    """
    begun = time.perf_counter()

    def progress(seconds: float) -> None:
        if on_progress:
            total = sound.length / sound.sample_rate if sound.length else None
            on_progress(seconds, total, (time.perf_counter() - begun) / seconds)

    def write(n_samples: int, n_voices: int, blocks: Iterator[np.ndarray]) -> None:
        with sink(sound.sample_rate, n_samples, n_voices) as append:
            for block in blocks:
                append(block)

    with _memory_errors():
        separation = separate_sound(
            cached_model(settings),
            sound,
            spool_folder,
            write,
            level=settings.level,
            segment_seconds=settings.segment,
            on_progress=progress,
            channels=channels,
            tracks=settings.tracks,
            voices=settings.voices,
        )
    elapsed = time.perf_counter() - begun
    return separation_report(settings, sound, channels, separation=separation, elapsed=elapsed)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn errors of memory allocation into a SpikeSepError with a remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        raise SpikeSepError("not enough memory; give a shorter --segment") from error


def separate_sound(
    model: Model,
    sound: AudioStream,
    spool_folder: Path,
    write: Callable[[int, int, Iterator[np.ndarray]], None],
    *,
    level: Level,
    segment_seconds: float | None,
    on_progress: Callable[[float], None] = lambda seconds: None,
    channels: Channels = "mix",
    tracks: Tracks = "auto",
    voices: Voices = "all",
) -> Separation:
    """Separate a recording like `Model.separate_recording`, in constant memory.

    The output level and the speakers' tracks depend on the whole recording, so estimates are first
    spooled to an unnamed file: 4 bytes per sample and voice, and as many for each signal whose
    voices get a high band.

    Args:
        model: the separator.
        sound: the recording.
        spool_folder: folder of the spool; created if missing.
        write: receives the number of samples, the number of voices of each signal, and blocks of
            voices, int16 [n, n_signals * n_voices], ordered by channel.
        level: see `spikesep.separation.inference.output_level.set_level`.
        segment_seconds: length of the network's blocks.
        on_progress: receives the finished seconds.
        channels: as in `Model.separate`, except that `mix` averages even if channels cancel; see
            `choose_downmix`.
        tracks, voices: as in `Model.separate`.

    Raises:
        SpikeSepError: the recording is unreadable or lacks the channel, or the disk is full.
    """
    streams = open_streams(model, sound, segment_seconds, channels, tracks)
    network_rate = model.crossed_rate(sound.sample_rate)
    meter, n_samples = LevelMeter(model.n_speakers, len(streams)), 0
    chooser = VoiceChooser(voices, streams, model.n_speakers)
    first = next(sound.blocks)  # before the folder is created, in case it cannot be read
    with explain_full_disk(spool_folder), _open_spool(spool_folder) as spool:
        blocks = (select_channels(block, channels) for block in chain([first], sound.blocks))
        for mixtures, estimates in separate_tracks(streams, blocks):
            meter.add(estimates, mixtures)
            chooser.add(estimates, mixtures)
            rows = estimates if network_rate is None else np.concatenate([estimates, mixtures])
            spool.write(np.ascontiguousarray(rows.T).tobytes())
            n_samples += mixtures.shape[1]
            on_progress(n_samples / sound.sample_rate)
        n_rows = len(meter.peaks) + (0 if network_rate is None else len(streams))
        blocks = partial(_read, spool, n_rows)
        leveled, scale = level_voices(blocks, meter, level, streams, network_rate)
        choice = chooser.choose()
        kept = (to_pcm16(block[choice.rows]).T for block in leveled)
        write(n_samples, choice.kept.shape[1], kept)
    return Separation(
        n_samples / sound.sample_rate,
        scale,
        total_cost(streams),
        turns=choice.number_turns(turns_of(streams)),
        heard=choice.heard,
    )


def open_streams(
    model: Model,
    sound: AudioStream,
    segment_seconds: float | None,
    channels: Channels = "mix",
    tracks: Tracks = "auto",
) -> list[Stream] | list[GatedStream]:
    """Open a stream for each signal to separate; see `Model.streams`.

    Raises:
        SpikeSepError: the sample rate is out of range, or the recording lacks the channel.
    """
    names = track_names(channels, sound.channels)
    try:
        return model.streams(len(names), sound.sample_rate, segment_seconds, tracks)
    except ValueError as error:
        raise SpikeSepError(f"{error}; export the recording at such a rate") from error


def track_names(channels: Channels, n_channels: int) -> list[str]:
    """Name the signals to separate; see `channel_suffixes`.

    Raises:
        SpikeSepError: the recording lacks the channel.
    """
    try:
        return channel_suffixes(channels, n_channels)
    except ValueError as error:
        raise SpikeSepError(f"--{error}") from error


@contextmanager
def _open_spool(folder: Path) -> Iterator[IO[bytes]]:
    """Open an unnamed temporary file in a folder, which is created if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SpikeSepError(
            f"{folder}: not writable ({error.strerror}); give another --out-dir"
        ) from error
    with spool:
        yield spool


def _read(spool: BinaryIO | IO[bytes], n_voices: int) -> Iterator[np.ndarray]:
    """Read the estimates from the beginning, in blocks [n_voices, n]."""
    spool.seek(0)
    while content := spool.read(4 * n_voices * CHUNK):
        yield np.frombuffer(content, np.float32).reshape(-1, n_voices).T
