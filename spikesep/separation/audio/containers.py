"""Where a container says that its sound lies, and how long it says the sound is.

A length in a header is a hint: recorders are killed before they write it, 32 bits of it wrap round past 4 GiB, and some
programs count it wrongly. What the file holds decides; it is refused only where bytes that the header counts are gone.
"""

import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.wav import is_open_ended

LEAST_SOUND = 2**12
"""Bytes behind the stated end from which on they are taken for more sound; fewer are padding or a tag."""
MOST_CHUNKS = 2**18
"""Chunks of a file that are looked at; a day in fragments of half a second has more, but states no length."""
COUNTED_IN = 128
"""Bytes of header that some programs count as samples."""
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
"""How tags begin that programs add to any file."""
ENDLESS = 2**62
"""A length in 64 bits from which on it stands for an end that is not known."""


@dataclass(frozen=True)
class Extent:
    """Where the samples of a recording lie in its file.

    Attributes:
        start: byte at which they begin.
        stop: byte behind the last one.
        doubt: why the length in the header is not believed; empty where it is.
        remark: what else deserves a word; empty where nothing does.
    """

    start: int
    stop: int
    doubt: str = ""
    remark: str = ""


class Section(io.RawIOBase):
    """Part of a file as a file of its own, without a name for libraries to judge it by.

    Args:
        file: on disk; may be closed meanwhile. Its position moves, so one section is read at a time.
        start: first byte.
        stop: the byte behind the last; None for the end of the file.
    """

    def __init__(self, file: IO[bytes] | "Section", start: int = 0, stop: int | None = None):
        self._descriptor = os.dup(file.fileno())
        self._start, self._position = start, 0
        self._stop = os.fstat(self._descriptor).st_size if stop is None else stop

    def readinto(self, memory) -> int:
        """Fill the memory as far as there are bytes; how many."""
        position = self._start + self._position
        os.lseek(self._descriptor, position, os.SEEK_SET)
        content = os.read(self._descriptor, min(len(memory), max(0, self._stop - position)))
        memory[: len(content)] = content
        self._position += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte of the part."""
        origin = (0, self._position, self._stop - self._start)[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        """The byte of the part that is read next."""
        return self._position

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """Of the whole file."""
        return self._descriptor

    def close(self) -> None:
        """Let go of the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


@dataclass(frozen=True)
class _Layout:
    """How a container is made of chunks: a name, a size and the content each."""

    first: int  # byte of the first chunk
    sound: bytes  # name of the chunk that holds the samples
    size: str = "<I"
    inside: int = 0  # bytes of that chunk before the samples
    align: int = 2
    counts_head: bool = False  # a chunk's size includes its name and size

    @property
    def head(self) -> int:
        return len(self.sound) + struct.calcsize(self.size)


WAVE64 = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
LAYOUTS = {
    rb"(RIFF|RF64|BW64).{4}WAVE": _Layout(12, b"data"),
    rb"RIFX.{4}WAVE": _Layout(12, b"data", ">I"),
    rb"FORM.{4}AIF[FC]": _Layout(12, b"SSND", ">I", inside=8),
    rb"FORM.{4}(8SVX|16SV)": _Layout(12, b"BODY", ">I"),
    rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb": _Layout(
        40, b"data" + WAVE64, "<Q", align=8, counts_head=True
    ),
    rb"caff\x00": _Layout(8, b"data", ">Q", inside=4, align=1),
}
SIGNATURES = re.compile(
    rb"RIF[FX]|RF64|BW64|riff|FORM|caff|\.snd|dns\.|fLaC|OggS|ID3|NIST_1A|\x1aE\xdf\xa3|#!AMR|wvpk|TTA[12]|MAC |FLV\x01"
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11|.{4}ftyp",
    re.DOTALL,
)
"""How a file begins that cannot be taken for samples without a header."""


def find_extent(file: IO[bytes], name: str) -> Extent | None:
    """Find the samples of a file; None where its format gives no place for them.

    Args:
        file: can be sought in; is left at its beginning.
        name: for messages.

    Raises:
        SpikeSepError: the file ends before its header says.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(128)
    try:
        if head[:4] in (b".snd", b"dns.") and len(head) >= 24:
            start, stated = struct.unpack(">II" if head[:1] == b"." else "<II", head[4:12])
            return _judge(file, name, None, start, stated, size)
        for magic, layout in LAYOUTS.items():
            if re.match(magic, head, re.DOTALL):
                place = _find_sound(file, layout, size)
                return place and _judge(file, name, layout, *place, size)
        end = _stated_end(file, head, size)
        if end is not None and end > size:
            raise _cut_off(name, size, end)
        return None
    finally:
        file.seek(0)


def _cut_off(name: str, size: int, stated: int) -> SpikeSepError:
    return SpikeSepError(
        f"{name}: cut off, {size} of {stated} bytes are there; make or copy it again"
    )


def _find_sound(file: IO[bytes], layout: _Layout, size: int) -> tuple[int, int] | None:
    """Start of the samples, and their bytes as stated; a size in 64 bits stands in a chunk before."""
    wide = 0
    for name, content, stated in _chunks(file, layout, layout.first, size):
        if name == b"ds64":
            file.seek(content + 8)
            wide = int.from_bytes(file.read(8), "little")
        if name == layout.sound:
            stated = wide if wide and stated == 2**32 - 1 else stated
            return content + layout.inside, max(0, stated - layout.inside)
    return None


def _chunks(
    file: IO[bytes], layout: _Layout, position: int, size: int
) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and stated size of each chunk, as long as they have printable names."""
    for _ in range(MOST_CHUNKS):
        if position + layout.head > size:
            return
        file.seek(position)
        name = file.read(len(layout.sound))
        (stated,) = struct.unpack(layout.size, file.read(struct.calcsize(layout.size)))
        if not (name[:4].isascii() and name[:4].decode().isprintable()):
            return
        stated = max(0, stated - layout.head) if layout.counts_head else stated
        yield name, position + layout.head, stated
        position += layout.head + stated + -stated % layout.align


def _judge(
    file: IO[bytes], name: str, layout: _Layout | None, start: int, stated: int, size: int
) -> Extent:
    """Where the samples end, given what the header states and what is there."""
    there, doubt = size - start, ""
    narrow = layout is None or struct.calcsize(layout.size) == 4
    if stated > there and (is_open_ended(stated) if stated < 2**32 else stated >= ENDLESS):
        return Extent(start, max(start, size))
    if narrow and there - stated >= 2**32:
        stated += (there - stated) >> 32 << 32
        doubt = "is longer than its header can say"
    if stated > there + min(start, COUNTED_IN):
        raise _cut_off(name, size, start + stated)
    behind = min(start + stated + (-stated % layout.align if layout else 0), size)
    rest = _behind_notes(file, layout, start + stated, behind, size)
    if stated == 0 and size - rest >= 8:
        return Extent(start, size, "was never finished, its header gives no length")
    if rest == behind and size - rest >= LEAST_SOUND:
        return Extent(start, size, f"has {size - rest} bytes more than its header says")
    remark = ""
    if size > rest:
        remark = f"{size - rest} bytes behind its sound are left out"
    elif layout and layout.first == 12:
        remark = _overstated(file, layout, size)
    return Extent(start, min(start + stated, size), doubt, remark)


def _behind_notes(
    file: IO[bytes], layout: _Layout | None, stop: int, padded: int, size: int
) -> int:
    """The byte behind the chunks or tags that follow the samples, which not all programs pad to an even length."""
    file.seek(padded)
    if file.read(8).startswith(TAGS):
        return size
    places = {padded, min(stop, size)} if layout else ()
    ends = [(place, _behind_chunks(file, layout, place, size)) for place in places]
    return max((end for place, end in ends if end > place), default=padded)


def _behind_chunks(file: IO[bytes], layout: _Layout, position: int, size: int) -> int:
    """The byte behind the last of the whole chunks from `position` on."""
    for _, content, stated in _chunks(file, layout, position, size):
        if content + stated > size:  # the last, cut off; samples rarely look like a name
            return content
        position = content + stated + -stated % layout.align
    return min(position, size)


def _overstated(file: IO[bytes], layout: _Layout, size: int) -> str:
    """A word on a header that counts more bytes than there are, behind sound that is whole."""
    file.seek(4)
    stated = 8 + struct.unpack(layout.size, file.read(4))[0]
    if stated <= size + 8 or is_open_ended(stated - 8):  # some count the header twice
        return ""
    return f"states {stated} bytes where {size} are there; its sound is whole"


# --- containers of compressed sound: as a whole they are as long as they say, or cut off ---------


def _stated_end(file: IO[bytes], head: bytes, size: int) -> int | None:
    """The byte behind the last one that a header counts; None where it counts none."""
    if head[:4] == b"RIFF":
        stated = int.from_bytes(head[4:8], "little")
        return None if is_open_ended(stated) else stated + 8
    if head[:4] == b"\x1aE\xdf\xa3":
        return _matroska_end(head)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _mp4_end(file, size)
    if head[:8] == b"\x30\x26\xb2\x75\x8e\x66\xcf\x11":
        file.seek(0)
        return _asf_end(file.read(2**16))
    return None


def _matroska_end(head: bytes) -> int | None:
    """Of the one segment behind the EBML header."""
    try:
        length, at = _vint(head, 4)
        if length is None or head[at + length : at + length + 4] != b"\x18\x53\x80\x67":
            return None
        length, at = _vint(head, at + length + 4)
    except IndexError:
        return None
    return None if length is None else at + length


def _vint(content: bytes, at: int) -> tuple[int | None, int]:
    """A number of variable size at `at`, None if it stands for an unknown size; and the byte behind it."""
    width = 9 - content[at].bit_length()
    value = int.from_bytes(content[at : at + width], "big") & (1 << 7 * width) - 1
    return (None if value == (1 << 7 * width) - 1 else value), at + width


def _mp4_end(file: IO[bytes], size: int) -> int | None:
    """Of the last box, if it is one that sound depends on."""
    position = 0
    for _ in range(MOST_CHUNKS):
        if position + 8 > size:
            break
        file.seek(position)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8 or (position + length > size and kind not in (b"moov", b"mdat", b"moof")):
            return None
        position += length
    return position


def _asf_end(head: bytes) -> int | None:
    """As the file properties give it, unless they are those of a broadcast."""
    at = head.find(b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65")
    if at < 0 or len(head) < at + 92 or head[at + 88] & 1:
        return None
    return int.from_bytes(head[at + 40 : at + 48], "little") or None
