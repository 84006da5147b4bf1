"""Recordings from standard input or the microphone, separated as a whole or live."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import cast

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import remove_abandoned
from spikesep.separation.audio.downmix import Channels, select_channels, watch_phase
from spikesep.separation.audio.files import AudioStream, check_samples, to_pcm16
from spikesep.separation.audio.wav import read_samples, read_wav_header
from spikesep.separation.inference import STDIN
from spikesep.separation.inference.band.live import LiveLeveler
from spikesep.separation.inference.in_memory import Model, Tracks
from spikesep.separation.inference.inputs import Source, spooled
from spikesep.separation.inference.microphone import microphone_sound
from spikesep.separation.inference.on_disk import (
    Progress,
    separate_to_sink,
    track_names,
)
from spikesep.separation.inference.output_level import Level
from spikesep.separation.inference.outputs import (
    StandardOutput,
    Target,
    VoiceFiles,
    check_output_files,
)
from spikesep.separation.inference.report import Report, Separation, separation_report
from spikesep.separation.inference.settings import InferenceSettings, cached_model
from spikesep.separation.inference.streaming import Stream, separate_tracks, total_cost
from spikesep.separation.tracks.leveling import turns_of
from spikesep.separation.tracks.tracker import TrackStream


class PipeOutput:
    """Output of a piped recording: one file per voice, or one WAV stream with a channel per voice.

    Args:
        recording: `-` or `mic`.
        settings: model and separation settings.
        out: output folder; None writes to standard output.
        reports: files to be written at the end, by option; see `check_output_files`.
        overwrite: replace existing files.

    Raises:
        SpikeSepError: an output file exists, or standard output is closed or a terminal.
    """

    def __init__(
        self,
        recording: str,
        settings: InferenceSettings,
        *,
        out: Path | None,
        reports: Mapping[str, Path],
        overwrite: bool,
    ):
        self.settings, self.reports, self.overwrite = settings, reports, overwrite
        stem = "stdin" if recording == STDIN else recording
        self.target = Target(Path(recording), str(out / stem)) if out else None
        channels = settings.channels
        # With `each`, the number of channels is not known yet.
        files = self._voice_files(channels if isinstance(channels, int) else 1)
        for file in files[:1]:
            remove_abandoned(file.parent)
        if not self.target:
            _check_standard_output()

    def _voice_files(self, n_channels: int) -> list[Path]:
        """List the output files, after checking them; none for standard output."""
        names = track_names(self.settings.channels, n_channels)
        n_planned = self.settings.n_planned
        files = self.target.voice_files(names, n_planned) if self.target else []
        check_output_files(files, [], self.reports, self.overwrite)
        return files

    def open(self, sound: AudioStream) -> VoiceFiles | StandardOutput:
        """Return what writes the voices of a recording."""
        tracks = track_names(self.settings.channels, sound.channels)
        if self._voice_files(sound.channels):
            assert self.target is not None
            return VoiceFiles(self.target, tracks, self.settings.n_planned)
        return StandardOutput(len(tracks))


def _check_standard_output() -> None:
    """Raise SpikeSepError if standard output is closed or a terminal."""
    remedy = "send it to a program or a file, or give --out-dir"
    if sys.stdout.isatty():
        raise SpikeSepError(f"standard output is a terminal; {remedy}")
    # The command opens /dev/null in place of closed streams.
    if getattr(sys.stdout, "name", "") == os.devnull:
        raise SpikeSepError(f"standard output is closed; {remedy}")


def standard_input() -> BufferedReader:
    """Return binary standard input.

    Raises:
        SpikeSepError: it is closed or a terminal.
    """
    remedy = "give a file, or send it in: spikesep-infer - < recording.wav"
    if sys.stdin is None:
        raise SpikeSepError(f"-: standard input is closed; {remedy}")
    if sys.stdin.isatty():
        raise SpikeSepError(f"-: standard input is a terminal; {remedy}")
    return cast(BufferedReader, sys.stdin.buffer)


def separate_standard_input(
    settings: InferenceSettings,
    output: PipeOutput,
    raw_rate: int | None,
    on_progress: Progress | None,
) -> Report:
    """Separate a recording from standard input, spooled because levels depend on all of it."""
    with spooled(standard_input()) as file:
        sound, channels = Source(file, raw_rate).open_audible(settings.channels)
        sink = output.open(sound)
        spool_folder = Path(output.target.base).parent if output.target else None
        report = separate_to_sink(
            settings,
            sound,
            channels,
            sink=sink,
            spool_folder=spool_folder or Path(tempfile.gettempdir()),
            on_progress=on_progress,
        )
    return {"recording": STDIN, "voices": list(sink.names), **report}


def separate_live_input(
    settings: InferenceSettings,
    output: PipeOutput,
    recording: str,
    *,
    raw_rate: int | None,
    tell: Callable[[str], object],
) -> Report:
    """Separate standard input or the microphone live; `tell` receives messages for the user."""
    is_stdin = recording == STDIN
    sound = pipe_sound(standard_input(), raw_rate) if is_stdin else microphone_sound(tell)
    model, channels = cached_model(settings), settings.channels
    try:
        streams = _open_live(model, sound, settings.segment, channels, settings.tracks)
        delays = LiveLeveler(model, streams, settings.level).delays
    except SpikeSepError as error:
        raise SpikeSepError(f"{'standard input' if is_stdin else recording}: {error}") from error
    sink = output.open(sound)
    tell(f"{sound.sample_rate} Hz, latency {delays} plus computing time")
    begun = time.perf_counter()
    with sink(sound.sample_rate, None, model.n_speakers) as append:
        separation = separate_live(
            model,
            sound,
            append,
            level=settings.level,
            block_seconds=settings.segment,
            channels=channels,
            tracks=settings.tracks,
            tell=tell,
        )
    elapsed = time.perf_counter() - begun
    report = {"recording": recording, "voices": list(sink.names), "latency": delays.total}
    report["delays"] = delays.to_dict()
    report |= separation_report(settings, sound, channels, separation=separation, elapsed=elapsed)
    return report | ({"broken_off": separation.broken_off} if separation.broken_off else {})


def separate_live(
    model: Model,
    sound: AudioStream,
    write: Callable[[np.ndarray], None],
    *,
    level: Level,
    block_seconds: float | None = None,
    channels: Channels = "mix",
    tracks: Tracks = "auto",
    tell: Callable[[str], object] = lambda line: None,
) -> Separation:
    """Separate a recording while it arrives, until it ends, fails, or is stopped by a signal.

    Ctrl-C, SIGTERM and SIGHUP stop it; what arrived by then is kept.

    Gains follow what has been heard so far. They change gradually within a block, but at once where
    a voice would exceed full scale.

    Args:
        model: the separator.
        sound: the recording.
        write: receives voices, int16 [n, n_voices] ordered as in `separate_sound`, `Stream.latency`
            late.
        level: see `spikesep.separation.inference.output_level.set_level`.
        block_seconds: length of the network's blocks; None leaves it to the model.
        channels: as in `Model.separate`, except that cancelling channels are only reported.
        tracks: `auto` lets every voice follow its speaker, if the model has an embedder, from what
            has been heard so far; `off` keeps the order of the network's outputs.
        tell: receives that report, once.
    """
    streams = _open_live(model, sound, block_seconds, channels, tracks)
    n_samples = 0
    leveler = LiveLeveler(model, streams, level)
    faults = []
    blocks = until_stopped(sound.blocks, faults.append)
    if channels == "mix":
        blocks = watch_phase(blocks, sound.sample_rate, partial(_tell_cancelling, tell))
    for mixtures, estimates in separate_tracks(
        streams, (select_channels(b, channels) for b in blocks)
    ):
        voices = leveler.push(estimates, mixtures)
        write(to_pcm16(voices).T)
        n_samples += voices.shape[1]
    rest = leveler.flush()
    if rest.shape[1]:
        write(to_pcm16(rest).T)
    seconds = (n_samples + rest.shape[1]) / sound.sample_rate
    faulty = "".join(faults)
    return Separation(seconds, leveler.scale, total_cost(streams), faulty, turns_of(streams))


def _open_live(
    model: Model,
    sound: AudioStream,
    block_seconds: float | None,
    channels: Channels,
    tracks: Tracks,
) -> Sequence[Stream | TrackStream]:
    """Open streams like `open_streams`; with tracks, their voices follow the speakers at once."""
    names = track_names(channels, sound.channels)
    try:
        streams = [Stream(model.separator, sound.sample_rate, block_seconds) for _ in names]
        if tracks == "off" or model.embedder is None:
            return streams
        return [TrackStream(stream, model.embedder, model.n_speakers) for stream in streams]
    except ValueError as error:
        raise SpikeSepError(f"{error}; export the recording at such a rate") from error


def _tell_cancelling(tell: Callable[[str], object], strongest: Channels) -> None:
    tell(
        f"the channels are in opposite phase and cancel when averaged; give --channels {strongest}"
    )


def pipe_sound(file: BufferedReader, raw_rate: int | None) -> AudioStream:
    """Read a WAV stream, or headerless 16-bit mono samples at `raw_rate` Hz, as it arrives.

    Raises:
        SpikeSepError: it is empty, or not a WAV stream.
    """
    if not raw_rate and not file.peek(1):
        raise SpikeSepError("standard input: is empty; check the program that writes to it")
    rate, channels, kind, size = (raw_rate, 1, "<i2", None) if raw_rate else read_wav_header(file)
    samples = read_samples(file, channels, kind, size)
    return AudioStream(rate, channels, None, check_samples("standard input", samples))


class _StoppedError(Exception):
    """A signal arrived while the next block was awaited."""


def until_stopped(
    blocks: Iterator[np.ndarray], on_fault: Callable[[str], object]
) -> Iterator[np.ndarray]:
    """Yield blocks until Ctrl-C, SIGTERM or SIGHUP, which end the recording normally.

    A second signal acts as usual. A SIGHUP that is ignored, as under nohup, stays ignored.

    Args:
        blocks: float32 [channels, n] each.
        on_fault: receives the message of an error that ends the recording after its first samples.

    Raises:
        SpikeSepError: an error ends the recording before its first samples.
    """
    has_samples = False
    try:
        with _stop_on_signal() as state:
            while not state.stopped:
                state.waiting = True
                block = next(blocks, None)
                state.waiting = False
                if block is None:
                    return
                has_samples = has_samples or block.size > 0
                yield block
    except _StoppedError:
        return
    except SpikeSepError as error:
        if not has_samples:
            raise
        on_fault(str(error))


class _StopState:
    """Whether a stop was requested, and whether the next block is being awaited."""

    stopped = waiting = False


@contextmanager
def _stop_on_signal() -> Iterator[_StopState]:
    """Let Ctrl-C, SIGTERM and SIGHUP request a stop; restore their handlers on the first one.

    A signal that arrives while a block is awaited raises `_StoppedError`, as the wait may be long.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    state = _StopState()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(*_) -> None:
        state.stopped = True
        restore()
        if state.waiting:
            raise _StoppedError

    for number in before:
        signal.signal(number, stop)
    try:
        yield state
    finally:
        restore()
