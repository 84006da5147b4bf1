"""Reading through libsndfile.

libsndfile trusts the length in the header, and takes the first of several streams for the whole
file. Samples whose stated length is doubtful are therefore read as raw samples from their position
in the file, and concatenated streams (chained Ogg from radio servers, joined FLAC) one by one.
"""

import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.containers import MIN_TRAILING_AUDIO, Extent
from spikesep.separation.audio.file_section import FileSection

BLOCK_SAMPLES = 2**18
"""Samples of all channels that are read at once."""
GSM_RATE, GSM_FRAME_BYTES = 8000, 33
"""A .gsm file is raw GSM 06.10 frames without a header, at 8 kHz."""
MULTIBYTE_SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
"""Uncompressed sample types with a byte order, as libsndfile names them."""
RAW_SUBTYPES = (*MULTIBYTE_SUBTYPES, "PCM_S8", "PCM_U8", "ULAW", "ALAW")
"""Sample types that store each sample by itself."""
BIG_ENDIAN_FORMATS = ("AIFF", "AU", "CAF", "SVX")
UNKNOWN_LENGTH = 2**60
"""Number of frames from which on libsndfile means that the length is unknown."""
MAX_STREAMS = 1000
"""Concatenated Ogg streams that are opened; enough for several days of a radio programme."""
READ_AHEAD = 2**16
"""Bytes by which the FLAC decoder may read ahead; more after the stream's end are not a tag."""
READ_ERRORS = (soundfile.SoundFileError, OSError)


@dataclass(frozen=True)
class SndfileReader:
    """A recording opened with libsndfile.

    Attributes:
        file: The recording, or the first of its concatenated streams.
        frames: Samples per channel in all streams.
        trusted: Whether the length is stated and not guessed from the bit rate.
        more: Byte ranges (start, stop) of the following streams.
    """

    file: soundfile.SoundFile
    frames: int
    trusted: bool = True
    more: tuple[tuple[int, int], ...] = ()

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz."""
        return self.file.samplerate

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.file.channels

    def blocks(self, name: str, notify: Callable[[str], object]) -> Iterator[np.ndarray]:
        """Yield all samples in order, float32 [channels, n], and close the file.

        Args:
            name: Name for messages.
            notify: Receives a warning about ignored bytes after the stated end.

        Raises:
            SpikeSepError: If the recording is cut off, cannot be read to its end, or changes its
                sample rate or number of channels.
        """
        with self.file as file:
            yield from self._blocks(name, file)
            joined = _joined_flac(file, name, notify) if file.format == "FLAC" else []
            for start, stop in self.more or joined:
                with soundfile.SoundFile(cast(Any, FileSection(file.name, start, stop))) as stream:
                    _check_same_format(name, file, stream)
                    yield from self._blocks(name, stream)

    def segment(self, start: int, n: int) -> np.ndarray | None:
        """Read up to n samples from `start` on, float32 [channels, n].

        Returns None if the format requires reading everything before them.
        """
        if (
            self.more
            or not self.trusted
            or not self.file.seekable()
            or self.file.subtype == "GSM610"
        ):
            return None
        with self.file as file:
            file.seek(min(start, file.frames))
            return file.read(n, dtype="float32", always_2d=True).T

    def _blocks(self, name: str, file: soundfile.SoundFile) -> Iterator[np.ndarray]:
        left, size = file.frames, max(1, BLOCK_SAMPLES // file.channels)
        while left:
            try:
                block = file.read(min(size, left), dtype="float32", always_2d=True)
            except READ_ERRORS as error:
                raise SpikeSepError(
                    f"{name}: cannot be read to its end ({error}); make or copy it again"
                ) from error
            if not len(block):
                break
            left -= len(block)
            yield np.ascontiguousarray(block.T)
        if left and self.trusted:
            raise _cut_off(name, file.frames - left, file.frames)


def open_reader(
    file: FileSection, extent: Extent | None, name: str, notify: Callable[[str], object]
) -> SndfileReader | None:
    """Open a recording with libsndfile; return None if that fails.

    Args:
        file: File on disk, which may be closed afterwards.
        extent: Location of its samples, if known.
        name: Name for messages.
        notify: Receives warnings about audio that is ignored.

    Raises:
        SpikeSepError: If the recording is cut off, or its streams differ in sample rate or number
            of channels.
    """
    try:
        opened = soundfile.SoundFile(cast(Any, FileSection(file)))
    except READ_ERRORS:
        return None
    if opened.format == "OGG":
        return _open_ogg(file, opened, name, notify)
    if opened.subtype.startswith("MPEG"):
        trusted = opened.format == "MP3" and _has_valid_frame_count(file)
        return SndfileReader(opened, opened.frames, trusted)
    if extent and extent.length_fault:
        return _open_extent(opened, extent)
    if extent is None and opened.format != "FLAC":
        _check_log(name, opened)
    return SndfileReader(opened, opened.frames, opened.frames < UNKNOWN_LENGTH)


def open_raw(
    section: FileSection, subtype: str, order: str, sample_rate: int, channels: int
) -> SndfileReader:
    """Open samples without a header.

    Args:
        section: The samples.
        subtype: Sample type, as libsndfile names it.
        order: Byte order, `LITTLE` or `BIG`.
        sample_rate: In Hz.
        channels: Number of interleaved channels.
    """
    order = order if subtype in MULTIBYTE_SUBTYPES else "FILE"
    file = soundfile.SoundFile(
        cast(Any, section), "r", sample_rate, channels, subtype, order, "RAW"
    )
    return SndfileReader(file, file.frames)


def open_gsm(file: FileSection) -> SndfileReader | None:
    """Open raw GSM 06.10 frames; return None if the file holds none."""
    file.seek(0)
    content = file.read(64 * GSM_FRAME_BYTES)
    if not content or any(first >> 4 != 0xD for first in content[::GSM_FRAME_BYTES]):
        return None
    return open_raw(FileSection(file), "GSM610", "FILE", GSM_RATE, 1)


def _cut_off(name: str, present: int, stated: object) -> SpikeSepError:
    return SpikeSepError(
        f"{name}: cut off, {present} of {stated} samples are present; make or copy it again"
    )


def _check_same_format(name: str, first: soundfile.SoundFile, stream: soundfile.SoundFile) -> None:
    if (stream.samplerate, stream.channels) != (first.samplerate, first.channels):
        raise SpikeSepError(
            f"{name}: changes its rate or channels partway; export the recording again"
        )


def _check_log(name: str, opened: soundfile.SoundFile) -> None:
    """Reject a file that libsndfile reports as cut off in its log only.

    This concerns formats whose header `find_extent` does not read.
    """
    log = opened.extra_info
    counts = re.findall(r"(?:Frames|Cols|Data length) *:? +(\d+)", log)
    stated = max(map(int, counts), default=0)
    if stated > opened.frames or "truncated" in log:
        raise _cut_off(name, opened.frames, stated or "more")


def _open_extent(opened: soundfile.SoundFile, extent: Extent) -> SndfileReader:
    """Read samples from their byte range, ignoring the length in the header."""
    if opened.subtype not in RAW_SUBTYPES:  # FFmpeg may be able to
        return SndfileReader(opened, opened.frames, trusted=False)
    default_order = "BIG" if opened.format in BIG_ENDIAN_FORMATS else "LITTLE"
    order = default_order if opened.endian == "FILE" else opened.endian
    with opened:
        section = FileSection(opened.name, extent.start, extent.stop)
        return open_raw(section, opened.subtype, order, opened.samplerate, opened.channels)


# --- concatenated streams ------------------------------------------------------------------------


def _open_ogg(
    file: FileSection, opened: soundfile.SoundFile, name: str, notify: Callable[[str], object]
) -> SndfileReader | None:
    """Open concatenated Ogg streams, with a warning about those that cannot be opened."""
    streams, ends_early = _ogg_streams(file)
    if ends_early:
        notify(f"{name}: ends within an Ogg page, which is ignored; check if more was recorded")
    if len(streams) == 1 or len(streams) > MAX_STREAMS:
        trusted = len(streams) == 1 and opened.frames < UNKNOWN_LENGTH
        return SndfileReader(opened, opened.frames, trusted)
    opened.close()
    first, frames, more, lost = None, 0, [], 0
    for start, stop in streams:
        try:
            stream = soundfile.SoundFile(cast(Any, FileSection(file, start, stop)))
        except READ_ERRORS:
            lost += stop - start
            continue
        frames += stream.frames
        if first is None:
            first = stream
            continue
        with stream:
            _check_same_format(name, first, stream)
        more.append((start, stop))
    if first and lost:
        notify(f"{name}: {lost} bytes of Ogg streams cannot be read and are ignored")
    return SndfileReader(first, frames, more=tuple(more)) if first else None


def _ogg_streams(file: FileSection) -> tuple[list[tuple[int, int]], bool]:
    """Locate concatenated Ogg streams.

    The first page of a stream is marked. Multiplexed streams, which run in parallel, have their
    first pages next to each other.

    Returns:
        The byte range of each stream, and whether the last page is cut off.
    """
    starts, behind = [], -1
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for page in re.finditer(rb"OggS\0[\2\3\6\7]", content):
            if page.start() != behind:
                starts.append(page.start() if starts else 0)
            behind = _page_end(content, page.start())
        size, last = len(content), content.rfind(b"OggS")
        lost = last >= 0 and _page_end(content, last) > size
    return list(pairwise([*starts, size])), lost


def _page_end(content: mmap.mmap, at: int) -> int:
    """Return the offset of the byte after an Ogg page, according to its header."""
    head = content[at : at + 27 + 255]
    if len(head) < 27 or len(head) < 27 + head[26]:
        return at + 27 + 255
    return at + 27 + head[26] + sum(head[27 : 27 + head[26]])


def _joined_flac(
    file: soundfile.SoundFile, name: str, notify: Callable[[str], object]
) -> list[tuple[int, int]]:
    """Return the byte ranges of FLAC streams that follow the one that was read to its end."""
    read = file.name.tell()
    marker = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
    with mmap.mmap(file.name.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size = len(content)
        starts = [found.start() for found in marker.finditer(content, max(4, read - READ_AHEAD))]
    if not starts and size - read > READ_AHEAD:
        notify(f"{name}: {size - read} bytes after the stated end of its audio are ignored")
    return list(pairwise([*starts, size]))


def _has_valid_frame_count(file: FileSection) -> bool:
    """Return whether an MP3 file has a Xing header with a frame count and a matching size."""
    at, size = 0, file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(10)
    if head[:3] == b"ID3":
        at = 10 + sum(byte << 7 * (3 - k) for k, byte in enumerate(head[6:]))
    file.seek(at)
    tag = re.search(rb"(?:Xing|Info)(.{12})", file.read(2**12), re.DOTALL)
    if not tag:
        return False
    flags, frames, length = struct.unpack(">III", tag[1])
    ends = not flags & 2 or size < at + tag.start() + length + MIN_TRAILING_AUDIO
    return bool(flags & 1 and frames and ends)
