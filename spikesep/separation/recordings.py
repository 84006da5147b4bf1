"""Recordings on disk and in pipes: which there are; their voices, written in memory that does not grow with length."""

import glob
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from queue import Empty, Full, Queue
from typing import BinaryIO

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, room_for
from spikesep.separation.audio import Sound, checked, to_pcm16
from spikesep.separation.separate import Level, LevelMeter, Model, with_gains
from spikesep.separation.streaming import Stream, aligned
from spikesep.separation.wav import read_samples, read_wav_header, wav_header
from spikesep.spiking.cost import Cost

AUDIO = "wav wave flac ogg oga opus mp3 m4a mp4 aac webm mka mkv wma aif aiff aifc au snd caf w64 rf64 sph wv1 wv2 gsm"
SUFFIXES = frozenset(f".{kind}" for kind in AUDIO.split())
"""What is taken for audio in a folder; a file that is named is read whatever its name."""
MICROPHONE_BLOCK, MOST_DELAY = 0.02, 10.0
"""Seconds that a microphone gives at once; that wait for the computer, before any are lost."""
MOST_SILENCE = 3.0
"""Seconds without a sample after which a microphone is gone: a quiet one still gives zeros."""
SPOOLED = 2**16
"""Samples of a voice that are read back from the spool at once."""


def find_recordings(arguments: Iterable[str]) -> dict[Path, Path]:
    """What files, folders and patterns stand for: each recording, and where its voices belong below the output folder.

    A folder gives the audio files in it and in its subfolders, hidden ones left out, in their layout; a pattern that
    is no file, what it matches (`**` any depth of folders). What gives nothing stays as it is, for whoever reads it to
    tell.
    """
    found: dict[Path, Path] = {}
    seen = set()
    for argument in arguments:
        path = Path(argument)
        matches = [path]
        if not os.path.lexists(path) and glob.has_magic(argument):
            matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))] or [path]
        for match in matches:
            inside = _audio_files(match) if os.path.isdir(match) else []
            for recording in inside or [match]:
                real = os.path.realpath(recording)  # of a link to itself, too
                if real not in seen:
                    seen.add(real)
                    found[recording] = recording.relative_to(match) if inside else Path(recording.name)
    return found


def _audio_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


@dataclass(frozen=True)
class Separation:
    """What came of one recording.

    Attributes:
        seconds: of signal.
        scale: all voices were lowered by this common factor to stay within full scale.
        cost: of the mask network.
        broken_off: why a recording that goes on was given up before its end; empty if it was not.
    """

    seconds: float
    scale: float
    cost: Cost
    broken_off: str = ""


def separate_sound(
    model: Model,
    sound: Sound,
    place: Path,
    write: Callable[[int, Iterator[np.ndarray]], None],
    level: Level,
    segment_seconds: float,
    on_progress: Callable[[float], None] = lambda seconds: None,
) -> Separation:
    """Separate a recording of any length in constant memory, as `Model.separate_recording` does.

    The estimates go into a file without a name, 4 bytes a sample and voice, for their level is known at the end alone.

    Args:
        model: separates.
        sound: the recording.
        place: folder of that file; is made if it is not there.
        write: takes the number of samples and then the voices, int16 [n, n_speakers] a block.
        level: see `spikesep.separation.separate.set_level`.
        segment_seconds: length of the network's blocks.
        on_progress: is told the seconds that are done.

    Raises:
        SpikeSepError: the recording cannot be read to its end, or there is no room.
    """
    stream, meter, n_samples = stream_of(model, sound, segment_seconds), LevelMeter(model.n_speakers), 0
    first = next(sound.blocks)  # a recording that cannot be read leaves no folder
    place.mkdir(parents=True, exist_ok=True)
    with room_for(place), tempfile.TemporaryFile(dir=place) as spool:
        for mixture, estimates in aligned(stream, chain([first], sound.blocks)):
            meter.add(estimates, mixture)
            spool.write(np.ascontiguousarray(estimates.T).tobytes())
            n_samples += len(mixture)
            on_progress(n_samples / sound.sample_rate)
        gains, scale = meter.gains(level)
        spool.seek(0)
        write(n_samples, _leveled(spool, gains))
    return Separation(n_samples / sound.sample_rate, scale, stream.cost)


def stream_of(model: Model, sound: Sound, segment_seconds: float) -> Stream:
    """A stream for a recording.

    Raises:
        SpikeSepError: its sample rate is out of range.
    """
    try:
        return model.stream(sound.sample_rate, segment_seconds)
    except ValueError as error:
        raise SpikeSepError(str(error)) from error


def _leveled(spool: BinaryIO, gains: np.ndarray) -> Iterator[np.ndarray]:
    """The spooled estimates at their level, int16 [n, n_speakers] a block."""
    n = len(gains)
    while content := spool.read(4 * n * SPOOLED):
        yield to_pcm16(with_gains(np.frombuffer(content, np.float32).reshape(-1, n).T, gains)).T


def write_files(paths: list[Path], sample_rate: int, n_samples: int, blocks: Iterator[np.ndarray]) -> None:
    """Write each voice into a 16-bit wav file of its own; all are whole, or none is there."""
    with open_files(paths, sample_rate, n_samples) as write:
        for block in blocks:
            write(block)


@contextmanager
def open_files(
    paths: list[Path], sample_rate: int, n_samples: int | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that appends int16 [n, n_speakers] to 16-bit wav files, a voice each; they appear in the end.

    Args:
        paths: of the voices.
        sample_rate: Hz.
        n_samples: of each; where it is not known, it is set right in the end.
    """
    with ExitStack() as whole, ExitStack() as stack:
        temporaries = [whole.enter_context(atomic_path(path)) for path in paths]
        files = [stack.enter_context(temporary.open("wb")) for temporary in temporaries]
        written = 0
        for file in files:
            file.write(wav_header(sample_rate, n_samples))

        def write(block: np.ndarray) -> None:
            nonlocal written
            for file, voice in zip(files, block.T, strict=True):
                file.write(voice.astype("<i2").tobytes())
            written += len(block)

        yield write
        for file in files if n_samples is None else ():
            header = wav_header(sample_rate, written)
            if len(header) == len(wav_header(sample_rate, None)):  # past 4 GiB it stays a stream's
                file.seek(0)
                file.write(header)


@contextmanager
def open_pipe(
    file: BinaryIO, n_speakers: int, sample_rate: int, n_samples: int | None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that writes int16 [n, n_speakers] to a pipe: one wav stream, a channel a voice."""
    file.write(wav_header(sample_rate, n_samples, n_speakers))

    def write(block: np.ndarray) -> None:
        file.write(block.astype("<i2").tobytes())
        file.flush()

    yield write


def separate_live(
    model: Model, sound: Sound, write: Callable[[np.ndarray], None], level: Level, block_seconds: float
) -> Separation:
    """Separate a recording while it arrives; `write` is handed voices, int16 [n, n_speakers], `Stream.latency` behind.
    Ctrl-C and SIGTERM end it, and so does what cannot be read any more: hours that were heard are not lost.

    Gains rest on what has been heard so far, and go over from the old to the new within a block; a voice that would
    pass full scale takes the new ones at once.
    """
    stream, meter, n_samples = stream_of(model, sound, block_seconds), LevelMeter(model.n_speakers), 0
    before, scale, faults = None, 1.0, []
    for mixture, estimates in aligned(stream, until_stopped(sound.blocks, faults.append)):
        meter.add(estimates, mixture)
        gains, scale = meter.gains(level)
        before = gains if before is None else before
        share = np.linspace(0, 1, len(mixture), endpoint=False)
        voices = with_gains(estimates, before[:, None] * (1 - share) + gains[:, None] * share)
        if np.abs(voices).max() > 1:
            voices = with_gains(estimates, gains)
        write(to_pcm16(voices).T)
        n_samples += len(mixture)
        before = gains
    return Separation(n_samples / sound.sample_rate, scale, stream.cost, "".join(faults))


def pipe_sound(file: BinaryIO, raw_rate: int | None) -> Sound:
    """A wav stream on standard input, or bare 16-bit samples of one channel at `raw_rate` Hz, as they come.

    Raises:
        SpikeSepError: it is no wav stream.
    """
    rate, channels, kind, size = (raw_rate, 1, "<i2", None) if raw_rate else read_wav_header(file)
    return Sound(rate, channels, None, checked("standard input", read_samples(file, channels, kind, size)))


def microphone_sound(tell: Callable[[str], object]) -> Sound:
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

    return Sound(rate, 1, None, blocks())


class _StoppedError(Exception):
    """A signal came while nothing else did."""


def until_stopped(blocks: Iterator[np.ndarray], tell: Callable[[str], object]) -> Iterator[np.ndarray]:
    """The blocks up to Ctrl-C or SIGTERM, which so are an end like another; a second one acts as ever.

    Args:
        blocks: float32 [channels, n] each.
        tell: is told of a fault that ended them, once there were samples.

    Raises:
        SpikeSepError: of a fault before the first block.
    """
    begun = stopped = waiting = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

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
