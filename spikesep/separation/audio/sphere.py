"""NIST SPHERE, the format of LDC's older corpora, shortened or not.

The header says how many samples there must be and what they must sum to, so that a damaged file is
found out. FFmpeg's decoder (PyAV) undoes the Shorten compression.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.containers import LEAST_SOUND, Section
from spikesep.separation.audio.sndfile import open_bare

MAGIC = b"NIST_1A\n"
MOST_HEADER, MOST_CHANNELS = 2**20, 1024
"""Bytes; channels that libsndfile takes."""
CODINGS = {("pcm", 2): "PCM_16", ("pcm", 3): "PCM_24", ("pcm", 4): "PCM_32"}
CODINGS |= {(name, 1): "ULAW" for name in ("ulaw", "mu-law")}
CODINGS |= {(name, 1): "ALAW" for name in ("alaw", "a-law")}
"""Codings and bytes of a sample that are read, as libsndfile calls them."""


@dataclass(frozen=True)
class SphereHeader:
    """What the header says.

    Attributes:
        size: of the header, bytes.
        channels: interleaved.
        samples: of a channel; None where it does not count them.
        sample_rate: Hz.
        coding: of the samples.
        width: bytes of a sample.
        big_endian: the high byte of a sample comes first.
        checksum: what all samples sum to, modulo 65536, where it is given.
    """

    size: int
    channels: int
    samples: int | None
    sample_rate: int
    coding: str
    width: int
    big_endian: bool
    checksum: int | None


def is_sphere(file: Section) -> bool:
    """Whether a file begins like NIST SPHERE, whatever its name; it is left at its beginning."""
    file.seek(0)
    magic = file.read(len(MAGIC))
    file.seek(0)
    return magic == MAGIC


def read_header(file: Section, name: str) -> SphereHeader:
    """Read the header of a file that is at its beginning.

    Raises:
        SpikeSepError: it is cut short, lacks a field, or tells of samples that cannot be read.
    """
    try:
        size = max(16, int(file.read(16)[8:]))
        text = file.read(min(size, MOST_HEADER) - 16).decode("ascii", "replace")
    except ValueError as error:
        raise SpikeSepError(f"{name}: no whole SPHERE header; copy the file again") from error
    fields = {}
    for line in text.splitlines():
        if line.strip() == "end_head":
            break
        key, kind, value = [*line.split(None, 2), "", "", ""][:3]
        number = kind == "-i" and value.lstrip("-").isdigit()
        fields[key] = int(value) if number else value.strip()
    else:
        raise SpikeSepError(f"{name}: the SPHERE header has no end; copy the file again")
    return _as_header(name, size, fields)


def _as_header(name: str, size: int, fields: dict[str, int | str]) -> SphereHeader:
    coding = str(fields.get("sample_coding", "pcm"))
    base, _, compression = coding.partition(",")
    width = fields.get("sample_n_bytes", 1 if "law" in base else 2)
    if (base, width) not in CODINGS or (compression and (base, width) != ("pcm", 2)):
        raise SpikeSepError(
            f"{name}: SPHERE of {coding} in {width} bytes; make wav of it with sph2pipe -p -f wav"
        )
    bounds = {
        "channel_count": (1, MOST_CHANNELS),
        "sample_rate": (1, 2**31),
        "sample_count": (0, 2**62),
    }
    fields = {"channel_count": 1, **fields}
    if not compression:
        fields.setdefault("sample_count", None)
    for key, (least, most) in bounds.items():
        value = fields.get(key, "")
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise SpikeSepError(
                f"{name}: the SPHERE header gives no sound {key}; copy the file again"
            )
    checksum = fields.get("sample_checksum")
    return SphereHeader(
        size=size,
        channels=fields["channel_count"],
        samples=fields["sample_count"],
        sample_rate=fields["sample_rate"],
        coding=coding,
        width=width,
        big_endian=not str(fields.get("sample_byte_format", "01")).startswith("0"),
        checksum=checksum if type(checksum) is int and width == 2 else None,
    )


@dataclass(frozen=True)
class Reading:
    """A SPHERE file that has been opened.

    Attributes:
        header: what it says.
        frames: samples of a channel.
        sound: what stands behind the header.
    """

    header: SphereHeader
    frames: int
    sound: Section

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.header.sample_rate

    @property
    def channels(self) -> int:
        """How many."""
        return self.header.channels

    def part(self, start: int, n: int) -> None:
        """None: the checksum is that of all samples."""
        return None

    def blocks(self, name: str, tell: Callable[[str], object]) -> Iterator[np.ndarray]:
        """All samples in order, float32 [channels, n].

        Raises:
            SpikeSepError: the file is cut short, its samples do not sum to the header's checksum, or it
                cannot be decoded.
        """
        n = total = 0
        packed = "," in self.header.coding
        for block in self._unshortened(name) if packed else self._plain(name, tell):
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

    def _plain(self, name: str, tell: Callable[[str], object]) -> Iterator[np.ndarray]:
        header = self.header
        subtype = CODINGS[header.coding, header.width]
        order = "BIG" if header.big_endian else "LITTLE"
        bare = open_bare(self.sound, subtype, order, header.sample_rate, header.channels)
        if bare.frames - self.frames >= LEAST_SOUND:
            left_out = bare.frames - self.frames
            tell(f"{name}: {left_out} samples more than its header counts are left out")
        yield from bare.blocks(name, tell)

    def _unshortened(self, name: str) -> Iterator[np.ndarray]:
        """Float32 blocks of `pcm,embedded-shorten-v*`, as many as can be decoded.

        The decoder gets a SPHERE header of ours, for codings are named differently from disc to disc.
        """
        import av  # slow to load, and seldom needed

        begun = False
        try:
            with av.open(
                _Joined(_plain_header(self.header), self.sound), format="nistsphere"
            ) as file:
                for frame in file.decode(audio=0):
                    data = frame.to_ndarray()
                    data = data if frame.format.is_planar else data.reshape(-1, self.channels).T
                    yield data.astype(np.float32) / np.float32(32768)
                    begun = True
        except (av.FFmpegError, ValueError) as error:
            if not begun:
                raise SpikeSepError(
                    f"{name}: its Shorten compression cannot be undone ({error}); copy the file again, "
                    "or convert all to wav with sph2pipe -p -f wav"
                ) from error


class _Joined:
    """A header and what follows it, as FFmpeg reads a file of Python that it cannot seek in."""

    def __init__(self, header: bytes, sound: Section):
        self._header, self._sound = header, sound
        sound.seek(0)

    def read(self, n: int) -> bytes:
        """Up to n bytes that come next."""
        if not self._header:
            return self._sound.read(n)
        content, self._header = self._header[:n], self._header[n:]
        return content


def open_reading(file: Section, name: str) -> Reading:
    """Open a SPHERE file; it may be closed afterwards.

    Raises:
        SpikeSepError: its header is faulty, or the file is shorter than it says.
    """
    header = read_header(file, name)
    size = file.seek(0, os.SEEK_END)
    frames = header.samples
    if "," not in header.coding:
        there = max(0, size - header.size) // (header.width * header.channels)
        frames = there if frames is None else frames
        if there < frames:
            raise _cut_off(name, there, frames)
    return Reading(header, frames, Section(file, header.size))


def _cut_off(name: str, there: int, counted: int) -> SpikeSepError:
    return SpikeSepError(f"{name}: cut off, {there} of {counted} samples are there; copy it again")


def _plain_header(header: SphereHeader) -> bytes:
    """A SPHERE header that FFmpeg knows as a Shorten stream."""
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
