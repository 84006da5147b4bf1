"""Reading through FFmpeg (PyAV), for files that libsndfile rejects or would read incompletely."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.file_section import FileSection

EXACT_LENGTH_DEMUXERS = ("mov", "wv", "tta", "ape")
"""Demuxers that take a stream's length from its header; others may guess it from the bit rate."""
TIMESTAMP_DEMUXERS = ("mov", "matroska", "mpegts")
"""Demuxers whose packets have reliable timestamps."""
MIN_GAP_SECONDS = 0.1
"""Shortest gap between packets that is reported."""
MAX_MISSING_SECONDS = 0.2
"""Time by which a stream may end before its stated length."""


@dataclass(frozen=True)
class FfmpegReader:
    """A recording opened with FFmpeg.

    Attributes:
        sample_rate: In Hz.
        channels: Number of channels.
        frames: Samples per channel according to the header; None if it does not say.
        container: PyAV container.
        stream: Its first audio stream.
    """

    sample_rate: int
    channels: int
    frames: int | None
    container: Any
    stream: Any

    def blocks(self, name: str, notify: Callable[[str], object]) -> Iterator[np.ndarray]:
        """Yield all samples in order, float32 [channels, n], and close the file.

        Samples that the encoder added are removed as far as the container declares them.

        Args:
            name: Name for messages.
            notify: Receives warnings about damaged packets and gaps in time, which are skipped.

        Raises:
            SpikeSepError: If the recording is cut off, cannot be decoded, or changes its sample
                rate or number of channels.
        """
        import av

        progress = _Progress(self)
        with self.container:
            try:
                pending = None  # the last frame may extend past the end of the recording
                for frame in progress.frames():
                    if pending is not None:
                        yield self._samples(name, pending)
                    pending = frame
                if pending is not None:
                    yield self._samples(name, pending)[:, : progress.valid_samples(pending)]
            except (av.FFmpegError, ValueError) as error:
                raise SpikeSepError(
                    f"{name}: cannot be read to its end ({error}); make or copy it again"
                ) from error
        progress.report(name, notify)

    def segment(self, start: int, n: int) -> None:
        """Return None; few codecs allow random access to a sample."""
        return None

    def count_packets(self) -> int | None:
        """Sum up packet durations in samples without decoding; None if a packet has none."""
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
                f"{name}: changes its rate or channels partway; export the recording again"
            )
        data = frame.to_ndarray()
        data = data if frame.format.is_planar else data.reshape(-1, self.channels).T
        if data.dtype.kind == "f":
            return data.astype(np.float32)
        half = 2.0 ** (8 * data.itemsize - 1)  # 8-bit samples are unsigned
        return ((data - half * (data.dtype.kind == "u")) / half).astype(np.float32)


class _Progress:
    """Tracks damaged packets, gaps and the end of a recording while it is decoded."""

    def __init__(self, reader: FfmpegReader):
        self._reader = reader
        stream, demuxer = reader.stream, _demuxer(reader.container)
        self._tick = float(stream.time_base)  # seconds
        self._has_timestamps = demuxer in TIMESTAMP_DEMUXERS
        start = stream.start_time or 0
        stated = demuxer in EXACT_LENGTH_DEMUXERS and stream.duration
        self._stop = start + stream.duration if stated else None
        self._reached = start  # tick up to which packets could be decoded
        self._last_pts: int | None = None
        self._last_seconds: float | None = None  # duration of the last frame
        self._gap_seconds = 0.0
        self._packets = self._damaged = self._decoded = 0

    def frames(self) -> Iterator:
        """Yield every frame that can be decoded."""
        import av

        for packet in self._reader.container.demux(self._reader.stream):
            self._packets += packet.size > 0
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                self._damaged += 1
                continue
            self._track_time(packet)
            for frame in frames:
                self._decoded += 1
                self._last_seconds = frame.samples / frame.sample_rate
                yield frame

    def _track_time(self, packet) -> None:
        if packet.pts is None:
            return
        if self._last_seconds is not None and self._last_pts is not None:
            gap = (packet.pts - self._last_pts) * self._tick - self._last_seconds
            self._gap_seconds += gap if gap > MIN_GAP_SECONDS else 0.0
        self._last_pts = packet.pts
        self._reached = max(self._reached, packet.pts + (packet.duration or 0))

    def valid_samples(self, frame) -> int:
        """Return how many samples of the last frame the header counts."""
        if self._stop is None or frame.pts is None:
            return frame.samples
        rate = self._reader.sample_rate
        excess = round((frame.pts - self._stop) * self._tick * rate) + frame.samples
        return frame.samples - excess if 0 < excess < frame.samples else frame.samples

    def report(self, name: str, notify: Callable[[str], object]) -> None:
        """Warn about skipped packets and gaps.

        Raises:
            SpikeSepError: If most packets are damaged, or the end is missing.
        """
        if self._damaged and self._damaged >= self._decoded:
            raise SpikeSepError(f"{name}: cannot be decoded; make or copy it again")
        if self._stop is not None:
            missing = (self._stop - self._reached) * self._tick
            if missing > MAX_MISSING_SECONDS:
                raise SpikeSepError(
                    f"{name}: cut off, its last {missing:.2f} s are missing; make or copy it again"
                )
        if self._damaged:
            notify(f"{name}: {self._damaged} of {self._packets} packets are damaged and skipped")
        if self._has_timestamps and self._gap_seconds:
            notify(f"{name}: {self._gap_seconds:.2f} s of its time hold no audio and are skipped")


def open_reader(
    file: FileSection, name: str, notify: Callable[[str], object]
) -> FfmpegReader | None:
    """Open a recording with FFmpeg; return None if it holds no audio.

    Args:
        file: File on disk, which may be closed afterwards.
        name: Name for messages.
        notify: Receives a warning about further tracks, which are not read.
    """
    import av  # slow to import, and seldom needed

    try:
        container = av.open(FileSection(file))
        tracks = container.streams.audio
        if not tracks or tracks[0].codec_context is None:
            return None
        rate, channels = tracks[0].codec_context.sample_rate, tracks[0].codec_context.channels
    except (av.FFmpegError, ValueError, OSError):
        return None
    if not rate or not channels:
        return None
    if len(tracks) > 1:
        notify(f"{name}: has {len(tracks)} audio tracks; the first is read")
    track = next(iter(tracks))
    return FfmpegReader(rate, channels, _stated_frames(container, track), container, track)


def _demuxer(container) -> str:
    return container.format.name.split(",")[0]


def _stated_frames(container, stream) -> int | None:
    if _demuxer(container) not in EXACT_LENGTH_DEMUXERS or not stream.duration:
        return None
    frames = int(stream.duration * stream.time_base * stream.codec_context.sample_rate)
    decoded = stream.frames * stream.codec_context.frame_size  # smaller if there is a gap in time
    return min(frames, decoded) if decoded else frames
