"""Location and stated length of the samples in container formats.

The length in a header is a hint. Recorders are killed before they write it, 32-bit fields wrap
around past 4 GiB, and some programs count it wrongly. The content of the file decides. A file is
rejected only if bytes that its header counts are missing.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.file_section import BinaryFile
from spikesep.separation.audio.wav import is_open_ended

MIN_TRAILING_AUDIO = 2**12
"""Bytes past the stated end that are taken for more audio; fewer are padding or a tag."""
MAX_CHUNKS = 2**18
"""Chunks of a file that are examined."""
MAX_HEADER_EXCESS = 128
"""Bytes of header that some programs count as samples."""
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
"""First bytes of tags that programs append to any file."""
UNKNOWN_LENGTH_64 = 2**62
"""Value from which on a 64-bit length means that the length is unknown."""


@dataclass(frozen=True)
class Extent:
    """Byte range of the samples of a recording in its file.

    Attributes:
        start: First byte.
        stop: Byte after the last one.
        length_fault: Why the length in the header is not trusted; empty if it is.
        note: Another remark for the user, or empty.
    """

    start: int
    stop: int
    length_fault: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Layout:
    """Structure of a chunked container, in which each chunk has a name, a size and content."""

    first: int  # offset of the first chunk
    data_name: bytes  # name of the chunk that holds the samples
    size_format: str = "<I"
    data_offset: int = 0  # bytes of that chunk before the samples
    align: int = 2
    size_includes_head: bool = False  # a chunk's size counts its name and size fields

    @property
    def head(self) -> int:
        return len(self.data_name) + struct.calcsize(self.size_format)


WAVE64 = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
LAYOUTS = {
    rb"(RIFF|RF64|BW64).{4}WAVE": _Layout(12, b"data"),
    rb"RIFX.{4}WAVE": _Layout(12, b"data", ">I"),
    rb"FORM.{4}AIF[FC]": _Layout(12, b"SSND", ">I", data_offset=8),
    rb"FORM.{4}(8SVX|16SV)": _Layout(12, b"BODY", ">I"),
    rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb": _Layout(
        40, b"data" + WAVE64, "<Q", align=8, size_includes_head=True
    ),
    rb"caff\x00": _Layout(8, b"data", ">Q", data_offset=4, align=1),
}
SIGNATURES = re.compile(
    rb"RIF[FX]|RF64|BW64|riff|FORM|caff|\.snd|dns\.|fLaC|OggS|ID3|NIST_1A|\x1aE\xdf\xa3|#!AMR|wvpk"
    rb"|TTA[12]|MAC |FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11|.{4}ftyp",
    re.DOTALL,
)
"""First bytes of files that cannot be samples without a header."""


def find_extent(file: BinaryFile, name: str) -> Extent | None:
    """Locate the samples of a file, or return None if its format does not tell.

    Args:
        file: Seekable file, which is left at its beginning.
        name: Name for messages.

    Raises:
        SpikeSepError: If the file is shorter than its header says.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(128)
    try:
        if head[:4] in (b".snd", b"dns.") and len(head) >= 24:
            start, stated = struct.unpack(">II" if head[:1] == b"." else "<II", head[4:12])
            return _ExtentJudge(file, name, None, size).judge(start, stated)
        for magic, layout in LAYOUTS.items():
            if re.match(magic, head, re.DOTALL):
                location = _find_data(file, layout, size)
                return location and _ExtentJudge(file, name, layout, size).judge(*location)
        end = _stated_end(file, head, size)
        if end is not None and end > size:
            raise _cut_off(name, size, end)
        return None
    finally:
        file.seek(0)


def _cut_off(name: str, size: int, stated: int) -> SpikeSepError:
    return SpikeSepError(
        f"{name}: cut off, {size} of {stated} bytes are present; make or copy it again"
    )


def _find_data(file: BinaryFile, layout: _Layout, size: int) -> tuple[int, int] | None:
    """Return the offset of the samples and their stated size in bytes.

    A 64-bit size stands in a `ds64` chunk before the samples.
    """
    wide = 0
    for name, content, stated in _chunks(file, layout, layout.first, size):
        if name == b"ds64":
            file.seek(content + 8)
            wide = int.from_bytes(file.read(8), "little")
        if name == layout.data_name:
            stated = wide if wide and stated == 2**32 - 1 else stated
            return content + layout.data_offset, max(0, stated - layout.data_offset)
    return None


def _chunks(
    file: BinaryFile, layout: _Layout, position: int, size: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, content offset and stated size of chunks until a name is not printable."""
    for _ in range(MAX_CHUNKS):
        if position + layout.head > size:
            return
        file.seek(position)
        name = file.read(len(layout.data_name))
        size_field = file.read(struct.calcsize(layout.size_format))
        (stated,) = struct.unpack(layout.size_format, size_field)
        if not (name[:4].isascii() and name[:4].decode().isprintable()):
            return
        stated = max(0, stated - layout.head) if layout.size_includes_head else stated
        yield name, position + layout.head, stated
        position += layout.head + stated + -stated % layout.align


@dataclass(frozen=True)
class _ExtentJudge:
    """Decides where samples end, given what the header states and what the file holds.

    Attributes:
        file: The file.
        name: Its name for messages.
        layout: Structure of its chunks; None for the AU format, which has none.
        size: Its size in bytes.
    """

    file: BinaryFile
    name: str
    layout: _Layout | None
    size: int

    def judge(self, start: int, stated: int) -> Extent:
        """Return the extent of samples at offset `start` with a stated size in bytes.

        Raises:
            SpikeSepError: If bytes that the header counts are missing.
        """
        present, fault = self.size - start, ""
        if stated > present and self._means_unknown(stated):
            return Extent(start, max(start, self.size))
        narrow = self.layout is None or struct.calcsize(self.layout.size_format) == 4
        if narrow and present - stated >= 2**32:
            stated += (present - stated) >> 32 << 32
            fault = "is longer than its header can say"
        if stated > present + min(start, MAX_HEADER_EXCESS):
            raise _cut_off(self.name, self.size, start + stated)
        padding = -stated % self.layout.align if self.layout else 0
        padded_end = min(start + stated + padding, self.size)
        rest = self._end_of_metadata(start + stated, padded_end)
        if stated == 0 and self.size - rest >= 8:
            return Extent(start, self.size, "was never finished, its header gives no length")
        if rest == padded_end and self.size - rest >= MIN_TRAILING_AUDIO:
            fault = f"has {self.size - rest} bytes more than its header says"
            return Extent(start, self.size, fault)
        note = ""
        if self.size > rest:
            note = f"{self.size - rest} bytes after its audio are ignored"
        elif self.layout and self.layout.first == 12:
            note = self._overstatement(self.layout)
        return Extent(start, min(start + stated, self.size), fault, note)

    @staticmethod
    def _means_unknown(stated: int) -> bool:
        return is_open_ended(stated) if stated < 2**32 else stated >= UNKNOWN_LENGTH_64

    def _end_of_metadata(self, stop: int, padded: int) -> int:
        """Return the byte after the chunks or tags that follow the samples.

        Not all programs pad the samples to an even length, so chunks are looked for at the
        unpadded end `stop` too.
        """
        self.file.seek(padded)
        if self.file.read(8).startswith(TAGS):
            return self.size
        starts = {padded, min(stop, self.size)} if self.layout else set()
        ends = [(start, self._end_of_chunks(start)) for start in starts]
        return max((end for start, end in ends if end > start), default=padded)

    def _end_of_chunks(self, position: int) -> int:
        """Return the byte after the last complete chunk from `position` on."""
        assert self.layout is not None
        for _, content, stated in _chunks(self.file, self.layout, position, self.size):
            if content + stated > self.size:  # the last one, cut off; samples rarely form a name
                return content
            position = content + stated + -stated % self.layout.align
        return min(position, self.size)

    def _overstatement(self, layout: _Layout) -> str:
        """Describe a RIFF size that exceeds the file although the samples are complete."""
        self.file.seek(4)
        stated = 8 + struct.unpack(layout.size_format, self.file.read(4))[0]
        if stated <= self.size + 8 or is_open_ended(stated - 8):  # some count the header twice
            return ""
        return f"states {stated} bytes where {self.size} are present; its audio is complete"


# --- containers of compressed audio: either as long as they state, or cut off -------------------


def _stated_end(file: BinaryFile, head: bytes, size: int) -> int | None:
    """Return the file size that the header states, or None if it states none."""
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
    """Return the end of the segment that follows the EBML header."""
    try:
        length, at = _vint(head, 4)
        if length is None or head[at + length : at + length + 4] != b"\x18\x53\x80\x67":
            return None
        length, at = _vint(head, at + length + 4)
    except IndexError:
        return None
    return None if length is None else at + length


def _vint(content: bytes, at: int) -> tuple[int | None, int]:
    """Decode an EBML variable-size integer.

    Returns:
        The value, None if it means an unknown size, and the offset of the byte after it.
    """
    width = 9 - content[at].bit_length()
    value = int.from_bytes(content[at : at + width], "big") & (1 << 7 * width) - 1
    return (None if value == (1 << 7 * width) - 1 else value), at + width


def _mp4_end(file: BinaryFile, size: int) -> int | None:
    """Return the end of the last box, or None if that box is cut off and holds no audio."""
    position = 0
    for _ in range(MAX_CHUNKS):
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
    """Return the file size in the file properties object, or None for a broadcast."""
    at = head.find(b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65")
    if at < 0 or len(head) < at + 92 or head[at + 88] & 1:
        return None
    return int.from_bytes(head[at + 40 : at + 48], "little") or None
