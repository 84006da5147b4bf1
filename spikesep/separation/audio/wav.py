"""RIFF WAVE streams of unknown length and files past 4 GiB, which libsndfile does not handle."""

import struct
import sys
from collections.abc import Iterator
from io import BufferedReader
from typing import BinaryIO

import numpy as np

from spikesep.errors import SpikeSepError

UNKNOWN_LENGTH = 2**32 - 1
"""Value of a length field that lasts until the end of the stream."""
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
"""Format codes."""
REMEDY = "give wav of 16, 24 or 32 bits, as ffmpeg -f wav - and arecord make it, or --raw RATE"


def wav_header(sample_rate: int, n_samples: int | None, channels: int = 1) -> bytes:
    """Return the header of interleaved 16-bit samples; RF64 if they exceed 4 GiB.

    Args:
        sample_rate: In Hz.
        n_samples: Samples per channel; None for a stream of unknown length.
        channels: Number of channels.
    """
    frame = 2 * channels
    form = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, PCM, channels, sample_rate, frame * sample_rate, frame, 16
    )
    size = UNKNOWN_LENGTH if n_samples is None else frame * n_samples
    if n_samples is None or size + 36 < UNKNOWN_LENGTH:
        riff_size = min(size + 36, UNKNOWN_LENGTH)
        riff = struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE")
        return riff + form + struct.pack("<4sI", b"data", size)
    riff = struct.pack("<4sI4s", b"RF64", UNKNOWN_LENGTH, b"WAVE")
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, size + 72, size, n_samples, 0)
    return riff + sizes + form + struct.pack("<4sI", b"data", UNKNOWN_LENGTH)


def is_open_ended(size: int) -> bool:
    """Return whether a size field means that the length is unknown.

    Besides 0, sox and arecord write values near 2 and 4 GiB.
    """
    return size == 0 or 2**31 - 2**12 <= size <= 2**31 + 2**8 or size >= UNKNOWN_LENGTH - 2**12


def read_wav_header(file: BinaryIO) -> tuple[int, int, str, int | None]:
    """Read a wav stream up to its samples.

    Returns:
        Sample rate in Hz, number of channels, sample type and number of bytes, the last two as
        `read_samples` takes them.

    Raises:
        SpikeSepError: If the stream is not wav of PCM or float samples.
    """
    riff = _read_exactly(file, 12)
    if riff[:4] not in (b"RIFF", b"RF64") or riff[8:] != b"WAVE":
        raise SpikeSepError(f"standard input: no wav stream; {REMEDY}")
    form, size = b"", 0
    while len(chunk := _read_exactly(file, 8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        content = _read_exactly(file, min(size + size % 2, 2**16))
        form = content if name == b"fmt " else form
        left = size + size % 2 - len(content)
        while left and (piece := file.read(min(left, 2**16))):
            left -= len(piece)
    if len(chunk) < 8 or len(form) < 16:
        raise SpikeSepError(f"standard input: ends within the header of a wav stream; {REMEDY}")
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", form[:16])
    code = int.from_bytes(form[24:26], "little") if code == EXTENSIBLE else code
    kinds = {(PCM, 16): "<i2", (PCM, 24): "<i3", (PCM, 32): "<i4", (FLOAT, 32): "<f4"}
    kind = kinds.get((code, bits))
    if kind is None or not channels:
        raise SpikeSepError(f"standard input: wav of format {code}, {bits} bits; {REMEDY}")
    return rate, channels, kind, None if is_open_ended(size) else size


def read_samples(
    file: BufferedReader, channels: int, kind: str, size: int | None
) -> Iterator[np.ndarray]:
    """Yield the samples of a stream as they arrive, float32 [channels, n] with full scale at 1.

    Args:
        file: Read with `read1`, which returns what is available instead of waiting for more.
        channels: Number of interleaved channels.
        kind: Sample type: `<i2`, `<i3` (three bytes), `<i4` or `<f4`.
        size: Number of bytes, after which the stream holds no samples; None for all.
    """
    width = int(kind[2])
    frame, rest = width * channels, b""
    left = sys.maxsize if size is None else size
    while left and (piece := file.read1(min(2**16, left))):
        left -= len(piece)
        rest += piece
        whole = len(rest) // frame * frame
        yield _decode(rest[:whole], kind).reshape(-1, channels).T
        rest = rest[whole:]


def _decode(content: bytes, kind: str) -> np.ndarray:
    if kind == "<f4":
        return np.frombuffer(content, kind)
    if kind == "<i3":  # widened by a low byte of zero
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        content, kind = wide.tobytes(), "<i4"
    numbers = np.frombuffer(content, kind)
    return (numbers / 2.0 ** (8 * numbers.itemsize - 1)).astype(np.float32)


def _read_exactly(file: BinaryIO, n: int) -> bytes:
    """Read n bytes, or fewer at the end of the stream."""
    content = b""
    while len(content) < n and (piece := file.read(n - len(content))):
        content += piece
    return content
