"""NIST SPHERE, the format of older LDC corpora, with or without Shorten compression.

The header states the number of samples and their checksum, so damaged files are detected. FFmpeg
(PyAV) decodes Shorten.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.containers import MIN_TRAILING_AUDIO
from spikesep.separation.audio.file_section import FileSection
from spikesep.separation.audio.sndfile import open_raw

MAGIC = b"NIST_1A\n"
MAX_HEADER_BYTES = 2**20
MAX_CHANNELS = 1024
"""Channels that libsndfile accepts."""
SUBTYPES = {("pcm", 2): "PCM_16", ("pcm", 3): "PCM_24", ("pcm", 4): "PCM_32"}
SUBTYPES |= {(name, 1): "ULAW" for name in ("ulaw", "mu-law")}
SUBTYPES |= {(name, 1): "ALAW" for name in ("alaw", "a-law")}
"""libsndfile's name of each supported coding and number of bytes per sample."""


@dataclass(frozen=True)
class SphereHeader:
    """Content of a SPHERE header.

    Attributes:
        size: Size of the header in bytes.
        channels: Number of interleaved channels.
        samples: Samples per channel; None if the header does not state them.
        sample_rate: In Hz.
        coding: Coding of the samples.
        width: Bytes per sample.
        big_endian: Whether the high byte of a sample comes first.
        checksum: Sum of all samples modulo 65536; None if it is not stated.
    """

    size: int
    channels: int
    samples: int | None
    sample_rate: int
    coding: str
    width: int
    big_endian: bool
    checksum: int | None


def is_sphere(file: FileSection) -> bool:
    """Return whether a file starts like NIST SPHERE; leave it at its beginning."""
    file.seek(0)
    magic = file.read(len(MAGIC))
    file.seek(0)
    return magic == MAGIC


def read_header(file: FileSection, name: str) -> SphereHeader:
    """Read the header of a file that is at its beginning.

    Raises:
        SpikeSepError: If the header is cut off, lacks a field, or describes an unsupported coding.
    """
    try:
        size = max(16, int(file.read(16)[8:]))
        text = file.read(min(size, MAX_HEADER_BYTES) - 16).decode("ascii", "replace")
    except ValueError as error:
        raise SpikeSepError(f"{name}: no complete SPHERE header; copy the file again") from error
    fields: dict[str, int | str] = {}
    for line in text.splitlines():
        if line.strip() == "end_head":
            break
        key, kind, value = [*line.split(None, 2), "", "", ""][:3]
        number = kind == "-i" and value.lstrip("-").isdigit()
        fields[key] = int(value) if number else value.strip()
    else:
        raise SpikeSepError(f"{name}: the SPHERE header has no end; copy the file again")
    return _parse_header(name, size, fields)


def _parse_header(name: str, size: int, fields: dict[str, int | str]) -> SphereHeader:
    coding = str(fields.get("sample_coding", "pcm"))
    base, _, compression = coding.partition(",")
    width = fields.get("sample_n_bytes", 1 if "law" in base else 2)
    if (base, width) not in SUBTYPES or (compression and (base, width) != ("pcm", 2)):
        raise SpikeSepError(
            f"{name}: SPHERE of {coding} in {width} bytes; convert it with sph2pipe -p -f wav"
        )

    def integer(key: str, low: int, high: int) -> int:
        value = fields.get(key, "")
        if type(value) is not int or not low <= value <= high:
            raise SpikeSepError(
                f"{name}: the SPHERE header gives no valid {key}; copy the file again"
            )
        return value

    channels = integer("channel_count", 1, MAX_CHANNELS) if "channel_count" in fields else 1
    sample_rate = integer("sample_rate", 1, 2**31)
    counted = bool(compression) or "sample_count" in fields
    checksum = fields.get("sample_checksum")
    return SphereHeader(
        size=size,
        channels=channels,
        samples=integer("sample_count", 0, 2**62) if counted else None,
        sample_rate=sample_rate,
        coding=coding,
        width=int(width),
        big_endian=not str(fields.get("sample_byte_format", "01")).startswith("0"),
        checksum=checksum if type(checksum) is int and width == 2 else None,
    )


@dataclass(frozen=True)
class SphereReader:
    """An opened SPHERE file.

    Attributes:
        header: Its header.
        frames: Samples per channel.
        body: The content after the header.
    """

    header: SphereHeader
    frames: int
    body: FileSection

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz."""
        return self.header.sample_rate

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.header.channels

    def segment(self, start: int, n: int) -> None:
        """Return None; verifying the checksum requires all samples."""
        return None

    def blocks(self, name: str, notify: Callable[[str], object]) -> Iterator[np.ndarray]:
        """Yield all samples in order, float32 [channels, n].

        Args:
            name: Name for messages.
            notify: Receives a warning about samples that the header does not count.

        Raises:
            SpikeSepError: If the file is cut off, cannot be decoded, or has another checksum than
                its header states.
        """
        n = total = 0
        compressed = "," in self.header.coding
        for block in self._shorten_blocks(name) if compressed else self._raw_blocks(name, notify):
            block = block[:, : self.frames - n]
            n += block.shape[1]
            if self.header.checksum is not None:
                total += int(np.rint(block * 32768).sum(dtype=np.int64))
            yield block
        if n < self.frames:
            raise _cut_off(name, n, self.frames)
        if self.header.checksum is not None and (total - self.header.checksum) % 65536:
            raise SpikeSepError(
                f"{name}: its samples do not sum to the header's checksum; copy the file again"
            )

    def _raw_blocks(self, name: str, notify: Callable[[str], object]) -> Iterator[np.ndarray]:
        header = self.header
        subtype = SUBTYPES[header.coding, header.width]
        order = "BIG" if header.big_endian else "LITTLE"
        raw = open_raw(self.body, subtype, order, header.sample_rate, header.channels)
        excess = raw.frames - self.frames
        if excess >= MIN_TRAILING_AUDIO:
            notify(f"{name}: {excess} samples more than its header counts are ignored")
        yield from raw.blocks(name, notify)

    def _shorten_blocks(self, name: str) -> Iterator[np.ndarray]:
        """Yield float32 blocks of `pcm,embedded-shorten-v*`, as many as can be decoded.

        The decoder gets a generated SPHERE header, as discs differ in the names of codings.
        """
        import av  # slow to import, and seldom needed

        begun = False
        stream = _ConcatenatedFile(_shorten_header(self.header), self.body)
        try:
            with av.open(stream, "r", format="nistsphere") as file:
                for frame in file.decode(audio=0):
                    data = frame.to_ndarray()
                    data = data if frame.format.is_planar else data.reshape(-1, self.channels).T
                    yield data.astype(np.float32) / np.float32(32768)
                    begun = True
        except (av.FFmpegError, ValueError) as error:
            if not begun:
                raise SpikeSepError(
                    f"{name}: its Shorten compression cannot be decoded ({error}); "
                    "copy the file again, or convert all to wav with sph2pipe -p -f wav"
                ) from error


class _ConcatenatedFile:
    """A header followed by a file, readable by FFmpeg but not seekable."""

    def __init__(self, header: bytes, body: FileSection):
        self._header, self._body = header, body
        body.seek(0)

    def read(self, n: int) -> bytes:
        """Read up to n bytes."""
        if not self._header:
            return self._body.read(n)
        content, self._header = self._header[:n], self._header[n:]
        return content


def open_reader(file: FileSection, name: str) -> SphereReader:
    """Open a SPHERE file, which may be closed afterwards.

    Raises:
        SpikeSepError: If the header is invalid, or the file is shorter than it states.
    """
    header = read_header(file, name)
    size = file.seek(0, os.SEEK_END)
    present = max(0, size - header.size) // (header.width * header.channels)
    frames = present if header.samples is None else header.samples
    if "," not in header.coding and present < frames:
        raise _cut_off(name, present, frames)
    return SphereReader(header, frames, FileSection(file, header.size))


def _cut_off(name: str, present: int, counted: int) -> SpikeSepError:
    return SpikeSepError(
        f"{name}: cut off, {present} of {counted} samples are present; copy it again"
    )


def _shorten_header(header: SphereHeader) -> bytes:
    """Return a SPHERE header that FFmpeg recognizes as a Shorten stream."""
    coding = "pcm,embedded-shorten-v2.00"
    lines = [
        f"channel_count -i {header.channels}",
        f"sample_count -i {header.samples}",
        f"sample_rate -i {header.sample_rate}",
        "sample_n_bytes -i 2",
        "sample_sig_bits -i 16",
        f"sample_coding -s{len(coding)} {coding}",
        "end_head",
    ]
    return (MAGIC + b"   1024\n" + "\n".join(lines).encode() + b"\n").ljust(1024)
