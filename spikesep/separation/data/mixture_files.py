"""Reading of the audio files of mixtures, and detection of what they hold besides their parts."""

import hashlib
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.provenance import available_cores
from spikesep.separation.audio.containers import find_extent
from spikesep.separation.data.kaldi import Mixture

STEP = 1 / 32768
"""Quantization step of 16-bit samples."""


def count_samples(mixture: Mixture) -> int:
    """Return the length of a mixture in samples, from the header of its first source.

    Raises:
        SpikeSepError: If the file cannot be read.
    """
    path = mixture.sources[0]
    try:
        return soundfile.info(path).frames
    except (soundfile.SoundFileError, OSError) as error:
        raise SpikeSepError(
            f"{path}: cannot be read ({error}); run stage 1 again to repair it"
        ) from error


def read_sources(mixture: Mixture, sample_rate: int, start: int, n_samples: int) -> np.ndarray:
    """Read a segment of every source, padded with zeros past the end.

    Args:
        mixture: The mixture.
        sample_rate: Sample rate in Hz that the files must have.
        start: First sample.
        n_samples: Length.

    Returns:
        float32 [n_speakers, n_samples].

    Raises:
        SpikeSepError: If a file is missing, damaged, cut off, of another sample rate, or of another
            length than the others.
    """
    return _read_aligned(mixture.sources, sample_rate, start, n_samples)


def read_remainder(
    mixture: Mixture, sources: np.ndarray, sample_rate: int, start: int
) -> np.ndarray | None:
    """Read what a mixture holds besides its sources.

    Args:
        mixture: The mixture.
        sources: The sources from `start` on, [n_speakers, n_samples].
        sample_rate: Sample rate in Hz that the files must have.
        start: First sample.

    Returns:
        float32 [n_samples], or None if the mixture is the sum of its sources.

    Raises:
        SpikeSepError: See `read_sources`.
    """
    n_samples = sources.shape[1]
    if mixture.has_residual:
        mixed = _read_aligned([mixture.mixture], sample_rate, start, n_samples)[0]
        return mixed - sources.sum(0)
    if mixture.noise:
        return _read_aligned([mixture.noise], sample_rate, start, n_samples)[0]
    return None


def find_residuals(mixtures: Sequence[Mixture], sample_rate: int) -> tuple[list[Mixture], str]:
    """Read all files of a set to find mixtures that are not the sum of their sources and noise.

    A mixture is accepted as the sum if they differ nowhere by more than rounding all files to 16
    bits can explain, (parts + 1) / 2 steps, except where the sum was clipped at full scale.

    Args:
        mixtures: The mixtures of a data directory.
        sample_rate: Sample rate in Hz that the files must have.

    Returns:
        The mixtures with `has_residual` set, and a hash of their ids and samples.

    Raises:
        SpikeSepError: If a file cannot be read, or differs in length from others of its mixture.
    """
    with ThreadPoolExecutor(available_cores()) as pool:
        results = list(pool.map(partial(_check_sum, sample_rate=sample_rate), mixtures))
    checked = [
        replace(mixture, has_residual=has_residual)
        for mixture, (has_residual, _) in zip(mixtures, results, strict=True)
    ]
    checksums = "".join(
        f"{mixture.utt_id} {checksum:08x}\n"
        for mixture, (_, checksum) in zip(mixtures, results, strict=True)
    )
    return checked, hashlib.sha256(checksums.encode()).hexdigest()[:16]


def _check_sum(mixture: Mixture, sample_rate: int) -> tuple[bool, int]:
    """Return whether a mixture differs from the sum of its parts, and a checksum of all samples."""
    parts = (*mixture.sources, *([mixture.noise] if mixture.noise else []))
    paths = (*parts, mixture.mixture)
    samples = _read_aligned(paths, sample_rate, 0, count_samples(mixture))
    for path, row in zip(paths, samples, strict=True):
        if not np.isfinite(row).all():
            raise SpikeSepError(f"{path}: holds NaN or Inf; export it again")
    total = samples[:-1].sum(0).clip(-1, 1)
    rounding = (len(parts) + 1) / 2 * STEP
    difference = np.abs(samples[-1] - total).max(initial=0.0)
    return bool(difference > rounding + 0.01 * STEP), zlib.crc32(samples.data)


def _read_aligned(
    paths: Sequence[Path], sample_rate: int, start: int, n_samples: int
) -> np.ndarray:
    """Read a segment of files of equal length, averaged over channels, float32 [files, n_samples].

    Raises:
        SpikeSepError: See `read_sources`.
    """
    rows = np.zeros((len(paths), n_samples), np.float32)
    expected: int | None = None
    for row, path in zip(rows, paths, strict=True):
        try:
            with path.open("rb") as content:
                find_extent(content, str(path))  # libsndfile does not notice missing bytes
            with soundfile.SoundFile(path) as file:
                rate, frames = file.samplerate, file.frames
                file.seek(min(start, frames))
                samples = file.read(n_samples, dtype="float32")
        except (soundfile.SoundFileError, OSError) as error:
            raise SpikeSepError(
                f"{path}: cannot be read ({error}); "
                "run stage 1 again to repair it, or correct the lists"
            ) from error
        if rate != sample_rate:
            raise SpikeSepError(
                f"{path}: is at {rate} Hz, the model at {sample_rate}; "
                "mix at the model's rate (stage 1)"
            )
        expected = frames if expected is None else expected
        if frames != expected:
            raise SpikeSepError(
                f"{path}: {frames} samples, {paths[0]} has {expected}; "
                "run stage 1 again, or cut them to one length"
            )
        row[: len(samples)] = samples if samples.ndim == 1 else samples.mean(1)
    return rows
