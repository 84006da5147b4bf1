"""Uploads of a server: read, measured and separated on disk, in memory of constant size."""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import AudioStream, check_samples, open_audio, to_pcm16
from spikesep.separation.audio.wav import wav_header
from spikesep.separation.inference.recordings import Separation, separate_sound
from spikesep.separation.inference.separate import Model

SAMPLES_PER_SECOND = 96_000
"""Samples of all channels together that each permitted second may hold: two channels at 48 kHz."""
PIECE = 2**16
"""Samples that are handed on at once."""
GSM_RATE = 8000
"""Hz, of bare GSM 06.10 frames."""


@dataclass(frozen=True)
class Limits:
    """The largest upload that is taken.

    Attributes:
        megabytes: size of the file in 10^6 bytes.
        seconds: length of the sound. It also bounds the samples of all channels, to
            `SAMPLES_PER_SECOND` for each second.
    """

    megabytes: float
    seconds: float

    @property
    def n_bytes(self) -> int:
        """The largest file, in bytes."""
        return int(self.megabytes * 1e6)

    def check_size(self, name: str, n_bytes: int) -> None:
        """Raise SpikeSepError for a file of more than `n_bytes` bytes."""
        if n_bytes > self.n_bytes:
            raise SpikeSepError(
                f"{name} has {n_bytes / 1e6:.1f} MB and {self.megabytes:g} MB is the most taken here; "
                f"start spikesep-serve with --max-megabytes {math.ceil(n_bytes / 1e6)}, "
                "or use spikesep-infer"
            )

    def check_length(self, name: str, sound: AudioStream, n_samples: int) -> None:
        """Raise SpikeSepError if `n_samples` of each channel are more than may be read."""
        if n_samples > self.seconds * sound.sample_rate:
            reason = f"lasts longer than {self.seconds:g} s"
        elif n_samples * sound.channels > self.seconds * SAMPLES_PER_SECOND:
            reason = (
                f"holds more than {self.seconds * SAMPLES_PER_SECOND:,.0f} samples "
                f"({sound.sample_rate} Hz, channels: {sound.channels})"
            )
        else:
            return
        raise SpikeSepError(
            f"{name}: {reason}, the most taken here; start spikesep-serve with a larger "
            "--max-seconds, or use spikesep-infer"
        )


@dataclass(frozen=True)
class Recording:
    """An upload that has been read to its end.

    Attributes:
        name: to show.
        sample_rate: Hz.
        channels: number of channels, which are averaged.
        n_samples: of each channel.
        peak: largest magnitude of the average.
        file: the average, float32.
    """

    name: str
    sample_rate: int
    channels: int
    n_samples: int
    peak: float
    file: BinaryIO

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate

    def blocks(self, size: int = PIECE) -> Iterator[np.ndarray]:
        """The samples from the beginning, float32 [n] with n <= `size`."""
        self.file.seek(0)
        while content := self.file.read(4 * size):
            yield np.frombuffer(content, np.float32)

    def pcm_blocks(self) -> Iterator[bytes]:
        """A wav file of 16 bits, within full scale."""
        yield wav_header(self.sample_rate, self.n_samples)
        scale = np.float32(max(1.0, self.peak))
        for block in self.blocks():
            yield to_pcm16(block / scale).astype("<i2").tobytes()


def read_upload(
    file: BinaryIO,
    name: str,
    limits: Limits,
    averaged: BinaryIO,
    on_block: Callable[[], None] = lambda: None,
) -> Recording:
    """Read an upload to its end, and average its channels.

    Samples are counted as they are decoded: the header is the sender's word.

    Args:
        file: the upload; has a descriptor.
        name: of the upload, as messages show it.
        limits: the largest that is taken.
        averaged: takes the average of the channels; empty.
        on_block: called before each block; may raise.

    Raises:
        SpikeSepError: the upload is no recording, is damaged, or exceeds the limits.
    """
    path = Path(f"/dev/fd/{file.fileno()}")
    try:
        sound = _open(path, name)
        n_samples, peak = 0, 0.0
        for block in sound.blocks:
            on_block()
            n_samples += block.shape[1]
            limits.check_length(name, sound, n_samples)
            mixture = block.mean(0, dtype=np.float32)
            peak = max(peak, float(np.abs(mixture).max(initial=0.0)))
            averaged.write(mixture.tobytes())
    except SpikeSepError as error:
        raise SpikeSepError(str(error).replace(str(path), name)) from error
    return Recording(name, sound.sample_rate, sound.channels, n_samples, peak, averaged)


def _open(path: Path, name: str) -> AudioStream:
    """Open an upload; bare GSM frames can be told by the name alone, which `path` does not have."""
    try:
        return open_audio(path)
    except SpikeSepError:
        if PurePath(name).suffix.lower() != ".gsm":
            raise
    form = {"format": "RAW", "subtype": "GSM610", "samplerate": GSM_RATE, "channels": 1}
    blocks = soundfile.blocks(str(path), PIECE, dtype="float32", always_2d=True, **form)
    return AudioStream(GSM_RATE, 1, None, check_samples(name, (block.T for block in blocks)))


def separate_upload(
    model: Model,
    recording: Recording,
    voices: list[BinaryIO],
    segment_seconds: float,
    on_progress: Callable[[float], None],
) -> Separation:
    """Separate a recording at the level of its mixture, and write each voice as a 16-bit wav file.

    Args:
        model: separates.
        recording: the upload.
        voices: take the files, a voice each; empty.
        segment_seconds: length of the network's blocks; `on_progress` is called after each.
        on_progress: is told the share that is done, up to 1; may raise.

    Raises:
        SpikeSepError: the sample rate is out of range, or the disk is full.
    """

    def write(n_samples: int, blocks: Iterator[np.ndarray]) -> None:
        for file in voices:
            file.write(wav_header(recording.sample_rate, n_samples))
        for block in blocks:
            for file, voice in zip(voices, block.T, strict=True):
                file.write(voice.astype("<i2").tobytes())

    size = max(1, min(PIECE, int(segment_seconds * recording.sample_rate)))
    blocks = (block[None] for block in recording.blocks(size))
    sound = AudioStream(recording.sample_rate, 1, recording.n_samples, blocks)
    return separate_sound(
        model, sound, Path(tempfile.gettempdir()), write, "match-mix", segment_seconds,
        lambda seconds: on_progress(seconds / recording.seconds),
    )  # fmt: skip


def report_of(recording: Recording, found: Separation, spent: float) -> dict:
    """What a page says of a recording: length and speed in `summary`, operations in `work`.

    Args:
        recording: the upload.
        found: what came of it.
        spent: seconds that the separation took.
    """
    notes, cost = [], found.cost
    if recording.channels > 1:
        notes.append(f"{recording.channels} channels averaged")
    if found.scale < 1:
        notes.append(f"voices lowered by {found.scale:.2f} to stay within full scale")
    work = f"{cost.macs / 1e6:,.0f} million multiply-accumulates"
    if cost.n_steps:
        synops = f"{cost.synops / 1e6:,.0f} million synaptic operations"
        work = f"{synops}, where the analog network takes {work}"
    minutes, seconds = divmod(round(recording.seconds, 1), 60)
    length = f"{minutes:.0f} min {seconds:.1f} s" if minutes else f"{seconds:.1f} s"
    facts = f"{length} at {recording.sample_rate} Hz, separated in {spent:.1f} s"
    summary = "; ".join([facts, *notes])
    return {"sample_rate": recording.sample_rate, "summary": summary, "work": work}
