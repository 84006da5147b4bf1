"""Uploaded recordings, read and separated on disk in constant memory."""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import AudioStream, open_audio, to_pcm16
from spikesep.separation.audio.wav import wav_header
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.inference.on_disk import separate_sound
from spikesep.separation.inference.report import Separation
from spikesep.separation.inference.voices import are_heard, seconds_of_turns
from spikesep.separation.tracks.gate import Gate
from spikesep.separation.tracks.rttm import turns_of_activity

SAMPLES_PER_SECOND = 96_000
"""Samples of all channels together per permitted second: two channels at 48 kHz."""
CHUNK = 2**16
"""Samples processed at once."""
FULL_SCALE = 2**15
"""Full scale of 16-bit samples."""


@dataclass(frozen=True)
class Limits:
    """The largest upload accepted.

    Attributes:
        megabytes: size of the file in 10^6 bytes.
        seconds: length of the recording. It also limits the samples of all channels together to
            `SAMPLES_PER_SECOND` for each second.
    """

    megabytes: float = 50.0
    seconds: float = 600.0

    @property
    def n_bytes(self) -> int:
        """Size of the largest file in bytes."""
        return int(self.megabytes * 1e6)

    def check_size(self, name: str, n_bytes: int) -> None:
        """Raise SpikeSepError if a file of `n_bytes` bytes is too large."""
        if n_bytes > self.n_bytes:
            raise SpikeSepError(
                f"{name} has {n_bytes / 1e6:.1f} MB, and the limit is {self.megabytes:g} MB; "
                f"start spikesep-serve with --max-megabytes {math.ceil(n_bytes / 1e6)}, "
                "or use spikesep-infer"
            )

    def check_length(self, name: str, sound: AudioStream, n_samples: int) -> None:
        """Raise SpikeSepError if `n_samples` in each channel exceed the limits."""
        if n_samples > self.seconds * sound.sample_rate:
            reason = f"is longer than {self.seconds:g} s"
        elif n_samples * sound.channels > self.seconds * SAMPLES_PER_SECOND:
            reason = (
                f"contains more than {self.seconds * SAMPLES_PER_SECOND:,.0f} samples "
                f"({sound.sample_rate} Hz, channels: {sound.channels})"
            )
        else:
            return
        raise SpikeSepError(
            f"{name}: {reason}, which is the limit; start spikesep-serve with a larger "
            "--max-seconds, or use spikesep-infer"
        )


@dataclass(frozen=True)
class Upload:
    """An upload that has been read to its end.

    Attributes:
        name: display name.
        sample_rate: sample rate in Hz.
        channels: number of channels, which are averaged.
        n_samples: samples per channel.
        peak: largest magnitude of the average.
        file: samples of the average, float32.
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

    def blocks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """Yield all samples in blocks, float32 [n] with n <= `size`."""
        self.file.seek(0)
        while content := self.file.read(4 * size):
            yield np.frombuffer(content, np.float32)

    def pcm_blocks(self) -> Iterator[bytes]:
        """Yield the pieces of a 16-bit WAV file, scaled to stay within full scale."""
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
) -> Upload:
    """Read an upload to its end, and average its channels.

    Samples are counted as they are decoded, as the header cannot be trusted.

    Args:
        file: the upload; must have a file descriptor.
        name: display name.
        limits: the largest upload accepted.
        averaged: empty file that receives the average of the channels.
        on_block: called before each block; may raise.

    Raises:
        SpikeSepError: the upload is not a recording, is damaged, or exceeds the limits.
    """
    sound = open_audio(file, name=name)
    n_samples, peak = 0, 0.0
    for block in sound.blocks:
        on_block()
        n_samples += block.shape[1]
        limits.check_length(name, sound, n_samples)
        mixture = block.mean(0, dtype=np.float32)
        peak = max(peak, float(np.abs(mixture).max(initial=0.0)))
        averaged.write(mixture.tobytes())
    return Upload(name, sound.sample_rate, sound.channels, n_samples, peak, averaged)


def separate_upload(
    model: Model,
    upload: Upload,
    voices: Sequence[BinaryIO],
    segment_seconds: float,
    on_progress: Callable[[float], None],
) -> Separation:
    """Separate an upload at the level of its mixture, and write each voice as a 16-bit WAV file.

    Args:
        model: the model.
        upload: the recording.
        voices: empty files, one per voice.
        segment_seconds: length of the network's blocks.
        on_progress: receives the finished share, up to 1, after each block; may raise.

    Returns:
        The separation. Its turns are those of the speakers or, if the model cannot tell speakers
        apart, the times in which each voice is active.

    Raises:
        SpikeSepError: the sample rate is out of range, or the disk is full.
    """
    gate = Gate(len(voices), upload.sample_rate)
    activity: list[np.ndarray] = []

    def write(n_samples: int, n_voices: int, blocks: Iterator[np.ndarray]) -> None:
        for file in voices:
            file.write(wav_header(upload.sample_rate, n_samples))
        upload.file.seek(0)
        for block in blocks:
            for file, voice in zip(voices, block.T, strict=True):
                file.write(voice.astype("<i2").tobytes())
            if model.embedder is None:
                mixture = np.frombuffer(upload.file.read(4 * len(block)), np.float32)
                activity.append(gate.push(mixture, block.T / np.float32(FULL_SCALE))[1])

    size = max(1, min(CHUNK, int(segment_seconds * upload.sample_rate)))
    blocks = (block[None] for block in upload.blocks(size))
    separation = separate_sound(
        model,
        AudioStream(upload.sample_rate, 1, upload.n_samples, blocks),
        Path(tempfile.gettempdir()),
        write,
        level="match-mix",
        segment_seconds=segment_seconds,
        on_progress=lambda seconds: on_progress(seconds / upload.seconds),
    )
    if separation.turns or model.embedder is not None:
        return separation
    found = turns_of_activity(np.concatenate([*activity, gate.flush()[1]], axis=1))
    return replace(separation, turns=(tuple(found),))


def describe_separation(
    model: Model, upload: Upload, separation: Separation, elapsed: float
) -> dict[str, Any]:
    """Describe a separation that took `elapsed` seconds, for the page.

    Returns:
        `sample_rate`; `summary`, which states length and speed; `work`, the operations; `turns`,
        as in the reports of `spikesep-infer`: `start` and `stop` in seconds, and `speaker`, the
        number of the voice; `heard`, the numbers of the voices in which somebody is heard;
        `follows`, whether voices follow their speakers.
    """
    turns = separation.turns[0]
    heard = _heard_voices(separation, model.n_speakers)
    notes, cost = [], separation.cost
    if separation.heard:
        notes.append(f"heard {len(heard)} voice{'' if len(heard) == 1 else 's'}")
    if upload.channels > 1:
        notes.append(f"{upload.channels} channels averaged")
    if separation.scale < 1:
        notes.append(f"voices attenuated by {separation.scale:.2f} to stay within full scale")
    work = f"{cost.macs / 1e6:,.0f} million multiply-accumulates"
    if cost.n_steps:
        synops = f"{cost.synops / 1e6:,.0f} million synaptic operations"
        work = f"{synops}; the analog network would need {work}"
    minutes, seconds = divmod(round(upload.seconds, 1), 60)
    length = f"{minutes:.0f} min {seconds:.1f} s" if minutes else f"{seconds:.1f} s"
    timing = f"{length} at {upload.sample_rate} Hz, separated in {elapsed:.1f} s"
    return {
        "sample_rate": upload.sample_rate,
        "summary": "; ".join([timing, *notes]),
        "work": work,
        "turns": [asdict(turn) for turn in turns],
        "heard": heard,
        "follows": model.embedder is not None,
    }


def _heard_voices(separation: Separation, n_outputs: int) -> list[int]:
    """Return the numbers of the voices that are heard; all if they are not counted."""
    if not separation.heard:
        return list(range(1, n_outputs + 1))
    heard = are_heard(seconds_of_turns(separation.turns[0], n_outputs))
    return [k for k, is_heard in enumerate(heard, start=1) if is_heard]
