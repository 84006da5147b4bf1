"""Reading and writing audio files. Everything the project hears or says passes through here, so that sample rates,
channels and levels are handled in one place, and a bad file is one line that names it.
"""

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path

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
    bare = {"format": "RAW", "subtype": "GSM610", "samplerate": GSM_RATE, "channels": 1}
    check_whole(path)
    try:
        samples, rate = soundfile.read(
            path, dtype="float32", always_2d=True, **(bare if path.suffix.lower() == ".gsm" else {})
        )
    except (soundfile.SoundFileError, OSError) as error:
        raise SpikeSepError(f"{path}: not a readable audio file; give wav, flac, ogg, mp3 or gsm ({error})") from error
    if not len(samples):
        raise SpikeSepError(f"{path}: holds no samples; give a recording that is not empty")
    if not np.isfinite(samples).all():
        raise SpikeSepError(f"{path}: holds NaN or Inf; export the recording again")
    return np.ascontiguousarray(samples.T), rate


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


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Change the sample rate of float32 [..., samples] by a windowed sinc, to length ceil(samples * to / from).

    Torch is imported only where there is something to do: reading at a file's own rate must stay quick.
    """
    if from_rate == to_rate:
        return samples
    import torch

    with torch.inference_mode():
        return _resampler(from_rate, to_rate)(torch.from_numpy(samples)).numpy()


@lru_cache
def _resampler(from_rate: int, to_rate: int):
    """torchaudio's resampling with its kernel, which takes longer to make than to apply to a few seconds."""
    import torchaudio.transforms

    return torchaudio.transforms.Resample(from_rate, to_rate)


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
    pcm = to_pcm16(samples)
    written = io.BytesIO()  # libsndfile itself says nothing of a full disk
    soundfile.write(written, pcm, sample_rate, format="WAV", subtype="PCM_16")
    with atomic_path(path) as temporary:
        temporary.write_bytes(written.getbuffer())
