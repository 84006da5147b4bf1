"""Reading and writing audio files. Everything the project hears or says passes through here, so that sample rates,
channels and levels are handled in one place, and a bad file is one line that names it.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path
from spikesep.separation.sphere import is_sphere, read_header, read_sphere

GSM_RATE = 8000
"""Hz: a .gsm file is bare GSM 06.10 frames, which carry no header to tell it."""


def read_channels(path: str | Path) -> tuple[np.ndarray, int]:
    """Read every channel of an audio file as it is.

    Returns:
        float32 samples [channels, samples], full scale at 1, and the sample rate in Hz.

    Raises:
        SpikeSepError: the file is missing, is not audio, is cut off, is empty, or holds NaN or Inf.
    """
    path = Path(path)
    if not path.is_file():
        raise SpikeSepError(f"{path}: no such audio file; check the path")
    if is_sphere(path):
        pcm, rate = read_sphere(path)
        samples = pcm.T.astype(np.float32) / np.float32(32768)
    else:
        check_whole(path)
        try:
            with soundfile.SoundFile(path, **_bare_gsm(path)) as file:
                length, rate = file.frames, file.samplerate
                samples = file.read(length, dtype="float32", always_2d=True)  # bare GSM wants it said
        except (soundfile.SoundFileError, OSError) as error:
            raise SpikeSepError(
                f"{path}: not a readable audio file; give wav, flac, ogg, mp3 or gsm ({error})"
            ) from error
        if len(samples) < length:
            raise SpikeSepError(f"{path}: cut off, {len(samples)} of {length} samples are there; make or copy it again")
    if not len(samples):
        raise SpikeSepError(f"{path}: holds no samples; give a recording that is not empty")
    if not np.isfinite(samples).all():
        raise SpikeSepError(f"{path}: holds NaN or Inf; export the recording again")
    return np.ascontiguousarray(samples.T), rate


def read_length(path: str | Path) -> tuple[int, int]:
    """Samples of a channel and sample rate in Hz, from the header alone.

    Raises:
        SpikeSepError: the file is missing, is not audio, or is cut off as far as its header shows.
    """
    path = Path(path)
    if not path.is_file():
        raise SpikeSepError(f"{path}: no such audio file; check the path")
    if is_sphere(path):
        header = read_header(path)
        return header.samples, header.sample_rate
    check_whole(path)
    try:
        with soundfile.SoundFile(path, **_bare_gsm(path)) as file:
            return file.frames, file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        raise SpikeSepError(f"{path}: not a readable audio file; give wav, flac, ogg, mp3 or gsm ({error})") from error


def check_whole(path: Path) -> None:
    """See that a wav file is as long as its header says: libsndfile reads the rest of one that was cut off, silently.

    Raises:
        SpikeSepError: it is not. (A file that is no wav file passes: whoever reads it will tell.)
    """
    with path.open("rb") as file:
        header = file.read(8)
        size = file.seek(0, io.SEEK_END)
    announced = int.from_bytes(header[4:], "little") + 8
    if header[:4] == b"RIFF" and size < announced < 2**32 - 1:  # a stream of unknown length announces the most
        raise SpikeSepError(f"{path}: cut off, {size} of {announced} bytes are there; make or copy it again")


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
        with soundfile.SoundFile(path) as file:
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


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Change the sample rate of [..., samples], float32 or float64, to length ceil(samples * to / from).

    MATLAB's default, by which WSJ0-2mix is made: a linear-phase filter of 2 * 10 * max(p, q) + 1 taps at the ratio p
    / q, a sinc times a Kaiser window with beta 5, its delay taken away. SciPy's default is the same.
    """
    if from_rate == to_rate:
        return samples
    from scipy.signal import resample_poly  # slow to load

    return resample_poly(samples, to_rate, from_rate, axis=-1)


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
    """The content of a wav file of one channel, int16 [samples]."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
