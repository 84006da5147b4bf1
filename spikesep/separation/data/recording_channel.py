"""Random recording channels for training: polarity, equalization, band edges and noise floor.

Recordings differ in more than their voices. A network that separates them relies on whatever is
easiest to detect, such as the polarity of the microphone, unless each source of a training mixture
passes through a random channel.
"""

import numpy as np

EQUALIZER_DB = 4.0
"""Standard deviation of the equalizer's gain at each of its bands."""
BAND_HZ = (100.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)
LOW_CUT_HZ, HIGH_CUT_SHARE = (30.0, 250.0), (0.6, 1.0)
"""Ranges of the band edges: the lower in Hz, the upper as a share of half the sample rate."""
SLOPE_DB = (12.0, 48.0)
"""Range of the slope beyond a band edge, in dB per octave."""
EDGE_PROBABILITY = 0.5
N_FFT = 1024
FLOOR_DB = (-60.0, -20.0)
"""Range of the noise floor relative to the level of the mixture."""


def draw_polarity(rng: np.random.Generator, n_sources: int) -> np.ndarray:
    """Draw random signs, float32 [n_sources]."""
    return rng.choice(np.array([-1, 1], np.float32), n_sources)


def draw_equalizer(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Draw the minimum-phase impulse response [N_FFT] of an equalizer with random band edges.

    The phase follows from the magnitude, as in an analog chain. The phase of a microphone
    identifies a recording as well as its magnitude does.
    """
    frequencies = np.fft.rfftfreq(N_FFT, 1 / sample_rate)
    octaves = np.log2(np.maximum(frequencies, frequencies[1]))
    gain_db = np.interp(octaves, np.log2(BAND_HZ), rng.normal(0, EQUALIZER_DB, len(BAND_HZ)))
    edges = (
        np.log2(rng.uniform(*LOW_CUT_HZ)) - octaves,
        octaves - np.log2(rng.uniform(*HIGH_CUT_SHARE) * sample_rate / 2),
    )
    for beyond in edges:
        slope = rng.uniform(*SLOPE_DB)
        if rng.uniform() < EDGE_PROBABILITY:
            gain_db -= slope * np.maximum(beyond, 0)
    return _minimum_phase(np.maximum(gain_db, gain_db.max() - 80))


def _minimum_phase(gain_db: np.ndarray) -> np.ndarray:
    """Compute the impulse response of a magnitude [N_FFT / 2 + 1] in dB from its real cepstrum."""
    cepstrum = np.fft.irfft(gain_db * (np.log(10) / 20), N_FFT)
    cepstrum[1 : N_FFT // 2] *= 2
    cepstrum[N_FFT // 2 + 1 :] = 0
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)), N_FFT)


def equalize(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve samples [T] with an impulse response, and cut the result to length T.

    SciPy's result does not depend on the number of threads; torch's does.
    """
    from scipy.signal import fftconvolve  # slow to import

    return np.asarray(fftconvolve(samples, response))[: len(samples)]


def draw_floor(rng: np.random.Generator, n_samples: int, level_db: float) -> np.ndarray:
    """Draw Gaussian noise [n_samples] of random level and spectral tilt.

    Args:
        rng: Random generator.
        n_samples: Length.
        level_db: Level of the mixture, to which `FLOOR_DB` is relative.

    Returns:
        The noise, between white and red.
    """
    n = n_samples + n_samples % 2
    spectrum = rng.normal(size=n // 2 + 1) + 1j * rng.normal(size=n // 2 + 1)
    spectrum *= np.maximum(np.arange(n // 2 + 1), n / 200) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, n)[:n_samples]
    level = level_db + rng.uniform(*FLOOR_DB)
    return noise * (10 ** (level / 20) / np.sqrt(np.square(noise).mean()))
