"""Channels of a recording: selection, sample scaling, and phase cancellation."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np

Channels = Literal["mix", "each"] | int
"""What to separate: the average of all channels, each channel by itself, or one, counted from 1."""
CANCELLATION_RATIO = 0.05
"""Channels cancel if their average has less than this fraction of the energy that the average of
uncorrelated channels would have."""
FULL_SCALE = {"int16": (0, 2**15), "int32": (0, 2**31), "uint8": (2**7, 2**7)}
"""Zero level and full scale of the integer sample types of WAV files."""


def to_float32(samples: np.ndarray) -> np.ndarray:
    """Convert samples of any shape to float32 with full scale at 1.

    int16, int32 and uint8 are scaled; floats keep their values.

    Raises:
        ValueError: If the samples have another type.
    """
    name = samples.dtype.name
    if name in FULL_SCALE:
        zero, full = FULL_SCALE[name]
        return ((samples - np.float64(zero)) / full).astype(np.float32)
    if samples.dtype.kind != "f":
        raise ValueError(
            f"a recording of {name}; give float with full scale at 1, int16, int32 or uint8"
        )
    return samples.astype(np.float32, copy=False)


def channel_suffixes(choice: Channels, n_channels: int) -> list[str]:
    """Return a name suffix for each selected signal: `""` for the average, `_ch1` for a channel.

    Raises:
        ValueError: If the choice is invalid, or the recording lacks the channel.
    """
    if choice == "mix":
        return [""]
    if choice == "each":
        return [f"_ch{k + 1}" for k in range(n_channels)]
    if isinstance(choice, str) or choice < 1:
        raise ValueError(f"channels {choice}: give mix, each, or the number of one, counted from 1")
    if choice > n_channels:
        numbers = f"1 to {n_channels}" if n_channels > 1 else "1"
        raise ValueError(
            f"channels {choice}: the recording has {n_channels}; give mix, each, or {numbers}"
        )
    return [f"_ch{choice}"]


def select_channels(samples: np.ndarray, choice: Channels) -> np.ndarray:
    """Select signals [n_signals, n] from samples [channels, n]; see `channel_suffixes`."""
    if choice == "mix":
        return samples.mean(0, keepdims=True) if len(samples) > 1 else samples
    return samples if choice == "each" else samples[choice - 1 : choice]


class PhaseMeter:
    """Measures, block by block, whether the channels of a recording cancel when averaged."""

    def __init__(self):
        self._energy, self._mixed = np.zeros(1), 0.0

    def add(self, block: np.ndarray) -> None:
        """Add the next block, [channels, n]."""
        self._energy = self._energy + np.square(block, dtype=np.float64).sum(1)
        self._mixed += float(np.square(block.mean(0), dtype=np.float64).sum())

    def choice(self) -> Channels:
        """Return `mix`, or the number of the strongest channel if the channels cancel.

        The average of n uncorrelated channels has 1/n of their mean energy. Only channels in
        opposite phase leave far less.
        """
        cancels = self._mixed < CANCELLATION_RATIO * self._energy.mean() / len(self._energy)
        return int(self._energy.argmax()) + 1 if cancels else "mix"


def choose_downmix(blocks: Iterable[np.ndarray]) -> Channels:
    """Run a `PhaseMeter` over a whole recording, blocks of [channels, n]."""
    meter = PhaseMeter()
    for block in blocks:
        meter.add(block)
    return meter.choice()


def watch_phase(
    blocks: Iterator[np.ndarray],
    sample_rate: int,
    notify: Callable[[Channels], object],
) -> Iterator[np.ndarray]:
    """Pass blocks of [channels, n] through, and report channels that cancel.

    Args:
        blocks: The recording.
        sample_rate: In Hz; the first second is only measured.
        notify: Called at most once, with the number of the strongest channel.
    """
    meter, n_samples, notified = PhaseMeter(), 0, False
    for block in blocks:
        if not notified and len(block) > 1:
            meter.add(block)
            n_samples += block.shape[1]
            notified = n_samples >= sample_rate and meter.choice() != "mix"
            if notified:
                notify(meter.choice())
        yield block
