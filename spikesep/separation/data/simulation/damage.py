"""Damage by the recording chain: telephone band, DC offset, clipping and lossy codecs."""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import soundfile

from spikesep.separation.audio.resampling import resample
from spikesep.separation.mixing_config import DamageConfig

TELEPHONE_HZ = (300.0, 3400.0)
TELEPHONE_RATE = 8000
OFFSET_SHARE = 0.1
"""Largest DC offset as a share of the peak."""
CLIP_QUANTILES = (0.9, 0.999)
"""Range of the share of samples below the clipping level."""
OPUS_RATES = (8000, 12000, 16000, 24000)
"""Bit rates of Opus, per second."""
MAX_DELAY_SECONDS = 0.2
"""Longest delay of a codec that is compensated; MP3 delays by 1,105 samples."""
CODEC_RATES = (8000, 12000, 16000, 24000, 48000)
"""Sample rates in Hz that both MP3 and Opus support."""


def limit_band(signals: np.ndarray, sample_rate: int) -> np.ndarray:
    """Limit signals [..., T] to the telephone band."""
    from scipy.signal import sosfilt

    return np.asarray(sosfilt(_telephone_filter(sample_rate), signals, axis=-1))


def damage(
    mixture: np.ndarray, config: DamageConfig, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Damage a mixture [T] by offset, clipping and codec, each by chance, in this order."""
    chances = rng.random(3)
    if chances[0] < config.offset:
        peak = np.abs(mixture).max()
        mixture = mixture + rng.uniform(-OFFSET_SHARE, OFFSET_SHARE) * peak
    if chances[1] < config.clipping:
        level = np.quantile(np.abs(mixture), rng.uniform(*CLIP_QUANTILES))
        mixture = mixture.clip(-level, level)
    if chances[2] < config.codec:
        mixture = transmit(mixture, sample_rate, rng)
    return mixture


def transmit(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Encode and decode samples [T] with a random codec, compensated for its delay."""
    peak = np.abs(samples).max()
    if not peak:
        return samples
    codec = CODECS[sorted(CODECS)[rng.integers(len(CODECS))]]
    rate = min((rate for rate in CODEC_RATES if rate >= sample_rate), default=CODEC_RATES[-1])
    encoded = resample(samples * (0.9 / peak), sample_rate, rate)
    decoded = resample(codec(encoded, rate, rng), rate, sample_rate) * (peak / 0.9)
    return align(decoded, samples, round(MAX_DELAY_SECONDS * sample_rate))


def align(decoded: np.ndarray, original: np.ndarray, max_delay: int) -> np.ndarray:
    """Shift a decoded signal onto the original [T], by the delay of their best correlation."""
    from scipy.signal import correlate

    n = len(original)
    correlation = correlate(decoded, original, method="fft")
    zero = n - 1  # index of no delay
    near = correlation[max(0, zero - max_delay) : zero + max_delay + 1]
    delay = int(np.argmax(near)) - min(zero, max_delay)
    shifted = decoded[delay:] if delay >= 0 else np.pad(decoded, (-delay, 0))
    return np.pad(shifted[:n], (0, max(0, n - len(shifted))))


@lru_cache
def _telephone_filter(sample_rate: int) -> np.ndarray:
    from scipy.signal import butter

    low, high = TELEPHONE_HZ
    if high < 0.48 * sample_rate:
        return np.asarray(butter(4, (low, high), "bandpass", fs=sample_rate, output="sos"))
    return np.asarray(butter(4, low, "highpass", fs=sample_rate, output="sos"))


def _mu_law(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    return _telephone(samples, sample_rate, "ULAW")


def _gsm(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    return _telephone(samples, sample_rate, "GSM610")


def _telephone(samples: np.ndarray, sample_rate: int, subtype: str) -> np.ndarray:
    narrow = resample(samples, sample_rate, TELEPHONE_RATE)
    content = io.BytesIO()
    soundfile.write(content, narrow.clip(-1, 1), TELEPHONE_RATE, format="WAV", subtype=subtype)
    content.seek(0)
    return resample(soundfile.read(content)[0], TELEPHONE_RATE, sample_rate)


def _mp3(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    content = io.BytesIO()
    with soundfile.SoundFile(
        content,
        "w",
        sample_rate,
        1,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=rng.uniform(0.5, 0.95),
    ) as file:
        file.write(samples)
    content.seek(0)
    return soundfile.read(content)[0]


def _opus(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Encode with libopus by PyAV; libsndfile's bit rates are too high to be heard."""
    import av

    content = io.BytesIO()
    with av.open(content, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=sample_rate, layout="mono")
        stream.bit_rate = int(rng.choice(OPUS_RATES))
        stream.options = {"compression_level": "0", "application": "voip"}
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[None], np.float32), format="flt", layout="mono"
        )
        frame.sample_rate = sample_rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    content.seek(0)
    decoded, rate = soundfile.read(content)
    return resample(decoded, rate, sample_rate)


CODECS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "gsm": _gsm,
    "mp3": _mp3,
    "mu_law": _mu_law,
    "opus": _opus,
}
"""Functions of samples with a peak of at most 1, the sample rate and a random generator."""
