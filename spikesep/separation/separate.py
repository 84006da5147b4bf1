"""Separation of recordings: any sample rate and length, in blocks of constant memory, at a stated output level."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.separation.audio import resample
from spikesep.separation.model import Separator, load_separator
from spikesep.separation.sharing import find_model
from spikesep.spiking.cost import Cost
from spikesep.training.precision import exact_products

Level = Literal["match-mix", "peak", "none"]
Wave = TypeVar("Wave", np.ndarray, Tensor)
PEAK = 0.9


@dataclass(frozen=True)
class Separated:
    """Voices of one recording.

    Attributes:
        estimates: float32 [n_speakers, samples], at the recording's sample rate.
        cost: of the mask network, all blocks together; where there are several, their shared context is counted twice.
        scale: all voices were lowered by this common factor to stay within full scale; 1 where that was not needed.
    """

    estimates: np.ndarray
    cost: Cost
    scale: float = 1.0


class Model:
    """A trained separator, ready for recordings. Calls leave no state behind.

    Args:
        separator: analog or spiking.
        device: where it computes.
    """

    def __init__(self, separator: Separator, device: str = "cpu"):
        self.separator = separator.to(device).eval()
        self.device = torch.device(device)
        exact_products(self.device)

    @property
    def sample_rate(self) -> int:
        """Hz, of the network; recordings at other rates are resampled and the voices resampled back."""
        return self.separator.sample_rate

    @property
    def kind(self) -> str:
        """`ann` or `snn`."""
        return self.separator.kind

    @property
    def n_speakers(self) -> int:
        """How many voices come out."""
        return self.separator.config.n_speakers

    def separate(
        self, wave: Wave, sample_rate: int | None = None, level: Level = "match-mix", segment_seconds: float = 30.0
    ) -> Wave:
        """Separate the voices of a recording.

        Args:
            wave: [samples], or [channels, samples], which are averaged; full scale is 1. Numpy or torch: the voices
                come in the same, in floating point.
            sample_rate: of `wave`, Hz; None for the network's own.
            level: see `set_level`.
            segment_seconds: length of the blocks it is worked through in.

        Returns:
            Voices [n_speakers, samples], at `sample_rate`.

        Raises:
            ValueError: `wave` has another shape ([samples, channels] among them), is empty, or holds NaN or Inf.
        """
        is_tensor = isinstance(wave, Tensor)
        samples = np.asarray(wave.detach().cpu() if is_tensor else wave, dtype=np.float32)
        result = self.separate_recording(samples, sample_rate or self.sample_rate, level, segment_seconds)
        if not is_tensor:
            return result.estimates
        estimates = torch.from_numpy(result.estimates).to(wave.device)
        return estimates.to(wave.dtype) if wave.is_floating_point() else estimates

    def separate_recording(
        self,
        samples: np.ndarray,
        sample_rate: int,
        level: Level = "match-mix",
        segment_seconds: float = 30.0,
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> Separated:
        """As `separate`, with what it cost; `on_progress` is told the share that is done."""
        mono = _mono(samples)
        mixture = torch.from_numpy(resample(mono, sample_rate, self.sample_rate))
        estimates, cost = self._in_blocks(mixture, segment_seconds, on_progress)
        estimates = resample(estimates, self.sample_rate, sample_rate)[:, : len(mono)]
        leveled, scale = set_level(estimates, mono[: estimates.shape[1]], level)
        return Separated(leveled, cost, scale)

    def _in_blocks(self, mixture: Tensor, segment_seconds: float, on_progress) -> tuple[np.ndarray, Cost]:
        """Work through mixture [T] in blocks, each with the context its samples can depend on: as if in one piece."""
        stride = self.separator.stride
        context = -(-self.separator.context // stride) * stride  # blocks begin on the grid of the encoder's frames
        length = max(1, round(segment_seconds * self.sample_rate) // stride) * stride
        n = len(mixture)
        estimates, cost = np.empty((self.n_speakers, n), np.float32), Cost()
        for start in range(0, n, length):
            stop = min(start + length, n)
            left, right = max(0, start - context), min(n, stop + context)
            block, block_cost = self.separator.separate_with_cost(mixture[left:right].to(self.device))
            estimates[:, start:stop] = block[:, start - left : stop - left].cpu().numpy()
            cost = cost + block_cost
            on_progress(stop / n)
        return estimates, cost


def load_model(
    path: str | Path | None = None, network: Literal["snn", "ann"] | None = None, device: str = "cpu"
) -> Model:
    """Load a separator; nothing in it is executed.

    Args:
        path: a model folder or `.safetensors` file, an experiment folder that holds `snn` and `ann`, the name of a
            shipped model, or `org/name` of the Hugging Face hub, with `@revision` for one of its versions; None for the
            shipped model. What is here comes before what is on the hub.
        network: which of an experiment's two; by default the spiking one, if there. A model must be of this kind.
        device: `cpu`, `cuda`, ...

    Raises:
        SpikeSepError: there is no such model, or not this network, or no such device, or the model was changed.
    """
    found = find_model(path, network)
    separator = load_separator(found)
    if network is not None and separator.kind != network:
        raise SpikeSepError(
            f"{found}: is of kind {separator.kind}, not {network}; leave --network out, or give the other"
        )
    try:
        return Model(separator, device)
    except (RuntimeError, AssertionError) as error:
        raise SpikeSepError(f"--device {device}: cannot be used ({str(error).splitlines()[0]}); try cpu") from error


def set_level(estimates: np.ndarray, mixture: np.ndarray, level: Level) -> tuple[np.ndarray, float]:
    """Give the voices a level; the network's own, trained to be scale-invariant, says nothing.

    Args:
        estimates: [n_speakers, samples].
        mixture: [samples].
        level: `match-mix` finds the gains, none negative, with which the voices add up to the mixture best; `peak`
            brings each voice to a peak of 0.9; `none` leaves them.

    Returns:
        The voices, and the common factor by which they were lowered, after that, to stay within full scale.
    """
    if level == "match-mix":
        estimates = estimates * _matching_gains(estimates, mixture)[:, None]
    elif level == "peak":
        peaks = np.abs(estimates).max(1, keepdims=True)
        estimates = estimates * np.divide(PEAK, peaks, out=np.zeros_like(peaks), where=peaks > 0)
    elif level != "none":
        raise ValueError(f"level must be 'match-mix', 'peak' or 'none', not {level!r}")
    loudest = float(np.abs(estimates).max(initial=0.0))
    scale = min(1.0, 1.0 / loudest) if loudest > 0 else 1.0
    return (estimates * scale).astype(np.float32), scale


def _matching_gains(estimates: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """Least squares over non-negative gains: the best non-negative solution on some subset of the voices."""
    from scipy.optimize import nnls

    voices = estimates.astype(np.float64)
    gram, target = voices @ voices.T, voices @ mixture.astype(np.float64)
    if not np.trace(gram) > 0:
        return np.zeros(len(estimates))
    # The normal equations stand for the tall problem: with L L^T = gram it has the same minimum.
    values, vectors = np.linalg.eigh(gram)
    keep = values > values[-1] * 1e-10
    root = (vectors[:, keep] * np.sqrt(values[keep])).T
    return nnls(root, (vectors[:, keep] / np.sqrt(values[keep])).T @ target)[0]


def _mono(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 2:
        if samples.shape[0] > samples.shape[1]:
            raise ValueError(f"a recording is [channels, samples]; transpose this one of shape {samples.shape}")
        samples = samples.mean(0)
    if samples.ndim != 1 or not samples.size:
        raise ValueError(f"a recording is [samples] or [channels, samples] and not empty; this one is {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError("the recording holds NaN or Inf")
    return np.ascontiguousarray(samples, dtype=np.float32)
