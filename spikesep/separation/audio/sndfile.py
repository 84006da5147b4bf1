"""Reading through libsndfile, which takes a header at its word and the first of several streams for the whole.

So samples of doubtful length are read as bare samples from where they lie, and streams that follow
one another in a file (chained Ogg, as radio servers send it; joined FLAC) are read one by one.
"""

import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.containers import LEAST_SOUND, Extent, Section

BLOCK = 2**18
"""Samples of all channels that are read at once."""
GSM_RATE, GSM_FRAME = 8000, 33
"""Hz, and bytes: a .gsm file is bare GSM 06.10 frames, without a header that tells the rate."""
ORDERED = ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
BARE = (*ORDERED, "PCM_S8", "PCM_U8", "ULAW", "ALAW")
"""Codings, as libsndfile calls them, that store each sample by itself; those whose bytes have an order."""
BIG_ENDIAN = ("AIFF", "AU", "CAF", "SVX")
UNKNOWN_LENGTH = 2**60
"""Frames from which on libsndfile means that it does not know."""
MOST_STREAMS = 1000
"""Streams of Ogg in a row that are opened: some days of a radio programme."""
UNREAD = 2**16
"""Bytes behind the end of a FLAC stream that are no tag; its decoder reads ahead by fewer."""
FAULTS = (soundfile.SoundFileError, OSError)


@dataclass(frozen=True)
class Reading:
    """A recording that libsndfile has opened.

    Attributes:
        file: the recording, or the first of its streams.
        frames: samples of a channel, of all streams.
        trusted: the length is stated, not guessed from the bit rate.
        more: where the streams that follow lie: first byte, and the byte behind the last.
    """

    file: soundfile.SoundFile
    frames: int
    trusted: bool = True
    more: tuple[tuple[int, int], ...] = ()

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.file.samplerate

    @property
    def channels(self) -> int:
        """How many."""
        return self.file.channels

    def blocks(self, name: str, tell: Callable[[str], object]) -> Iterator[np.ndarray]:
        """All samples in order, float32 [channels, n]; the file is closed behind the last.

        Raises:
            SpikeSepError: the recording is cut off, cannot be read to its end, or changes its rate
                or channels.
        """
        with self.file as file:
            yield from self._blocks(name, file)
            joined = _joined_flac(file, name, tell) if file.format == "FLAC" else ()
            for place in self.more or joined:
                with soundfile.SoundFile(Section(file.name, *place)) as stream:
                    _check_alike(name, file, stream)
                    yield from self._blocks(name, stream)

    def part(self, start: int, n: int) -> np.ndarray | None:
        """As many as there are of n samples from `start` on, float32 [channels, n]; None where they
        cannot be reached without reading all that comes before.
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
        left, size = file.frames, max(1, BLOCK // file.channels)
        while left:
            try:
                block = file.read(min(size, left), dtype="float32", always_2d=True)
            except FAULTS as error:
                raise SpikeSepError(
                    f"{name}: cannot be read to its end ({error}); make or copy it again"
                ) from error
            if not len(block):
                break
            left -= len(block)
            yield np.ascontiguousarray(block.T)
        if left and self.trusted:
            there = file.frames - left
            raise SpikeSepError(
                f"{name}: cut off, {there} of {file.frames} samples are there; make or copy it again"
            )


def open_reading(
    file: Section, extent: Extent | None, name: str, tell: Callable[[str], object]
) -> Reading | None:
    """Open a recording with libsndfile; None if it cannot.

    Args:
        file: on disk; may be closed afterwards.
        extent: where its samples lie, if its container says so.
        name: for messages.
        tell: is told of sound that must be left out.

    Raises:
        SpikeSepError: it is cut off, or its streams are of several rates or numbers of channels.
    """
    try:
        opened = soundfile.SoundFile(Section(file))
    except FAULTS:
        return None
    if opened.format == "OGG":
        return _open_ogg(file, opened, name, tell)
    if opened.subtype.startswith("MPEG"):
        trusted = opened.format == "MP3" and _counts_its_frames(file)
        return Reading(opened, opened.frames, trusted)
    if extent and extent.doubt:
        return _bare(opened, extent)
    if extent is None and opened.format != "FLAC":
        _check_log(name, opened)
    return Reading(opened, opened.frames, opened.frames < UNKNOWN_LENGTH)


def open_bare(
    section: Section, subtype: str, order: str, sample_rate: int, channels: int
) -> Reading:
    """Open samples without a header.

    Args:
        section: where they lie.
        subtype: what they are, as libsndfile calls it.
        order: of their bytes, `LITTLE` or `BIG`.
        sample_rate: Hz.
        channels: interleaved.
    """
    file = soundfile.SoundFile(
        section, "r", sample_rate, channels, subtype, order if subtype in ORDERED else "FILE", "RAW"
    )
    return Reading(file, file.frames)


def open_gsm(file: Section) -> Reading | None:
    """Bare frames of GSM 06.10; None if it holds none."""
    file.seek(0)
    content = file.read(64 * GSM_FRAME)
    if not content or any(first >> 4 != 0xD for first in content[::GSM_FRAME]):
        return None
    return open_bare(Section(file), "GSM610", "FILE", GSM_RATE, 1)


def _check_alike(name: str, first: soundfile.SoundFile, stream: soundfile.SoundFile) -> None:
    if (stream.samplerate, stream.channels) != (first.samplerate, first.channels):
        raise SpikeSepError(
            f"{name}: changes its rate or channels on the way; export the recording again"
        )


def _check_log(name: str, opened: soundfile.SoundFile) -> None:
    """Refuse what libsndfile, for want of a header that we read, finds cut off but tells only in its log."""
    log = opened.extra_info
    counts = re.findall(r"(?:Frames|Cols|Data length) *:? +(\d+)", log)
    stated = max(map(int, counts), default=0)
    if stated > opened.frames or "truncated" in log:
        there = f"{opened.frames} of {stated or 'more'} samples are there"
        raise SpikeSepError(f"{name}: cut off, {there}; make or copy it again")


def _bare(opened: soundfile.SoundFile, extent: Extent) -> Reading:
    """Read samples from where they lie, whatever the header says of their length."""
    if opened.subtype not in BARE:  # FFmpeg may know a way out
        return Reading(opened, opened.frames, trusted=False)
    own_order = "BIG" if opened.format in BIG_ENDIAN else "LITTLE"
    order = own_order if opened.endian == "FILE" else opened.endian
    with opened:
        section = Section(opened.name, extent.start, extent.stop)
        return open_bare(section, opened.subtype, order, opened.samplerate, opened.channels)


# --- streams that follow one another --------------------------------------------------------------


def _open_ogg(
    file: Section, opened: soundfile.SoundFile, name: str, tell: Callable[[str], object]
) -> Reading | None:
    """Streams of Ogg in a row; what of them cannot be opened is told."""
    streams, ends_early = _ogg_streams(file)
    if ends_early:
        tell(f"{name}: ends within an Ogg page, which is left out; see whether more was recorded")
    if len(streams) == 1 or len(streams) > MOST_STREAMS:
        return Reading(
            opened, opened.frames, trusted=len(streams) == 1 and opened.frames < UNKNOWN_LENGTH
        )
    opened.close()
    first, frames, more, lost = None, 0, [], 0
    for start, stop in streams:
        try:
            stream = soundfile.SoundFile(Section(file, start, stop))
        except FAULTS:
            lost += stop - start
            continue
        frames += stream.frames
        if first is None:
            first = stream
            continue
        with stream:
            _check_alike(name, first, stream)
        more.append((start, stop))
    if first and lost:
        tell(f"{name}: {lost} bytes of Ogg streams cannot be read and are left out")
    return first and Reading(first, frames, more=tuple(more))


def _ogg_streams(file: Section) -> tuple[list[tuple[int, int]], bool]:
    """Where the streams of Ogg lie that follow one another, and whether the last page is cut off.

    Pages that begin a stream are marked. Of streams that run side by side, these pages stand together.
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
    """The byte behind an Ogg page, as its header says."""
    head = content[at : at + 27 + 255]
    if len(head) < 27 or len(head) < 27 + head[26]:
        return at + 27 + 255
    return at + 27 + head[26] + sum(head[27 : 27 + head[26]])


def _joined_flac(
    file: soundfile.SoundFile, name: str, tell: Callable[[str], object]
) -> list[tuple[int, int]]:
    """Where streams of FLAC lie that follow the one that has been read to its end."""
    read = file.name.tell()
    marker = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
    with mmap.mmap(file.name.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size = len(content)
        starts = [found.start() for found in marker.finditer(content, max(4, read - UNREAD))]
    if not starts and size - read > UNREAD:
        tell(f"{name}: {size - read} bytes behind the stated end of its sound are left out")
    return list(pairwise([*starts, size]))


def _counts_its_frames(file: Section) -> bool:
    """Whether an mp3 file has a Xing frame that counts frames, and ends about where that says."""
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
    ends = not flags & 2 or size < at + tag.start() + length + LEAST_SOUND
    return bool(flags & 1 and frames and ends)
