"""Noise for simulated mixtures: varied recordings, coloured and speech-shaped noise, and babble."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from spikesep.separation.audio.files import read_audio, read_length, read_segment
from spikesep.separation.audio.resampling import resample
from spikesep.separation.data.recording_channel import draw_equalizer, equalize

WEIGHTS = {"recorded": 6.0, "coloured": 1.0, "speech_shaped": 1.0, "babble": 2.0}
"""Relative frequency of the kinds."""
SPEEDS = (0.8, 0.9, 1.0, 1.1, 1.25)
EQUALIZER_PROBABILITY = 0.5
SECOND_PROBABILITY, SECOND_DB = 0.3, (-10.0, 0.0)
"""Probability and relative level of a second recording in the same noise."""
SLOPES = (0.0, 2.0)
"""Range of the exponent of 1/f in the power of coloured noise: white to brown."""
BABBLE_READS = 3
"""Recordings of a babble, each of which is folded to two voices."""
SHAPE_FRAME = 256
CACHED_SECONDS = 15.0
"""Longest recording that is kept in memory once it was decoded."""


class NoiseLibrary:
    """Noises of given kinds, with a root mean square of 1.

    Args:
        kinds: Kinds of noise (`NoiseConfig.kinds`).
        recordings: Noise recordings; without any, `recorded` is left out.
        voices: Recordings of voices, for speech-shaped noise and babble; without any, both are
            left out.
        sample_rate: Sample rate in Hz.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        recordings: Sequence[Path],
        voices: Sequence[Path],
        sample_rate: int,
    ):
        self.recordings, self.voices, self.sample_rate = recordings, voices, sample_rate
        makers: dict[str, tuple[Callable, bool]] = {
            "recorded": (self._recorded, bool(recordings)),
            "coloured": (self._coloured, True),
            "speech_shaped": (self._speech_shaped, bool(voices)),
            "babble": (self._babble, bool(voices)),
        }
        self.makers = [makers[kind][0] for kind in kinds if makers[kind][1]] or [self._coloured]
        weights = np.array([WEIGHTS[maker.__name__.strip("_")] for maker in self.makers])
        self.probabilities = weights / weights.sum()

    def draw(self, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        """Draw a noise, float64 [n_samples]; white noise where a recording is silent.

        Raises:
            SpikeSepError: If a recording cannot be read.
        """
        maker = self.makers[int(rng.choice(len(self.makers), p=self.probabilities))]
        noise = _normalize(maker(rng, n_samples))
        return noise if noise.any() else _normalize(rng.normal(size=n_samples))

    def _recorded(self, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        """Draw a recording, or the sum of two, each at a random speed and perhaps filtered."""
        noise = self._vary(rng, n_samples)
        if rng.random() < SECOND_PROBABILITY:
            noise = noise + self._vary(rng, n_samples) * 10 ** (rng.uniform(*SECOND_DB) / 20)
        return noise

    def _vary(self, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        path = self.recordings[int(rng.integers(len(self.recordings)))]
        speed = float(rng.choice(SPEEDS))
        samples = self._read(path, rng, int(np.ceil(n_samples * speed)) + 1)
        noise = resample(samples, round(100 * speed), 100)[:n_samples]
        if rng.random() < EQUALIZER_PROBABILITY:
            noise = equalize(noise, draw_equalizer(rng, self.sample_rate).astype(noise.dtype))
        return _normalize(noise)

    def _coloured(self, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        bins = np.arange(_n_bins(n_samples))
        amplitude = np.maximum(bins, n_samples / 200) ** (-rng.uniform(*SLOPES) / 2)
        return _shape(rng, amplitude)[:n_samples]

    def _speech_shaped(self, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        """Draw Gaussian noise with the mean spectrum of a voice."""
        voice = self._read_voice(rng, n_samples)
        frames = voice[: len(voice) // SHAPE_FRAME * SHAPE_FRAME].reshape(-1, SHAPE_FRAME)
        power = np.square(np.abs(np.fft.rfft(frames * np.hanning(SHAPE_FRAME)))).mean(0)
        positions = np.linspace(0, len(power) - 1, _n_bins(n_samples))
        amplitude = np.sqrt(np.interp(positions, np.arange(len(power)), power))
        return _shape(rng, amplitude)[:n_samples]

    def _babble(self, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        reads = [_normalize(self._read_voice(rng, 2 * n_samples)) for _ in range(BABBLE_READS)]
        return np.sum(reads, 0).reshape(2, n_samples).sum(0)

    def _read_voice(self, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        path = self.voices[int(rng.integers(len(self.voices)))]
        return self._read(path, rng, max(n_samples, SHAPE_FRAME))

    def _read(self, path: Path, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        """Read a random part of a recording [n_samples]; repeat a shorter one."""
        length, rate = _length(path)
        if length <= CACHED_SECONDS * rate:
            samples = _decoded(path, self.sample_rate)
        else:
            wanted, position = int(np.ceil(n_samples * rate / self.sample_rate)), rng.random()
            first = int(position * max(1, length - wanted))
            segment, _ = read_segment(path, lambda _length, _rate: (first, wanted))
            samples = resample(segment, rate, self.sample_rate)
        spare = len(samples) - n_samples
        start = rng.integers(spare + 1 if spare >= 0 else len(samples))
        return np.take(samples, np.arange(start, start + n_samples), mode="wrap")


@lru_cache(maxsize=4096)
def _length(path: Path) -> tuple[int, int]:
    return read_length(path)


@lru_cache(maxsize=512)
def _decoded(path: Path, sample_rate: int) -> np.ndarray:
    return read_audio(path, sample_rate)


def _n_bins(n_samples: int) -> int:
    """Return the frequency bins of noise of the next even length."""
    return (n_samples + 1) // 2 + 1


def _shape(rng: np.random.Generator, amplitude: np.ndarray) -> np.ndarray:
    """Draw Gaussian noise of even length with the amplitude of each frequency bin."""
    bins = len(amplitude)
    return np.fft.irfft(amplitude * (rng.normal(size=bins) + 1j * rng.normal(size=bins)))


def _normalize(samples: np.ndarray) -> np.ndarray:
    """Scale samples to a root mean square of 1; silence stays silent."""
    centred = np.asarray(samples, np.float64) - np.mean(samples)
    level = np.sqrt(np.square(centred).mean())
    return centred / level if level > 1e-6 else np.zeros_like(centred)
