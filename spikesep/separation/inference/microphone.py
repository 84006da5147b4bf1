"""Recording from the default microphone through sounddevice."""

from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import Any

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import AudioStream

BLOCK_SECONDS = 0.01
"""Length of the blocks that the microphone delivers, no longer than the blocks of a live stream."""
MAX_DELAY = 10.0
"""Seconds of samples that are buffered before any are lost."""
TIMEOUT = 3.0
"""Seconds without a sample after which the microphone counts as unplugged; a silent one still
delivers zeros."""


def microphone_sound(tell: Callable[[str], object]) -> AudioStream:
    """Open the default microphone; its blocks continue until it is unplugged.

    Args:
        tell: receives a message, once, when samples are lost because they were not read in time.

    Raises:
        SpikeSepError: sounddevice is not installed, or finds no microphone.
    """
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:  # the latter without the PortAudio library
        raise SpikeSepError(
            f"mic: recording needs sounddevice, which cannot be loaded ({error}); "
            "pip install sounddevice, or pipe it in: "
            "arecord -f S16_LE -r 16000 | spikesep-infer --live -"
        ) from error
    buffer = _Buffer(tell)
    try:
        rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
        device = sounddevice.InputStream(
            samplerate=rate,
            channels=1,
            dtype="float32",
            blocksize=round(BLOCK_SECONDS * rate),
            callback=buffer.put,
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise SpikeSepError(f"mic: no microphone can be opened ({error}); plug one in") from error

    def blocks() -> Iterator[np.ndarray]:
        with device:
            yield from buffer.blocks()

    return AudioStream(rate, 1, None, blocks())


class _Buffer:
    """Queue between the callback of the audio library and the reader of the blocks."""

    def __init__(self, tell: Callable[[str], object]):
        self._queue: Queue[np.ndarray] = Queue(round(MAX_DELAY / BLOCK_SECONDS))
        self._tell, self._has_lost = tell, False

    def put(self, samples: np.ndarray, _n: int, _time: Any, status: Any) -> None:
        """Append samples [n, 1]; a callback of `sounddevice.InputStream`."""
        lost = status.input_overflow
        try:
            self._queue.put_nowait(samples[:, 0].copy())
        except Full:
            lost = True
        if lost and not self._has_lost:
            self._has_lost = True
            self._tell("mic: some samples were lost; reduce the load of this computer")

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield blocks [1, n] as they arrive.

        Raises:
            SpikeSepError: none arrives for `TIMEOUT` seconds.
        """
        while True:
            try:
                yield self._queue.get(timeout=TIMEOUT)[None]
            except Empty:
                raise SpikeSepError(
                    f"mic: no samples from the microphone for {TIMEOUT:g} s; plug it in"
                ) from None
