"""Recordings from standard input or the microphone, separated as a whole or live."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from queue import Empty, Full, Queue

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import remove_abandoned
from spikesep.separation.audio.downmix import Channels, select_channels, watch_phase
from spikesep.separation.audio.files import AudioStream, check_samples, to_pcm16
from spikesep.separation.audio.wav import read_samples, read_wav_header
from spikesep.separation.inference.batch import (
    Progress,
    Report,
    Settings,
    Sink,
    Source,
    facts,
    kept,
    model_of,
    separate,
)
from spikesep.separation.inference.recordings import (
    Separation,
    open_files,
    open_pipe,
    streams_of,
    tracks_of,
)
from spikesep.separation.inference.separate import Level, LevelMeter, Model, total_cost, with_gains
from spikesep.separation.inference.streaming import aligned_tracks
from spikesep.separation.inference.targets import STDIN, Target, check_files

MICROPHONE_BLOCK, MOST_DELAY = 0.02, 10.0
"""Seconds that a microphone gives at once; that wait for the computer, before any are lost."""
MOST_SILENCE = 3.0
"""Seconds without a sample after which a microphone is gone: a quiet one still gives zeros."""


class Outlet:
    """Output of a piped recording: one file per voice, or one WAV stream with a channel per voice.

    Args:
        recording: `-` or `mic`.
        settings: model and separation settings.
        out: output folder; None writes to standard output.
        report: JSON file to be written at the end.
        overwrite: replace existing files.

    Raises:
        SpikeSepError: an output file exists, or standard output is closed or a terminal.
    """

    def __init__(
        self,
        recording: str,
        settings: Settings,
        out: Path | None,
        report: Path | None,
        overwrite: bool,
    ):
        self.settings, self.report, self.overwrite = settings, report, overwrite
        self.target = out and Target(
            Path(recording), str(out / ("stdin" if recording == STDIN else recording))
        )
        choice = settings.channels
        files = self._files(
            choice if isinstance(choice, int) else 1
        )  # of `each`, the number is not known yet
        for file in files[:1]:
            remove_abandoned(file.parent)
        if not self.target and sys.stdout.isatty():
            raise SpikeSepError(
                "standard output is a terminal; send it to a program or a file, or give --out-dir"
            )
        if not self.target and getattr(sys.stdout, "name", "") == os.devnull:  # see cli.common
            raise SpikeSepError(
                "standard output is closed; send it to a program or a file, or give --out-dir"
            )

    def _files(self, n_channels: int) -> list[Path]:
        names = tracks_of(self.settings.channels, n_channels)
        files = self.target.voices(names, model_of(self.settings).n_speakers) if self.target else []
        check_files(files, [], self.report, self.overwrite)
        return files

    def of(self, sound: AudioStream) -> tuple[list[str], Sink]:
        """Return the names of the voices and the sink that writes them."""
        if files := self._files(sound.channels):
            return [str(file) for file in files], partial(open_files, files)
        n_voices = (
            len(tracks_of(self.settings.channels, sound.channels))
            * model_of(self.settings).n_speakers
        )
        return [STDIN], partial(open_pipe, sys.stdout.buffer, n_voices)


def standard_input() -> BufferedReader:
    """Return binary standard input.

    Raises:
        SpikeSepError: it is closed or a terminal.
    """
    if sys.stdin is None:
        raise SpikeSepError(
            "-: standard input is closed; give a file, or send it in: spikesep-infer - < recording.wav"
        )
    if sys.stdin.isatty():
        raise SpikeSepError(
            "-: standard input is a terminal; give a file, or send it in: spikesep-infer - < recording.wav"
        )
    return sys.stdin.buffer


def separate_whole(
    settings: Settings, outlet: Outlet, raw_rate: int | None, on_progress: Progress | None
) -> Report:
    """Separate a recording from standard input, spooled because levels depend on all of it."""
    with kept(standard_input()) as file:
        sound, heard = Source(file, raw_rate).listen(settings)
        names, sink = outlet.of(sound)
        place = Path(names[0]).parent if outlet.target else Path(tempfile.gettempdir())
        report = separate(settings, sound, heard, place, sink, on_progress)
    return {"recording": STDIN, "voices": names, **report}


def separate_going_on(
    settings: Settings,
    outlet: Outlet,
    recording: str,
    raw_rate: int | None,
    tell: Callable[[str], object],
) -> Report:
    """Separate standard input or the microphone live; `tell` receives messages for the user."""
    sound = pipe_sound(standard_input(), raw_rate) if recording == STDIN else microphone_sound(tell)
    try:
        latency = streams_of(model_of(settings), sound, settings.segment, settings.channels)[
            0
        ].latency
    except SpikeSepError as error:
        raise SpikeSepError(
            f"{'standard input' if recording == STDIN else recording}: {error}"
        ) from error
    names, sink = outlet.of(sound)
    tell(f"{sound.sample_rate} Hz, latency {latency:.2f} s and the time to compute")
    begun, choice = time.perf_counter(), settings.channels
    with sink(sound.sample_rate, None) as append:
        found = separate_live(
            model_of(settings), sound, append, settings.level, settings.segment, choice, tell
        )
    report = {"recording": recording, "voices": names, "latency": latency}
    report |= facts(settings, sound, choice, found, time.perf_counter() - begun)
    return report | ({"broken_off": found.broken_off} if found.broken_off else {})


def separate_live(
    model: Model,
    sound: AudioStream,
    write: Callable[[np.ndarray], None],
    level: Level,
    block_seconds: float,
    channels: Channels = "mix",
    tell: Callable[[str], object] = lambda line: None,
) -> Separation:
    """Separate a recording while it arrives, until it ends, fails, or is stopped by a signal.

    Ctrl-C, SIGTERM and SIGHUP stop it. What was heard by then is kept.

    Gains follow what has been heard so far. They change gradually within a block, but at once where
    a voice would exceed full scale.

    Args:
        model: the separator.
        sound: the recording.
        write: receives voices, int16 [n, n_voices] ordered as in `separate_sound`, `Stream.latency`
            late.
        level: see `spikesep.separation.separate.set_level`.
        block_seconds: length of the network's blocks.
        channels: as in `Model.separate`, except that cancelling channels are only reported.
        tell: receives that report, once.
    """
    streams = streams_of(model, sound, block_seconds, channels)
    meter, n_samples = LevelMeter(model.n_speakers, len(streams)), 0
    before, scale, faults = None, 1.0, []
    blocks = until_stopped(sound.blocks, faults.append)
    if channels == "mix":
        blocks = watch_phase(
            blocks,
            sound.sample_rate,
            lambda k: tell(
                f"the channels are in opposite phase and cancel when averaged; give --channels {k}"
            ),
        )
    for mixtures, estimates in aligned_tracks(
        streams, (select_channels(block, channels) for block in blocks)
    ):
        meter.add(estimates, mixtures)
        gains, scale = meter.gains(level)
        before = gains if before is None else before
        share = np.linspace(0, 1, mixtures.shape[1], endpoint=False)
        voices = with_gains(estimates, before[:, None] * (1 - share) + gains[:, None] * share)
        if np.abs(voices).max() > 1:
            voices = with_gains(estimates, gains)
        write(to_pcm16(voices).T)
        n_samples += mixtures.shape[1]
        before = gains
    return Separation(n_samples / sound.sample_rate, scale, total_cost(streams), "".join(faults))


def pipe_sound(file: BufferedReader, raw_rate: int | None) -> AudioStream:
    """Read a WAV stream, or headerless 16-bit mono samples at `raw_rate` Hz, as it arrives.

    Raises:
        SpikeSepError: it is empty, or no wav stream.
    """
    if not raw_rate and not file.peek(1):
        raise SpikeSepError("standard input: is empty; check the program that writes to it")
    rate, channels, kind, size = (raw_rate, 1, "<i2", None) if raw_rate else read_wav_header(file)
    return AudioStream(
        rate,
        channels,
        None,
        check_samples("standard input", read_samples(file, channels, kind, size)),
    )


def microphone_sound(tell: Callable[[str], object]) -> AudioStream:
    """What the default microphone hears, until it is gone.

    Args:
        tell: is told, once, if the microphone's samples were not taken in time and some are lost.

    Raises:
        SpikeSepError: sounddevice is not installed, or finds no microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # the latter: without the PortAudio library
        raise SpikeSepError(
            f"mic: the microphone is heard through sounddevice, which cannot be loaded ({error}); "
            "pip install sounddevice, or pipe it in: arecord -f S16_LE -r 16000 | spikesep-infer --live -"
        ) from error
    heard: Queue[np.ndarray] = Queue(round(MOST_DELAY / MICROPHONE_BLOCK))
    lost = []

    def hear(samples: np.ndarray, _n, _time, status) -> None:
        missed = status.input_overflow
        try:
            heard.put_nowait(samples[:, 0].copy())
        except Full:
            missed = True
        if missed and not lost:
            lost.append(True)
            tell("mic: some samples were lost; leave the computer less to do")

    try:
        rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
        device = sounddevice.InputStream(
            samplerate=rate,
            channels=1,
            dtype="float32",
            blocksize=round(MICROPHONE_BLOCK * rate),
            callback=hear,
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise SpikeSepError(f"mic: no microphone can be opened ({error}); plug one in") from error

    def blocks() -> Iterator[np.ndarray]:
        with device:
            while True:
                try:
                    yield heard.get(timeout=MOST_SILENCE)[None]
                except Empty:
                    raise SpikeSepError(
                        f"mic: nothing has come from the microphone for {MOST_SILENCE:g} s; plug it in"
                    ) from None

    return AudioStream(rate, 1, None, blocks())


class _StoppedError(Exception):
    """A signal came while nothing else did."""


def until_stopped(
    blocks: Iterator[np.ndarray], tell: Callable[[str], object]
) -> Iterator[np.ndarray]:
    """Yield blocks until Ctrl-C, SIGTERM or SIGHUP, which end the recording normally.

    A second signal acts as usual. A SIGHUP that is ignored, as under nohup, stays ignored.

    Args:
        blocks: float32 [channels, n] each.
        tell: is told of a fault that ended them, once there were samples.

    Raises:
        SpikeSepError: of a fault before the first block.
    """
    begun = stopped = waiting = False
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def as_ever() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(*_) -> None:
        nonlocal stopped
        stopped = True
        as_ever()
        if waiting:  # for who knows how long
            raise _StoppedError

    for number in before:
        signal.signal(number, stop)
    try:
        while not stopped:
            waiting = True
            block = next(blocks, None)
            waiting = False
            if block is None:
                return
            begun = begun or block.size > 0
            yield block
    except _StoppedError:
        return
    except SpikeSepError as error:
        if not begun:
            raise
        tell(str(error))
    finally:
        as_ever()
