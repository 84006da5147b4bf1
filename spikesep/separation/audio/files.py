"""Reading and writing audio files. Everything the project hears or says passes through here, so that
sample rates, channels and levels are handled in one place, and a bad file is one line that names it.

A file is known by its content, not by its name. SPHERE has a reader of its own, libsndfile reads what
it reads rightly, and FFmpeg the rest.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError, SpikeSepWarning
from spikesep.files import atomic_path
from spikesep.separation.audio import ffmpeg, sndfile, sphere
from spikesep.separation.audio.containers import SIGNATURES, Section, find_extent
from spikesep.separation.audio.resampling import resample

RATES = (1_000, 768_000)
"""Hz: sample rates of recordings, the lowest and the highest."""
LOUDEST = 1e9
"""A sample's largest magnitude, far past full scale: squares of larger ones soon leave float32."""
HEADERLESS = {".raw": "s16le", ".pcm": "s16le", ".sw": "s16le", ".sln": "s16le"}
HEADERLESS |= {".ul": "mulaw", ".ulaw": "mulaw", ".mulaw": "mulaw", ".al": "alaw", ".alaw": "alaw"}
"""Suffixes of samples without a header, and what FFmpeg calls them."""
NAMES = """
    wav wave bwf rf64 w64 aif aiff aifc au snd caf voc gsm sph wv1 wv2
    flac ogg oga ogx opus spx mp1 mp2 mp3 mpga m4a m4b m4r aac ac3 eac3 dts wma asf wv tta ape amr awb mka weba
    webm mkv mp4 m4v mov 3gp 3g2 avi flv wmv ogv ts mts m2ts mpg mpeg
"""
AUDIO_SUFFIXES = tuple(f".{name}" for name in NAMES.split())
"""Suffixes of the formats that can be read, in lower case. They choose files in a folder; a file that is named is
known by its content."""
FORMATS = "give wav, flac, ogg, mp3, m4a or another format that libsndfile or FFmpeg reads"


@dataclass(frozen=True)
class Sound:
    """A recording about to be read.

    Attributes:
        sample_rate: Hz.
        channels: how many.
        length: samples of a channel, as the header says; None where only reading tells.
        blocks: all its samples in order, float32 [channels, n] with full scale at 1. Reading them raises
            SpikeSepError where the recording is cut off, is empty, or holds NaN or Inf.
    """

    sample_rate: int
    channels: int
    length: int | None
    blocks: Iterator[np.ndarray]


def warn(notice: str) -> None:
    """Issue a notice as a `SpikeSepWarning`."""
    warnings.warn(notice, SpikeSepWarning, stacklevel=2)


def open_sound(
    source: Path | IO[bytes],
    raw_rate: int | None = None,
    tell: Callable[[str], object] = warn,
) -> Sound:
    """Open a recording, to be read in blocks; its file is closed at the last.

    Args:
        source: an audio file, or one on disk that is open.
        raw_rate: it is bare 16-bit samples of one channel, little end first, at this rate in Hz.
        tell: is told, in a line each, what is doubtful about the recording and what of it is left out,
            now or while it is read.

    Raises:
        SpikeSepError: the file is missing, is not audio, or is cut off as far as its header shows.
    """
    name = str(source) if isinstance(source, Path) else "standard input"
    reading = _open(source, name, raw_rate, tell)
    blocks = checked(name, reading.blocks(name, tell))
    return Sound(reading.sample_rate, reading.channels, reading.frames, blocks)


Reading = sndfile.Reading | ffmpeg.Reading | sphere.Reading


def _open(
    source: Path | IO[bytes], name: str, raw_rate: int | None, tell: Callable[[str], object]
) -> Reading:
    if isinstance(source, Path) and not source.is_file():
        what = "a folder, not an audio file" if source.is_dir() else "no such audio file"
        raise SpikeSepError(f"{name}: {what}; check the path")
    suffix = source.suffix.lower() if isinstance(source, Path) else ""
    _check_rate(name, raw_rate or RATES[0])
    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as opened:
            opened.seek(0)  # and write what waits in its buffer
            file = Section(opened)
            if raw_rate:
                reading = sndfile.open_bare(file, "PCM_16", "LITTLE", raw_rate, 1)
            else:
                reading = _open_by_content(file, name, suffix, tell)
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); see to it that you may read it"
        raise SpikeSepError(f"{name}: {reason}") from error
    _check_rate(name, reading.sample_rate)
    return reading


def _check_rate(name: str, rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise SpikeSepError(
            f"{name}: has a sample rate of {rate} Hz; give a recording of {RATES[0]} to {RATES[1]} Hz"
        )


def _open_by_content(
    file: Section, name: str, suffix: str, tell: Callable[[str], object]
) -> Reading:
    if sphere.is_sphere(file):
        return sphere.open_reading(file, name)
    if suffix in HEADERLESS and not SIGNATURES.match(file.read(32)):
        raise SpikeSepError(f"{name}: {_way_to_give(Path(name), HEADERLESS[suffix])}")
    extent = find_extent(file, name)
    reading = sndfile.open_reading(file, extent, name, tell)
    if reading is None and suffix == ".gsm":
        reading = sndfile.open_gsm(file)
    if reading is None or not reading.trusted:
        reading = ffmpeg.open_reading(file, name, tell) or reading
    if reading is None:
        raise SpikeSepError(f"{name}: not a readable audio file; {FORMATS}")
    if extent and extent.remark:
        tell(f"{name}: {extent.remark}")
    if extent and extent.doubt:
        seconds = (
            reading.frames and f"{reading.frames / reading.sample_rate:.2f} s of sound are read"
        )
        tell(f"{name}: {extent.doubt}; {seconds or 'what is found is read'}")
    return reading


def _way_to_give(path: Path, kind: str) -> str:
    """What to do with samples that have no header."""
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


def checked(name: str, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The blocks, as long as they hold numbers.

    Raises:
        SpikeSepError: they do not, or there is no sample.
    """
    n = 0
    for block in blocks:
        peak = np.abs(block).max(initial=0.0)
        if not np.isfinite(peak):
            raise SpikeSepError(f"{name}: holds NaN or Inf; export the recording again")
        if peak > LOUDEST:
            raise SpikeSepError(
                f"{name}: samples reach {peak:g}, where full scale is 1; export the recording again"
            )
        n += block.shape[1]
        yield block
    if not n:
        raise SpikeSepError(f"{name}: holds no samples; give a recording that is not empty")


def read_channels(path: str | Path) -> tuple[np.ndarray, int]:
    """Read every channel of an audio file as it is.

    Returns:
        float32 samples [channels, samples], full scale at 1, and the sample rate in Hz.

    Raises:
        SpikeSepError: the file is missing, is not audio, is cut off, is empty, or holds NaN or Inf.
    """
    sound = open_sound(Path(path))
    blocks = list(sound.blocks)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1), sound.sample_rate


def read_length(path: str | Path) -> tuple[int, int]:
    """Samples of a channel and sample rate in Hz, from the header, or else from the sizes of packets.

    Only what has neither is decoded.

    Raises:
        SpikeSepError: the file is missing, is not audio, or is cut off as far as its header shows.
    """
    path = Path(path)
    reading = _open(path, str(path), None, _pass_over)
    return _length(path, reading), reading.sample_rate


def _length(path: Path, reading: Reading) -> int:
    length = reading.frames
    if length is None:
        length = reading.count_packets()
    if length is None:
        length = sum(block.shape[1] for block in open_sound(path, tell=_pass_over).blocks)
    return length


def _pass_over(notice: str) -> None:
    """Say nothing: whoever reads all of the recording is told."""


def read_audio(path: str | Path, sample_rate: int | None = None) -> np.ndarray:
    """Read one voice: channels are averaged, and the rate is changed where it differs.

    Args:
        path: an audio file.
        sample_rate: wanted rate in Hz; None keeps the file's own.

    Returns:
        float32 [samples].

    Raises:
        SpikeSepError: as `read_channels`.
    """
    channels, rate = read_channels(path)
    return resample(channels.mean(axis=0), rate, sample_rate or rate)


def read_part(
    path: str | Path, bounds: Callable[[int, int], tuple[int, int]]
) -> tuple[np.ndarray, int]:
    """Read part of one voice, channels averaged.

    Args:
        path: an audio file.
        bounds: of its length in samples and its rate in Hz, gives the first sample and the most samples that are
        wanted.

    Returns:
        float32 [samples], and the rate.

    Raises:
        SpikeSepError: as `read_channels`.
    """
    path = Path(path)
    reading = _open(path, str(path), None, _pass_over)
    length, rate = _length(path, reading), reading.sample_rate
    start, wanted = bounds(length, rate)
    try:
        samples = reading.part(start, wanted)
    except (soundfile.SoundFileError, OSError) as error:
        raise SpikeSepError(
            f"{path}: cannot be read from sample {start} on ({error}); copy the file again"
        ) from error
    if samples is None:
        return _from_the_beginning(path, start, wanted), rate
    there = samples.shape[1]
    if there < min(wanted, length - start):
        raise SpikeSepError(
            f"{path}: cut off, {start + there} of {length} samples are there; copy it again"
        )
    return samples.mean(axis=0), rate


def _from_the_beginning(path: Path, start: int, wanted: int) -> np.ndarray:
    """Part of a recording, channels averaged, of which nothing behind it is read."""
    pieces, position = [], 0
    for block in open_sound(path, tell=_pass_over).blocks:
        pieces.append(
            block[:, max(0, start - position) : max(0, start + wanted - position)].mean(axis=0)
        )
        position += block.shape[1]
        if position >= start + wanted:
            break
    return np.concatenate(pieces)


def read_audio_at(path: str | Path, sample_rate: int) -> np.ndarray:
    """Read one voice that must be at `sample_rate` Hz: float32 [samples].

    Raises:
        SpikeSepError: as `read_channels`, or it is at another rate.
    """
    channels, rate = read_channels(path)
    if rate != sample_rate:
        raise SpikeSepError(
            f"{path}: is at {rate} Hz, the corpus at {sample_rate}; put the original recording there"
        )
    return channels[0] if len(channels) == 1 else channels.mean(axis=0)


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Round samples with full scale at 1 to int16; reading the file back gives them within half a step of 1/32768.

    Raises:
        ValueError: a sample lies outside ±1, or is not a number: it would be clipped without a word.
    """
    peak = np.abs(samples).max(initial=0.0)
    if not peak <= 1:
        raise ValueError(f"samples reach {peak:g}, past full scale; scale them before writing")
    return np.minimum(np.round(samples * 32768.0), 32767).astype(np.int16)


def write_wav(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write one channel [samples] as 16-bit PCM, whole or not at all.

    Raises:
        ValueError: a sample lies outside ±1 (see `to_pcm16`).
    """
    content = wav_bytes(to_pcm16(samples), sample_rate)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)  # libsndfile itself says nothing of a full disk


def wav_bytes(pcm: np.ndarray, sample_rate: int) -> bytes:
    """The content of a wav file of one channel, int16 [samples], or floats, which libsndfile rounds and clips."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
