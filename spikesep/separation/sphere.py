"""NIST SPHERE, the format of LDC's older corpora, shortened or not. The header says how many samples there must be
and what they must sum to, so that a damaged file is found out; FFmpeg's decoder (PyAV) undoes the Shorten compression.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError

MAGIC = b"NIST_1A\n"


@dataclass(frozen=True)
class SphereHeader:
    """What the header says: its length in bytes, channels, samples of a channel, Hz, how samples are stored, their
    sum."""

    size: int
    channels: int
    samples: int
    sample_rate: int
    coding: str
    big_endian: bool
    checksum: int | None


def is_sphere(path: Path) -> bool:
    """Whether a file begins like NIST SPHERE, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> SphereHeader:
    """Read the header alone.

    Raises:
        SpikeSepError: it is cut short, lacks a field, or tells of samples that are not 16-bit.
    """
    with path.open("rb") as file:
        try:
            size = int(file.read(16)[8:])
            text = file.read(size - 16).decode("ascii", "replace")
        except ValueError as error:
            raise SpikeSepError(f"{path}: no whole SPHERE header; copy the file again") from error
    fields = {}
    for line in text.splitlines():
        if line.strip() == "end_head":
            break
        name, kind, value = [*line.split(None, 2), "", "", ""][:3]
        fields[name] = int(value) if kind == "-i" and value.lstrip("-").isdigit() else value.strip()
    else:
        raise SpikeSepError(f"{path}: the SPHERE header has no end; copy the file again")
    coding = str(fields.get("sample_coding", "pcm"))
    width = fields.get("sample_n_bytes", 2)
    if width != 2 or coding.split(",")[0] != "pcm":
        raise SpikeSepError(f"{path}: SPHERE of {coding} in {width} bytes; 16-bit pcm, shortened or not, can be read")
    numbers = {"channel_count": fields.get("channel_count", 1)}
    numbers |= {name: fields.get(name) for name in ("sample_count", "sample_rate")}
    for name, value in numbers.items():
        if type(value) is not int or value < (name != "sample_count"):
            raise SpikeSepError(f"{path}: the SPHERE header gives no sound {name}; copy the file again")
    checksum = fields.get("sample_checksum")
    return SphereHeader(
        max(size, 0), *numbers.values(), coding, fields.get("sample_byte_format", "01") == "10",
        checksum if type(checksum) is int else None,
    )  # fmt: skip


def read_sphere(path: Path) -> tuple[np.ndarray, int]:
    """All samples, int16 [channels, samples], and the sample rate in Hz.

    Raises:
        SpikeSepError: the file is cut short, its samples do not sum to the header's checksum, or it cannot be decoded.
    """
    header = read_header(path)
    if header.coding == "pcm":
        content = path.read_bytes()[header.size :]
        stored = np.frombuffer(content[: len(content) // 2 * 2], ">i2" if header.big_endian else "<i2")
        samples = stored[: header.samples * header.channels].astype(np.int16)
    else:
        samples = _unshorten(path, header)
    if len(samples) < header.samples * header.channels:
        raise SpikeSepError(
            f"{path}: cut off, {len(samples) // header.channels} of {header.samples} samples are there; copy it again"
        )
    if header.checksum is not None and int(samples.sum(dtype=np.int64)) % 65536 != header.checksum % 65536:
        raise SpikeSepError(f"{path}: its samples do not sum to the header's checksum; copy the file again")
    return samples.reshape(-1, header.channels).T, header.sample_rate


def _unshorten(path: Path, header: SphereHeader) -> np.ndarray:
    """Interleaved int16 samples of `pcm,embedded-shorten-v*`, as many as can be decoded.

    The stream is handed to the decoder without its SPHERE header, whose coding names differ from disc to disc.
    """
    import av  # by few users, and slow to load

    stream = path.read_bytes()[header.size :]
    pieces = []
    try:
        with av.open(io.BytesIO(_as_plain_sphere(header) + stream), format="nistsphere") as container:
            for frame in container.decode(audio=0):
                data = frame.to_ndarray()
                pieces.append(data.T.ravel() if frame.format.is_planar else data.ravel())
    except (av.FFmpegError, ValueError) as error:
        if not pieces:
            raise SpikeSepError(
                f"{path}: its Shorten compression cannot be undone ({error}); copy the file again, "
                "or convert all to wav with sph2pipe -p -f wav"
            ) from error
    samples = np.concatenate(pieces) if pieces else np.empty(0, np.int16)
    return samples[: header.samples * header.channels].astype(np.int16)


def _as_plain_sphere(header: SphereHeader) -> bytes:
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
