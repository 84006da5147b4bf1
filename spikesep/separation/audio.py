"""Reading and writing audio files. Everything the project hears or says passes through here, so that sample rates,
channels and levels are handled in one place, and a bad file is one line that names it.
"""

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path
from spikesep.separation.sphere import is_sphere, read_header, read_sphere
from spikesep.separation.wav import is_open_ended

GSM_RATE = 8000
"""Hz: a .gsm file is bare GSM 06.10 frames, which carry no header to tell it."""
BLOCK = 2**18
"""Samples of all channels that are read at once."""
LOUDEST = 1e9
"""A sample's largest magnitude, far past full scale: squares of larger ones soon leave float32."""
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
        length: samples of a channel; None where only reading tells.
        blocks: all its samples in order, float32 [channels, n] with full scale at 1. Reading them raises
            SpikeSepError where the recording is cut off, is empty, or holds NaN or Inf.
    """

    sample_rate: int
    channels: int
    length: int | None
    blocks: Iterator[np.ndarray]


def open_sound(source: Path | IO[bytes], raw_rate: int | None = None) -> Sound:
    """Open a recording, to be read in blocks; its file is closed at the last.

    Args:
        source: an audio file, or one that is open and can be sought in.
        raw_rate: it is bare 16-bit samples of one channel, little end first, at this rate in Hz.

    Raises:
        SpikeSepError: the file is missing, or is not audio.
    """
    name = str(source) if isinstance(source, Path) else "standard input"
    options = {}
    if isinstance(source, Path):
        if not source.is_file():
            what = "a folder, not an audio file" if source.is_dir() else "no such audio file"
            raise SpikeSepError(f"{name}: {what}; check the path")
        if is_sphere(source):
            pcm, rate = read_sphere(source)
            samples = pcm.astype(np.float32) / np.float32(32768)
            return Sound(rate, len(samples), samples.shape[1], checked(name, iter([samples]), samples.shape[1]))
        try:
            with source.open("rb") as file:
                check_whole(file, name)
        except OSError as error:
            raise SpikeSepError(f"{name}: cannot be read ({error.strerror}); see to it that you may read it") from error
        options = _bare_gsm(source)
    elif not raw_rate:
        check_whole(source, name)
    if raw_rate:
        options = {"format": "RAW", "subtype": "PCM_16", "endian": "LITTLE", "samplerate": raw_rate, "channels": 1}
    try:
        file = soundfile.SoundFile(os.fsencode(source) if isinstance(source, Path) else source, **options)
    except (soundfile.SoundFileError, OSError) as error:
        found = _open_with_ffmpeg(name, source)
        if found is None:
            reason = getattr(error, "error_string", error)
            raise SpikeSepError(f"{name}: not a readable audio file; {FORMATS} ({reason})") from error
        return found
    blocks = checked(name, _sndfile_blocks(name, file), file.frames)
    return Sound(file.samplerate, file.channels, file.frames, blocks)


def _sndfile_blocks(name: str, file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    with file:
        size = max(1, BLOCK // file.channels)
        while True:
            try:
                block = file.read(min(size, file.frames), dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, OSError) as error:
                raise SpikeSepError(f"{name}: cannot be read to its end ({error}); make or copy it again") from error
            if not len(block):
                return
            yield np.ascontiguousarray(block.T)


def checked(
    name: str, blocks: Iterator[np.ndarray], length: int | None = None, tolerance: int = 0
) -> Iterator[np.ndarray]:
    """The blocks, while they hold numbers; in the end there must be as many samples as `length` says."""
    n = 0
    for block in blocks:
        peak = np.abs(block).max(initial=0.0)
        if not np.isfinite(peak):
            raise SpikeSepError(f"{name}: holds NaN or Inf; export the recording again")
        if peak > LOUDEST:
            raise SpikeSepError(f"{name}: samples reach {peak:g}, where full scale is 1; export the recording again")
        n += block.shape[1]
        yield block
    if length is not None and n < length - tolerance:
        raise SpikeSepError(f"{name}: cut off, {n} of {length} samples are there; make or copy it again")
    if not n:
        raise SpikeSepError(f"{name}: holds no samples; give a recording that is not empty")


def _open_with_ffmpeg(name: str, source: Path | IO[bytes]) -> Sound | None:
    """What FFmpeg finds in a file that libsndfile cannot read; None if it is no sound."""
    import av  # by few files, and slow to load

    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
            file.seek(0)
            container = av.open(f"file:/dev/fd/{file.fileno()}")  # FFmpeg takes neither every name nor, quietly, files
        stream = next(iter(container.streams.audio), None)
        if stream is None or stream.codec_context is None:
            return None
        rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        length = None
        if stream.duration and container.format.name.startswith("mov"):  # other formats know no exact length
            length = int(stream.duration * stream.time_base * rate)
    except (av.FFmpegError, ValueError, OSError):
        return None
    if not rate or not channels:
        return None
    blocks = _ffmpeg_blocks(name, container, rate, channels)
    return Sound(rate, channels, length, checked(name, blocks, length, tolerance=rate // 5))


def _ffmpeg_blocks(name: str, container, rate: int, channels: int) -> Iterator[np.ndarray]:
    import av

    with container:
        try:
            for frame in container.decode(audio=0):
                if (frame.sample_rate, len(frame.layout.channels)) != (rate, channels):
                    raise SpikeSepError(f"{name}: changes its rate or channels on the way; export the recording again")
                data = frame.to_ndarray()
                data = data if frame.format.is_planar else data.reshape(-1, channels).T
                if data.dtype.kind == "f":
                    yield data.astype(np.float32)
                else:  # 8 bits have no sign
                    half = 2.0 ** (8 * data.itemsize - 1)
                    yield ((data - half * (data.dtype.kind == "u")) / half).astype(np.float32)
        except (av.FFmpegError, ValueError) as error:
            raise SpikeSepError(f"{name}: cannot be read to its end ({error}); make or copy it again") from error


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
    """Samples of a channel and sample rate in Hz: from the header alone, but for formats whose header does not tell.

    Raises:
        SpikeSepError: the file is missing, is not audio, or is cut off as far as its header shows.
    """
    path = Path(path)
    if is_sphere(path):
        header = read_header(path)
        return header.samples, header.sample_rate
    sound = open_sound(path)
    length = sound.length if sound.length is not None else sum(block.shape[1] for block in sound.blocks)
    return length, sound.sample_rate


def check_whole(file: IO[bytes], name: str) -> None:
    """See that a wav file is as long as its header says: libsndfile reads the rest of one that was cut off, silently.

    Raises:
        SpikeSepError: it is not. (A file that is no wav file passes: whoever reads it will tell.)
    """
    header = file.read(8)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    said = int.from_bytes(header[4:], "little")
    if header[:4] == b"RIFF" and size < said + 8 and not is_open_ended(said):
        raise SpikeSepError(f"{name}: cut off, {size} of {said + 8} bytes are there; make or copy it again")


def _bare_gsm(path: Path) -> dict:
    if path.suffix.lower() != ".gsm":
        return {}
    return {"format": "RAW", "subtype": "GSM610", "samplerate": GSM_RATE, "channels": 1}


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


def read_part(path: str | Path, bounds: Callable[[int, int], tuple[int, int]]) -> tuple[np.ndarray, int]:
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
    length, rate = read_length(path)
    start, wanted = bounds(length, rate)
    if is_sphere(path) or path.suffix.lower() == ".gsm":  # neither can be read from the middle
        return read_audio(path)[start : start + wanted], rate
    try:
        file = soundfile.SoundFile(os.fsencode(path))
    except soundfile.SoundFileError:  # FFmpeg reads it from the beginning
        return read_audio(path)[start : start + wanted], rate
    try:
        with file:
            file.seek(start)
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise SpikeSepError(f"{path}: cannot be read from sample {start} on ({error}); copy the file again") from error
    if len(samples) < min(wanted, length - start):
        raise SpikeSepError(f"{path}: cut off, {start + len(samples)} of {length} samples are there; copy it again")
    return samples.mean(axis=1), rate


def read_audio_at(path: str | Path, sample_rate: int) -> np.ndarray:
    """Read one voice that must be at `sample_rate` Hz: float32 [samples].

    Raises:
        SpikeSepError: as `read_channels`, or it is at another rate.
    """
    channels, rate = read_channels(path)
    if rate != sample_rate:
        raise SpikeSepError(f"{path}: is at {rate} Hz, the corpus at {sample_rate}; put the original recording there")
    return channels[0] if len(channels) == 1 else channels.mean(axis=0)


RESAMPLING_REACH = 10
"""Half the filter of `resample`, in samples at the lower of the two rates."""


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Change the sample rate of [..., samples], float32 or float64, to length ceil(samples * to / from).

    MATLAB's default, by which WSJ0-2mix is made: a linear-phase filter of 2 * 10 * max(p, q) + 1 taps at the ratio p
    / q, a sinc times a Kaiser window with beta 5, its delay taken away. SciPy's default is the same.
    """
    if from_rate == to_rate:
        return samples
    from scipy.signal import resample_poly  # slow to load

    common = math.gcd(from_rate, to_rate)
    window = _lowpass(max(from_rate, to_rate) // common).astype(samples.dtype)
    return resample_poly(samples, to_rate // common, from_rate // common, axis=-1, window=window)


@lru_cache(maxsize=64)  # rates times speeds, in mixing on the fly
def _lowpass(factor: int) -> np.ndarray:
    """The filter that `resample_poly` would design, 20 * factor + 1 taps; designed once for all blocks of a file."""
    from scipy.signal import firwin

    return firwin(2 * RESAMPLING_REACH * factor + 1, 1 / factor, window=("kaiser", 5.0))


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
