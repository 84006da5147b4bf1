"""Channels of a recording: which are separated, at which scale samples are, and channels that cancel when averaged."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np

Channels = Literal["mix", "each"] | int
"""What is separated: the average of all channels, each channel on its own, or one channel, counted from 1."""
CANCELLED = 0.05
"""Energy of the average over that of unrelated channels' average, below which the channels are in opposite phase."""
FULL_SCALE = {"int16": (0, 2**15), "int32": (0, 2**31), "uint8": (2**7, 2**7)}
"""Zero and full scale of the integers that wav files hold."""


def at_full_scale(samples: np.ndarray) -> np.ndarray:
    """Samples of any shape as float32 with full scale at 1: int16, int32 and uint8 are scaled, floats are kept.

    Raises:
        ValueError: they are of another type.
    """
    name = samples.dtype.name
    if name in FULL_SCALE:
        zero, full = FULL_SCALE[name]
        return ((samples - np.float64(zero)) / full).astype(np.float32)
    if samples.dtype.kind != "f":
        raise ValueError(f"a recording of {name}; give float with full scale at 1, int16, int32 or uint8")
    return samples.astype(np.float32, copy=False)


def tracks(choice: Channels, n_channels: int) -> list[str]:
    """Names of the signals that a choice separates: `""` for the average, else `_ch1` and so on.

    Raises:
        ValueError: it is no choice, or the recording has no such channel.
    """
    if choice == "mix":
        return [""]
    if choice == "each":
        return [f"_ch{k + 1}" for k in range(n_channels)]
    if isinstance(choice, str) or choice < 1:
        raise ValueError(f"channels {choice}: give mix, each, or the number of one, counted from 1")
    if choice > n_channels:
        raise ValueError(f"channels {choice}: the recording has {n_channels}; give mix, each, or 1 to {n_channels}")
    return [f"_ch{choice}"]


def pick(samples: np.ndarray, choice: Channels) -> np.ndarray:
    """The signals [n_tracks, n] that a choice takes from [channels, n]; see `tracks`."""
    if choice == "mix":
        return samples.mean(0, keepdims=True) if len(samples) > 1 else samples
    return samples if choice == "each" else samples[choice - 1 : choice]


class PhaseMeter:
    """Tells, block by block, whether averaging the channels of a recording cancels what they carry."""

    def __init__(self):
        self._energy, self._mixed = np.zeros(1), 0.0

    def add(self, block: np.ndarray) -> None:
        """Take in the next block, [channels, n]."""
        self._energy = self._energy + np.square(block, dtype=np.float64).sum(1)
        self._mixed += float(np.square(block.mean(0), dtype=np.float64).sum())

    def choice(self) -> Channels:
        """`mix`, or the number of the strongest channel where the average is all but silent and the channels are not.

        Averaging n unrelated channels leaves 1/n of their mean energy; far less is left of opposite phases alone.
        """
        cancels = self._mixed < CANCELLED * self._energy.mean() / len(self._energy)
        return int(self._energy.argmax()) + 1 if cancels else "mix"


def audible_mix(blocks: Iterable[np.ndarray]) -> Channels:
    """`PhaseMeter.choice` of a whole recording, blocks of [channels, n]."""
    meter = PhaseMeter()
    for block in blocks:
        meter.add(block)
    return meter.choice()


def watched(blocks: Iterator[np.ndarray], sample_rate: int, tell: Callable[[Channels], object]) -> Iterator[np.ndarray]:
    """Hand on blocks of [channels, n]; `tell` once which channel is the strongest, should a second of them cancel."""
    meter, n_samples, told = PhaseMeter(), 0, False
    for block in blocks:
        if not told and len(block) > 1:
            meter.add(block)
            n_samples += block.shape[1]
            told = n_samples >= sample_rate and meter.choice() != "mix"
            if told:
                tell(meter.choice())
        yield block
