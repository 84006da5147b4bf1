"""RIFF WAVE by hand, for what libsndfile does not do: streams whose end is not known, and lengths past 4 GiB."""

import math
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from spikesep.errors import SpikeSepError

UNKNOWN = 2**32 - 1
"""As a length: it ends where the stream ends."""
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def wav_header(sample_rate: int, n_samples: int | None, channels: int = 1) -> bytes:
    """What stands before 16-bit samples; RF64 where there are more than 4 GiB of them.

    Args:
        sample_rate: Hz.
        n_samples: of a channel; None for a stream that goes on until it ends.
        channels: interleaved behind the header.
    """
    frame = 2 * channels
    form = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, PCM, channels, sample_rate, frame * sample_rate, frame, 16
    )
    size = UNKNOWN if n_samples is None else frame * n_samples
    if n_samples is None or size + 36 < UNKNOWN:
        whole = min(size + 36, UNKNOWN)
        return (
            struct.pack("<4sI4s", b"RIFF", whole, b"WAVE")
            + form
            + struct.pack("<4sI", b"data", size)
        )
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, size + 72, size, n_samples, 0)
    return (
        struct.pack("<4sI4s", b"RF64", UNKNOWN, b"WAVE")
        + sizes
        + form
        + struct.pack("<4sI", b"data", UNKNOWN)
    )


def is_open_ended(size: int) -> bool:
    """Whether a size in a header stands for an end that is not known: 0, or about 2 or 4 GiB (sox and arecord write
    such)."""
    return size == 0 or 2**31 - 2**12 <= size <= 2**31 + 2**8 or size >= UNKNOWN - 2**12


def read_wav_header(file: BinaryIO) -> tuple[int, int, str, int | None]:
    """Read a stream up to its samples: sample rate in Hz, channels, what samples are, and how many bytes of them (see
    `read_samples`).

    Raises:
        SpikeSepError: it is not a wav stream of PCM or float samples.
    """
    remedy = "give wav of 16, 24 or 32 bits, as ffmpeg -f wav - and arecord make it, or --raw RATE"
    riff = _exactly(file, 12)
    if riff[:4] not in (b"RIFF", b"RF64") or riff[8:] != b"WAVE":
        raise SpikeSepError(f"standard input: no wav stream; {remedy}")
    form = b""
    while len(chunk := _exactly(file, 8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        content = _exactly(file, min(size + size % 2, 2**16))
        form = content if name == b"fmt " else form
        left = size + size % 2 - len(content)
        while left and (piece := file.read(min(left, 2**16))):
            left -= len(piece)
    if len(chunk) < 8 or len(form) < 16:
        raise SpikeSepError(f"standard input: ends within the header of a wav stream; {remedy}")
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", form[:16])
    code = int.from_bytes(form[24:26], "little") if code == EXTENSIBLE else code
    kind = {(PCM, 16): "<i2", (PCM, 24): "<i3", (PCM, 32): "<i4", (FLOAT, 32): "<f4"}.get(
        (code, bits)
    )
    if kind is None or not channels:
        raise SpikeSepError(f"standard input: wav of format {code}, {bits} bits; {remedy}")
    return rate, channels, kind, None if is_open_ended(size) else size


def read_samples(
    file: BinaryIO, channels: int, kind: str, size: int | None
) -> Iterator[np.ndarray]:
    """The samples of a stream as they come, float32 [channels, n] with full scale at 1.

    Args:
        file: read with `read1`, so that nothing waits for more than is there.
        channels: interleaved.
        kind: `<i2`, `<i3` (three bytes), `<i4` or `<f4`.
        size: bytes, behind which stands what is no sound; None for all that come.
    """
    width = int(kind[2])
    frame, rest = width * channels, b""
    left = math.inf if size is None else size
    while left and (piece := file.read1(min(2**16, left))):
        left -= len(piece)
        rest += piece
        whole = len(rest) // frame * frame
        yield _decoded(rest[:whole], kind).reshape(-1, channels).T
        rest = rest[whole:]


def _decoded(content: bytes, kind: str) -> np.ndarray:
    if kind == "<f4":
        return np.frombuffer(content, kind)
    if kind == "<i3":  # widened by a low byte of zero
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        content, kind = wide.tobytes(), "<i4"
    numbers = np.frombuffer(content, kind)
    return (numbers / 2.0 ** (8 * numbers.itemsize - 1)).astype(np.float32)


def _exactly(file: BinaryIO, n: int) -> bytes:
    """The next n bytes; fewer at the end."""
    content = b""
    while len(content) < n and (piece := file.read(n - len(content))):
        content += piece
    return content
