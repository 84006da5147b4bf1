"""Separation of recordings of any length into files or pipes, in constant memory."""

import errno
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_file, explain_full_disk
from spikesep.separation.audio.downmix import Channels, channel_suffixes, select_channels
from spikesep.separation.audio.files import AudioStream, to_pcm16
from spikesep.separation.audio.wav import wav_header
from spikesep.separation.inference.separate import Level, LevelMeter, Model, total_cost, with_gains
from spikesep.separation.inference.streaming import Stream, aligned_tracks
from spikesep.spiking.cost import Cost

SPOOLED = 2**16
"""Samples of a voice that are read back from the spool at once."""


@dataclass(frozen=True)
class Separation:
    """What came of one recording.

    Attributes:
        seconds: of signal.
        scale: all voices were lowered by this common factor to stay within full scale.
        cost: of the mask network.
        broken_off: why a recording that goes on was given up before its end; empty if it was not.
    """

    seconds: float
    scale: float
    cost: Cost
    broken_off: str = ""


def separate_sound(
    model: Model,
    sound: AudioStream,
    place: Path,
    write: Callable[[int, Iterator[np.ndarray]], None],
    level: Level,
    segment_seconds: float,
    on_progress: Callable[[float], None] = lambda seconds: None,
    channels: Channels = "mix",
) -> Separation:
    """Separate a recording of any length in constant memory, as `Model.separate_recording` does.

    The estimates go into a file without a name, 4 bytes a sample and voice, for their level is known at the end alone.

    Args:
        model: separates.
        sound: the recording.
        place: folder of that file; is made if it is not there.
        write: receives the number of samples and blocks of voices, int16 [n, n_voices], ordered by
            channel.
        level: see `spikesep.separation.separate.set_level`.
        segment_seconds: length of the network's blocks.
        on_progress: is told the seconds that are done.
        channels: as in `Model.separate`, except that `mix` averages even if channels cancel; see
            `audible_mix`.

    Raises:
        SpikeSepError: the recording is unreadable or lacks the channel, or the disk is full.
    """
    streams = streams_of(model, sound, segment_seconds, channels)
    meter, n_samples = LevelMeter(model.n_speakers, len(streams)), 0
    first = next(sound.blocks)  # a recording that cannot be read leaves no folder
    with explain_full_disk(place), _spool(place) as spool:
        blocks = (select_channels(block, channels) for block in chain([first], sound.blocks))
        for mixtures, estimates in aligned_tracks(streams, blocks):
            meter.add(estimates, mixtures)
            spool.write(np.ascontiguousarray(estimates.T).tobytes())
            n_samples += mixtures.shape[1]
            on_progress(n_samples / sound.sample_rate)
        gains, scale = meter.gains(level)
        spool.seek(0)
        write(n_samples, _leveled(spool, gains))
    return Separation(n_samples / sound.sample_rate, scale, total_cost(streams))


def streams_of(
    model: Model, sound: AudioStream, segment_seconds: float, channels: Channels = "mix"
) -> list[Stream]:
    """Open a stream for each signal to separate.

    Raises:
        SpikeSepError: the sample rate is out of range, or the recording lacks the channel.
    """
    names = tracks_of(channels, sound.channels)
    try:
        return [model.stream(sound.sample_rate, segment_seconds) for _ in names]
    except ValueError as error:
        raise SpikeSepError(f"{error}; export the recording at such a rate") from error


def tracks_of(channels: Channels, n_channels: int) -> list[str]:
    """Name the signals to separate; see `downmix.channel_suffixes`.

    Raises:
        SpikeSepError: the recording lacks the channel.
    """
    try:
        return channel_suffixes(channels, n_channels)
    except ValueError as error:
        raise SpikeSepError(f"--{error}") from error


@contextmanager
def _spool(place: Path) -> Iterator[IO[bytes]]:
    """Open an unnamed temporary file in a folder, which is created if missing."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        spool = tempfile.TemporaryFile(dir=place)  # noqa: SIM115
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SpikeSepError(
            f"{place}: not writable ({error.strerror}); give another --out-dir"
        ) from error
    with spool:
        yield spool


def _leveled(spool: BinaryIO, gains: np.ndarray) -> Iterator[np.ndarray]:
    """Read the estimates back in blocks of int16 [n, n_voices], with their gains applied."""
    n = len(gains)
    while content := spool.read(4 * n * SPOOLED):
        yield to_pcm16(with_gains(np.frombuffer(content, np.float32).reshape(-1, n).T, gains)).T


def write_files(
    paths: list[Path], sample_rate: int, n_samples: int, blocks: Iterator[np.ndarray]
) -> None:
    """Write each voice into a 16-bit wav file of its own; all are whole, or none is there."""
    with open_files(paths, sample_rate, n_samples) as write:
        for block in blocks:
            write(block)


@contextmanager
def open_files(
    paths: list[Path], sample_rate: int, n_samples: int | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends int16 [n, n_voices] to 16-bit WAV files, one per voice.

    The files appear at the end, all or none.

    Args:
        paths: of the voices.
        sample_rate: Hz.
        n_samples: of each; where it is not known, it is set right in the end.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_file(path)) for path in paths]
        written = 0
        for file in files:
            file.write(wav_header(sample_rate, n_samples))

        def write(block: np.ndarray) -> None:
            nonlocal written
            for file, voice in zip(files, block.T, strict=True):
                file.write(voice.astype("<i2").tobytes())
            written += len(block)

        yield write
        for file in files if n_samples is None else ():
            header = wav_header(sample_rate, written)
            if len(header) == len(wav_header(sample_rate, None)):  # past 4 GiB it stays a stream's
                file.seek(0)
                file.write(header)
        for file in files:
            file.flush()  # all of them before the first appears


@contextmanager
def open_pipe(
    file: BinaryIO, n_voices: int, sample_rate: int, n_samples: int | None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that writes int16 [n, n_voices] to a pipe as one WAV stream."""
    file.write(wav_header(sample_rate, n_samples, n_voices))

    def write(block: np.ndarray) -> None:
        file.write(block.astype("<i2").tobytes())
        file.flush()

    yield write
