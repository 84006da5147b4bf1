"""Reading through FFmpeg (PyAV): what libsndfile cannot read, or would read too little of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.containers import Section

STATING = ("mov", "wv", "tta", "ape")
"""Demuxers that take a stream's length from its header; others may guess it from the bit rate."""
CLOCKED = ("mov", "matroska", "mpegts")
"""Demuxers whose packets say when they are due."""
LEAST_GAP, TOLERANCE = 0.1, 0.2
"""Seconds: of time without a packet that deserve a word; by which a stream may end too early."""


@dataclass(frozen=True)
class Reading:
    """A recording that FFmpeg has opened.

    Attributes:
        sample_rate: Hz.
        channels: how many.
        frames: samples of a channel, as the header says; None where it does not.
        container: of PyAV.
        stream: its first stream of sound.
    """

    sample_rate: int
    channels: int
    frames: int | None
    container: Any
    stream: Any

    def blocks(self, name: str, tell: Callable[[str], object]) -> Iterator[np.ndarray]:
        """All samples in order, float32 [channels, n]; the file is closed behind the last.

        What the encoder added is left out as far as the container tells of it. `tell` is told of
        packets that are damaged, and of gaps in time, both of which are left out.

        Raises:
            SpikeSepError: the recording is cut off, cannot be decoded, or changes its rate or channels.
        """
        import av

        progress = _Progress(self)
        with self.container:
            try:
                waiting = None  # the last frame may hold more than belongs to the recording
                for frame in progress.frames():
                    if waiting is not None:
                        yield self._samples(name, waiting)
                    waiting = frame
                if waiting is not None:
                    yield self._samples(name, waiting)[:, : progress.belonging(waiting)]
            except (av.FFmpegError, ValueError) as error:
                raise SpikeSepError(
                    f"{name}: cannot be read to its end ({error}); make or copy it again"
                ) from error
        progress.judge(name, tell)

    def part(self, start: int, n: int) -> None:
        """None: few codecs can be entered at a sample."""
        return None

    def count_packets(self) -> int | None:
        """Samples by the packets' durations, without decoding; None where a packet has none."""
        import av

        ticks = 0
        with self.container:
            try:
                for packet in self.container.demux(self.stream):
                    if packet.size and not packet.duration:
                        return None
                    ticks += packet.duration or 0
            except (av.FFmpegError, ValueError):
                return None
        return round(ticks * self.stream.time_base * self.sample_rate)

    def _samples(self, name: str, frame) -> np.ndarray:
        if (frame.sample_rate, len(frame.layout.channels)) != (self.sample_rate, self.channels):
            raise SpikeSepError(
                f"{name}: changes its rate or channels on the way; export the recording again"
            )
        data = frame.to_ndarray()
        data = data if frame.format.is_planar else data.reshape(-1, self.channels).T
        if data.dtype.kind == "f":
            return data.astype(np.float32)
        half = 2.0 ** (8 * data.itemsize - 1)  # 8 bits have no sign
        return ((data - half * (data.dtype.kind == "u")) / half).astype(np.float32)


class _Progress:
    """What becomes of a recording's packets while they are decoded."""

    def __init__(self, reading: Reading):
        self._reading = reading
        stream, kind = reading.stream, reading.container.format.name.split(",")[0]
        self._tick = float(stream.time_base)  # seconds
        self._clocked = kind in CLOCKED
        start, stated = stream.start_time or 0, kind in STATING and stream.duration
        self._stop = start + stream.duration if stated else None
        self._reached = start  # the tick up to which packets could be decoded
        self._before, self._lasts, self._gaps = None, None, 0.0  # due time and seconds of the last
        self._packets = self._damaged = self._decoded = 0

    def frames(self) -> Iterator:
        """Every frame that can be decoded."""
        import av

        for packet in self._reading.container.demux(self._reading.stream):
            self._packets += packet.size > 0
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self._damaged += 1
                continue
            self._keep_time(packet)
            for frame in frames:
                self._decoded += 1
                self._lasts = frame.samples / frame.sample_rate
                yield frame

    def _keep_time(self, packet) -> None:
        if packet.pts is None:
            return
        if self._lasts is not None:
            silence = (packet.pts - self._before) * self._tick - self._lasts
            self._gaps += silence if silence > LEAST_GAP else 0.0
        self._before = packet.pts
        self._reached = max(self._reached, packet.pts + (packet.duration or 0))

    def belonging(self, frame) -> int:
        """How many samples of the last frame the header counts."""
        if self._stop is None or frame.pts is None:
            return frame.samples
        rate = self._reading.sample_rate
        excess = round((frame.pts - self._stop) * self._tick * rate) + frame.samples
        return frame.samples - excess if 0 < excess < frame.samples else frame.samples

    def judge(self, name: str, tell: Callable[[str], object]) -> None:
        """Tell what was left out.

        Raises:
            SpikeSepError: that is too much.
        """
        if self._damaged and self._damaged >= self._decoded:
            raise SpikeSepError(f"{name}: cannot be decoded; make or copy it again")
        if self._stop is not None:
            missing = (self._stop - self._reached) * self._tick
            if missing > TOLERANCE:
                raise SpikeSepError(
                    f"{name}: cut off, its last {missing:.2f} s are not there; make or copy it again"
                )
        if self._damaged:
            tell(f"{name}: {self._damaged} of {self._packets} packets are damaged and left out")
        if self._clocked and self._gaps:
            tell(f"{name}: {self._gaps:.2f} s of its time hold no sound and are left out")


def open_reading(file: Section, name: str, tell: Callable[[str], object]) -> Reading | None:
    """Open a recording with FFmpeg; None if it is no sound.

    Args:
        file: on disk; may be closed afterwards.
        name: for messages.
        tell: is told of tracks that are not read.
    """
    import av  # slow to load, and seldom needed

    try:
        container = av.open(Section(file))
        tracks = container.streams.audio
        if not tracks or tracks[0].codec_context is None:
            return None
        rate, channels = tracks[0].codec_context.sample_rate, tracks[0].codec_context.channels
    except (av.FFmpegError, ValueError, OSError):
        return None
    if not rate or not channels:
        return None
    if len(tracks) > 1:
        tell(f"{name}: has {len(tracks)} tracks of sound; the first is read")
    return Reading(rate, channels, _stated_frames(container, tracks[0]), container, tracks[0])


def _stated_frames(container, stream) -> int | None:
    if container.format.name.split(",")[0] not in STATING or not stream.duration:
        return None
    frames = int(stream.duration * stream.time_base * stream.codec_context.sample_rate)
    most = stream.frames * stream.codec_context.frame_size  # less, where there is a gap in time
    return min(frames, most) if most else frames
