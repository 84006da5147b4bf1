"""Reading and writing audio files.

All audio passes through this module, so sample rates, channels and levels are handled in one place,
and an error is one line that names the file.

The format of a file is detected from its content, not its name. SPHERE has its own reader,
libsndfile reads the files that it reads correctly, and FFmpeg the rest.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError, SpikeSepWarning
from spikesep.files import atomic_path
from spikesep.separation.audio import ffmpeg, sndfile, sphere
from spikesep.separation.audio.containers import SIGNATURES, find_extent
from spikesep.separation.audio.ffmpeg import FfmpegReader
from spikesep.separation.audio.file_section import FileSection
from spikesep.separation.audio.resampling import resample
from spikesep.separation.audio.sndfile import SndfileReader
from spikesep.separation.audio.sphere import SphereReader

SAMPLE_RATE_RANGE = (1_000, 768_000)
"""Lowest and highest sample rate of recordings, in Hz."""
MAX_MAGNITUDE = 1e9
"""Largest magnitude of a sample, far past full scale; squares of larger ones overflow float32."""
HEADERLESS = {".raw": "s16le", ".pcm": "s16le", ".sw": "s16le", ".sln": "s16le"}
HEADERLESS |= {".ul": "mulaw", ".ulaw": "mulaw", ".mulaw": "mulaw", ".al": "alaw", ".alaw": "alaw"}
"""FFmpeg's format name for suffixes of samples without a header."""
NAMES = """
    wav wave bwf rf64 w64 aif aiff aifc au snd caf voc gsm sph wv1 wv2
    flac ogg oga ogx opus spx mp1 mp2 mp3 mpga m4a m4b m4r aac ac3 eac3 dts wma asf
    wv tta ape amr awb mka weba
    webm mkv mp4 m4v mov 3gp 3g2 avi flv wmv ogv ts mts m2ts mpg mpeg
"""
AUDIO_SUFFIXES = tuple(f".{name}" for name in NAMES.split())
"""Suffixes of readable formats, in lower case.

They select files in a folder; the format of a file that is named is detected from its content.
"""
FORMATS = "give wav, flac, ogg, mp3, m4a or another format that libsndfile or FFmpeg reads"

Reader = SndfileReader | FfmpegReader | SphereReader


@dataclass(frozen=True)
class AudioStream:
    """A recording that is read in blocks.

    Attributes:
        sample_rate: In Hz.
        channels: Number of channels.
        length: Samples per channel according to the header; None if it does not say.
        blocks: All samples in order, float32 [channels, n] with full scale at 1. Raises
            SpikeSepError if the recording is cut off, is empty, or holds NaN or Inf.
    """

    sample_rate: int
    channels: int
    length: int | None
    blocks: Iterator[np.ndarray]


def warn(notice: str) -> None:
    """Issue a `SpikeSepWarning`."""
    warnings.warn(notice, SpikeSepWarning, stacklevel=2)


def open_audio(
    source: Path | IO[bytes],
    raw_rate: int | None = None,
    notify: Callable[[str], object] = warn,
    name: str = "",
) -> AudioStream:
    """Open a recording for reading in blocks; its file is closed after the last one.

    Args:
        source: Path of an audio file, or an open file on disk.
        raw_rate: Sample rate in Hz of a file without a header, which holds one channel of 16-bit
            little-endian samples.
        notify: Receives a line about each defect of the recording and each part that is ignored,
            now or while it is read.
        name: Name of an open file, whose suffix tells samples without a header; for messages, too.
            By default, it is standard input.

    Raises:
        SpikeSepError: If the file is missing, is not audio, or is shorter than its header says.
    """
    name = str(source) if isinstance(source, Path) else name or "standard input"
    reader = _open(source, name, raw_rate, notify)
    blocks = check_samples(name, reader.blocks(name, notify))
    return AudioStream(reader.sample_rate, reader.channels, reader.frames, blocks)


def _open(
    source: Path | IO[bytes], name: str, raw_rate: int | None, notify: Callable[[str], object]
) -> Reader:
    if isinstance(source, Path) and not source.is_file():
        fault = "a folder, not an audio file" if source.is_dir() else "no such audio file"
        raise SpikeSepError(f"{name}: {fault}; check the path")
    suffix = PurePath(name).suffix.lower()
    _check_rate(name, raw_rate or SAMPLE_RATE_RANGE[0])
    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as opened:
            opened.seek(0)  # also flushes the write buffer
            file = FileSection(opened)
            if raw_rate:
                reader = sndfile.open_raw(file, "PCM_16", "LITTLE", raw_rate, 1)
            else:
                reader = _open_by_content(file, name, suffix, notify)
    except OSError as error:
        raise SpikeSepError(
            f"{name}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    _check_rate(name, reader.sample_rate)
    return reader


def _check_rate(name: str, rate: int) -> None:
    low, high = SAMPLE_RATE_RANGE
    if not low <= rate <= high:
        raise SpikeSepError(
            f"{name}: has a sample rate of {rate} Hz; give a recording of {low} to {high} Hz"
        )


def _open_by_content(
    file: FileSection, name: str, suffix: str, notify: Callable[[str], object]
) -> Reader:
    if sphere.is_sphere(file):
        return sphere.open_reader(file, name)
    if suffix in HEADERLESS and not SIGNATURES.match(file.read(32)):
        raise SpikeSepError(f"{name}: {_headerless_remedy(Path(name), HEADERLESS[suffix])}")
    extent = find_extent(file, name)
    reader: SndfileReader | FfmpegReader | None = sndfile.open_reader(file, extent, name, notify)
    if reader is None and suffix == ".gsm":
        reader = sndfile.open_gsm(file)
    if reader is None or not reader.trusted:
        reader = ffmpeg.open_reader(file, name, notify) or reader
    if reader is None:
        raise SpikeSepError(f"{name}: not a readable audio file; {FORMATS}")
    if extent and extent.note:
        notify(f"{name}: {extent.note}")
    if extent and extent.length_fault:
        found = "what is found is read"
        if reader.frames:
            found = f"{reader.frames / reader.sample_rate:.2f} s of audio are read"
        notify(f"{name}: {extent.length_fault}; {found}")
    return reader


def _headerless_remedy(path: Path, kind: str) -> str:
    """Explain how to pass samples that have no header."""
    if kind == "s16le":
        return (
            "samples without a header, whose rate must be given: "
            f"spikesep-infer --raw RATE - < {path.name}, if they are 16-bit and mono"
        )
    law = {"mulaw": "mu-law", "alaw": "A-law"}[kind]
    return (
        f"{law} without a header, whose rate must be given: "
        f"ffmpeg -f {kind} -ar 8000 -i {path.name} {path.stem}.wav makes a file that can be read"
    )


def check_samples(name: str, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Pass blocks through and check their samples.

    Raises:
        SpikeSepError: If a sample is NaN, Inf or beyond `MAX_MAGNITUDE`, or there are no samples.
    """
    n = 0
    for block in blocks:
        peak = np.abs(block).max(initial=0.0)
        if not np.isfinite(peak):
            raise SpikeSepError(f"{name}: holds NaN or Inf; export the recording again")
        if peak > MAX_MAGNITUDE:
            raise SpikeSepError(
                f"{name}: samples reach {peak:g}, where full scale is 1; export the recording again"
            )
        n += block.shape[1]
        yield block
    if not n:
        raise SpikeSepError(f"{name}: holds no samples; give a recording that is not empty")


def read_channels(path: str | Path) -> tuple[np.ndarray, int]:
    """Read every channel of an audio file.

    Returns:
        float32 samples [channels, samples] with full scale at 1, and the sample rate in Hz.

    Raises:
        SpikeSepError: If the file is missing, is not audio, is cut off, is empty, or holds NaN or
            Inf.
    """
    stream = open_audio(Path(path))
    blocks = list(stream.blocks)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1), stream.sample_rate


def read_length(path: str | Path) -> tuple[int, int]:
    """Return the samples per channel and the sample rate in Hz.

    The length is taken from the header, or else from packet sizes. A file that has neither is
    decoded.

    Raises:
        SpikeSepError: If the file is missing, is not audio, or is shorter than its header says.
    """
    path = Path(path)
    reader = _open(path, str(path), None, _ignore)
    return _length(path, reader), reader.sample_rate


def _length(path: Path, reader: Reader) -> int:
    length = reader.frames
    if length is None and isinstance(reader, FfmpegReader):
        length = reader.count_packets()
    if length is None:
        length = sum(block.shape[1] for block in open_audio(path, notify=_ignore).blocks)
    return length


def _ignore(notice: str) -> None:
    """Discard a warning; it is issued when the whole recording is read."""


def read_audio(path: str | Path, sample_rate: int | None = None) -> np.ndarray:
    """Read an audio file as one channel, averaged over its channels and resampled.

    Args:
        path: Audio file.
        sample_rate: Output rate in Hz; None keeps that of the file.

    Returns:
        float32 samples [T].

    Raises:
        SpikeSepError: See `read_channels`.
    """
    channels, rate = read_channels(path)
    return resample(channels.mean(axis=0), rate, sample_rate or rate)


def read_segment(
    path: str | Path, bounds: Callable[[int, int], tuple[int, int]]
) -> tuple[np.ndarray, int]:
    """Read part of an audio file, averaged over its channels.

    Args:
        path: Audio file.
        bounds: Takes the length in samples and the sample rate in Hz; returns the first sample and
            the maximum number of samples.

    Returns:
        float32 samples [T] and the sample rate.

    Raises:
        SpikeSepError: See `read_channels`.
    """
    path = Path(path)
    reader = _open(path, str(path), None, _ignore)
    length, rate = _length(path, reader), reader.sample_rate
    start, wanted = bounds(length, rate)
    try:
        samples = reader.segment(start, wanted)
    except (soundfile.SoundFileError, OSError) as error:
        raise SpikeSepError(
            f"{path}: cannot be read from sample {start} on ({error}); copy the file again"
        ) from error
    if samples is None:
        return _read_sequentially(path, start, wanted), rate
    present = samples.shape[1]
    if present < min(wanted, length - start):
        raise SpikeSepError(
            f"{path}: cut off, {start + present} of {length} samples are present; copy it again"
        )
    return samples.mean(axis=0), rate


def _read_sequentially(path: Path, start: int, wanted: int) -> np.ndarray:
    """Read a segment, averaged over channels, by decoding from the beginning to its end."""
    pieces, position = [], 0
    for block in open_audio(path, notify=_ignore).blocks:
        first, last = max(0, start - position), max(0, start + wanted - position)
        pieces.append(block[:, first:last].mean(axis=0))
        position += block.shape[1]
        if position >= start + wanted:
            break
    return np.concatenate(pieces)


def read_audio_at(path: str | Path, sample_rate: int) -> np.ndarray:
    """Read an audio file that must have a sample rate in Hz, as float32 samples [T].

    Raises:
        SpikeSepError: See `read_channels`, or if the file has another sample rate.
    """
    channels, rate = read_channels(path)
    if rate != sample_rate:
        raise SpikeSepError(
            f"{path}: is at {rate} Hz, the corpus at {sample_rate}; use the original recording"
        )
    return channels[0] if len(channels) == 1 else channels.mean(axis=0)


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Round samples with full scale at 1 to int16, with an error of at most half a step.

    Raises:
        ValueError: If a sample lies outside ±1, where it would be clipped, or is NaN.
    """
    peak = np.abs(samples).max(initial=0.0)
    if not peak <= 1:
        raise ValueError(f"samples reach {peak:g}, past full scale; scale them before writing")
    return np.minimum(np.round(samples * 32768.0), 32767).astype(np.int16)


def write_wav(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write one channel [T] as 16-bit PCM, atomically.

    Raises:
        ValueError: If a sample lies outside ±1 (see `to_pcm16`).
    """
    content = wav_bytes(to_pcm16(samples), sample_rate)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)  # libsndfile itself does not report a full disk


def wav_bytes(pcm: np.ndarray, sample_rate: int) -> bytes:
    """Return a 16-bit wav file of one channel [T], int16 or floats, which libsndfile clips."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
