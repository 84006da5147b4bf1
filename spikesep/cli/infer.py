"""`spikesep-infer`: separate the voices of recordings."""

import math
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from spikesep.cli.common import add_model_options, complain, run
from spikesep.errors import SpikeSepError
from spikesep.files import write_json

PROG = "spikesep-infer"
STDIN, MICROPHONE = "-", "mic"
SEGMENT, LIVE_SEGMENT = 10.0, 0.5
"""Seconds. Of longer ones the memory is given back to the system and asked for anew each time."""


@dataclass(frozen=True)
class Settings:
    """Which model runs how: what a worker process needs to know."""

    model: str | None
    network: str | None
    steps: int | None
    engine: str
    device: str
    level: str
    segment: float


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    with _quiet_libraries():
        run(_parser(), infer, argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=PROG,
        description="Separate the voices of recordings of any length into <stem>_spk1.wav, <stem>_spk2.wav. Channels "
        "are averaged; any sample rate is brought to the model's and back. A folder stands for the audio files in it "
        "and below; its layout is kept. With -, a recording comes from standard input, and its voices go to standard "
        "output: one wav stream of 16 bits, a channel a voice; messages go to standard error.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "recordings",
        nargs="+",
        type=str,
        metavar="FILE",
        help="files (wav, flac, ogg, mp3, m4a, gsm, SPHERE, ...), folders, quoted patterns such as 'talks/**/*.wav'; "
        "- for standard input; with --live, mic for the microphone",
    )
    add_model_options(parser)
    parser.add_argument(
        "--steps",
        type=int | None,
        default=None,
        metavar="N",
        help="time steps of the spiking network, in place of those it was trained with: fewer cost less and round "
        "coarser; thresholds are scaled, so that neurons stand for as much at most",
    )
    parser.add_argument(
        "--out-dir", type=Path | None, default=None, help="where the voices go; here, and for - standard output"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument(
        "--level",
        type=Literal["match-mix", "peak", "none"],
        default="match-mix",
        help="of the voices: adding up to the mixture, each to a peak of 0.9, or as they come; never clipped",
    )
    parser.add_argument(
        "--segment",
        type=float | None,
        default=None,
        metavar="SECONDS",
        help=f"length of the network's blocks, which bounds memory: {SEGMENT:g}, with --live {LIVE_SEGMENT:g}; what "
        "comes out does not depend on it",
    )
    parser.add_argument(
        "--engine",
        type=Literal["auto", "dense", "event", "gpu"],
        default="auto",
        help="how the spiking layers run; in fixed-point form the voices are the same to the bit",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that share the files; 0: all cores")
    parser.add_argument(
        "--live",
        action="store_true",
        help="give voices while - (a wav stream, or --raw) or mic goes on, with a latency that is said at the start: a "
        "block, the context it depends on, and resampling; levels rest on what was heard so far; Ctrl-C or SIGTERM "
        "ends it",
    )
    parser.add_argument(
        "--raw", type=int | None, default=None, metavar="RATE", help="- is bare 16-bit samples, mono, at RATE Hz"
    )
    parser.add_argument("--json", type=Path | None, default=None, metavar="FILE", help="write a report")
    return parser


def infer(options: Namespace) -> int:
    """Separate every recording; a bad one is named and the rest goes on. Status 2 if there was any."""
    settings = _checked(options)
    _model.cache_clear()  # it may have changed since another call in this process
    if options.live:
        reports = [_live(settings, options)]
    elif options.recordings == [STDIN]:
        reports = [_from_stdin(settings, options)]
    else:
        from spikesep.separation.recordings import find_recordings

        targets = _targets(find_recordings(options.recordings), options, _model(settings).n_speakers)
        reports = []
        for report in _separated(list(targets.items()), settings, options.jobs):
            _tell(report)
            reports.append(report)
    if options.json:
        write_json(options.json, reports)
    failed = sum("error" in report or "broken_off" in report for report in reports)
    if failed and len(reports) > 1:
        print(f"{failed} of {len(reports)} recordings could not be separated", file=sys.stderr)
    return 2 if failed else 0


def _checked(options: Namespace) -> Settings:
    """What the options say of the model; those that cannot be are refused before anything is loaded."""
    segment = options.segment or (LIVE_SEGMENT if options.live else SEGMENT) if options.segment != 0 else 0.0
    if not (segment > 0 and math.isfinite(segment)):
        raise SpikeSepError(f"--segment {segment:g}: give a positive number of seconds")
    if options.steps is not None and not 1 <= options.steps <= 1024:
        raise SpikeSepError(f"--steps {options.steps}: give 1 to 1024")
    if options.jobs < 0:
        raise SpikeSepError(f"--jobs {options.jobs}: give 0, for all cores, or more")
    if options.live and options.recordings not in ([STDIN], [MICROPHONE]):
        raise SpikeSepError("--live: give - or mic, and nothing else; files need no --live")
    if STDIN in options.recordings and len(options.recordings) > 1:
        raise SpikeSepError("-: standard input is separated alone; give files in another call")
    if options.raw is not None and (options.recordings != [STDIN] or options.raw < 1):
        raise SpikeSepError(f"--raw {options.raw}: give the rate in Hz of -, standard input")
    return Settings(
        options.model, options.network, options.steps, options.engine, options.device, options.level, segment
    )


@lru_cache(maxsize=1)
def _model(settings: Settings):
    """The model, once a process."""
    from spikesep.separation.separate import load_model
    from spikesep.spiking.steps import use_steps

    model = load_model(settings.model, settings.network, settings.device)
    model.separator.network.use_engine(settings.engine)
    if settings.steps is not None:
        try:
            use_steps(model.separator.network, settings.steps)
        except ValueError as error:
            raise SpikeSepError(f"--steps {settings.steps}: {error}; leave it out") from error
    return model


# --- files ----------------------------------------------------------------------------------------------------------


def _targets(recordings: dict[Path, Path], options: Namespace, n_speakers: int) -> dict[Path, list[Path]]:
    """The output files of each recording; no two may be the same, none may be there unless it may be overwritten."""
    out = options.out_dir or Path(".")
    targets = {path: _voices(out / place, n_speakers) for path, place in recordings.items()}
    for file, times in Counter(file for files in targets.values() for file in files).items():
        if times > 1:
            raise SpikeSepError(
                f"{file}: would be written for {times} recordings of the same name; separate them apart"
            )
    _check_files([file for files in targets.values() for file in files], recordings, options)
    return targets


def _voices(place: Path, n_speakers: int) -> list[Path]:
    return [place.with_name(f"{place.stem}_spk{k + 1}.wav") for k in range(n_speakers)]


def _check_files(voices: list[Path], recordings: Iterable[Path], options: Namespace) -> None:
    """See that no file to be written is a recording, another of them, or in the way of what stands there."""
    taken = {os.path.realpath(path): "one of the recordings" for path in recordings}
    for option, files in {"--out-dir": voices, "--json": [options.json] if options.json else []}.items():
        for file in files:
            real = os.path.realpath(file)
            if real in taken:
                raise SpikeSepError(f"{file}: is {taken[real]}; give another {option}")
            if os.path.isdir(file):
                raise SpikeSepError(f"{file}: is a folder; give another {option}")
            if os.path.lexists(file) and not options.overwrite:
                raise SpikeSepError(f"{file}: is there already; give --overwrite, or another {option}")
            taken[real] = "where a voice goes"
            taken |= dict.fromkeys(map(str, Path(real).parents), "a folder that voices go to")


def _separated(jobs: list[tuple[Path, list[Path]]], settings: Settings, n_jobs: int) -> Iterator[dict]:
    """The report of each recording, in order, as they are finished."""
    from spikesep.separation.parallel import Workers

    if n_jobs == 1 or len(jobs) == 1:
        for number, job in enumerate(jobs, start=1):
            with _bar(f"{number}/{len(jobs)} {printable(job[0].name)}") as on_progress:
                report = separate_file(settings, job, on_progress)
            yield report
        return
    with Workers(n_jobs, "--jobs") as workers:
        yield from workers.map(partial(separate_file, settings), jobs, "separating", chunk=1)


def separate_file(settings: Settings, job: tuple[Path, list[Path]], on_progress: Callable | None = None) -> dict:
    """Separate one recording into its files, in any process: a report of it, or of what is wrong with it."""
    from spikesep.separation.audio import open_sound
    from spikesep.separation.recordings import write_files

    recording, files = job
    try:
        model, sound = _model(settings), open_sound(recording)
        write = partial(write_files, files, sound.sample_rate)
        report = _report(model, sound, files[0].parent, write, settings, on_progress)
        return {"recording": str(recording), "voices": [str(file) for file in files], **report}
    except BrokenPipeError:
        raise
    except (SpikeSepError, OSError) as error:
        told = str(error)
        return {"recording": str(recording), "error": told if str(recording) in told else f"{recording}: {told}"}


def _report(model, sound, place: Path, write: Callable, settings: Settings, on_progress: Callable | None) -> dict:
    """Separate, and say what came of it."""
    from spikesep.separation.recordings import separate_sound

    begun = time.perf_counter()

    def progress(seconds: float) -> None:
        if on_progress:
            total = sound.length and sound.length / sound.sample_rate
            on_progress(seconds, total, (time.perf_counter() - begun) / seconds)

    try:
        found = separate_sound(model, sound, place, write, settings.level, settings.segment, progress)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        raise SpikeSepError("not enough memory; give a shorter --segment") from error
    return _facts(model, sound, found, time.perf_counter() - begun)


def _facts(model, sound, found, spent: float) -> dict:
    return {
        "seconds": found.seconds,
        "sample_rate": sound.sample_rate,
        "channels": sound.channels,
        "real_time_factor": spent / found.seconds if found.seconds else 0.0,
        "network": model.kind,
        "scale": found.scale,
        "cost": found.cost.to_dict(),
        "engines": {name: layer.ran_on for name, layer in model.separator.network.layers.items() if layer.ran_on},
    }


@contextmanager
def _bar(name: str) -> Iterator[Callable[[float, float | None, float], None]]:
    """A progress bar with the real-time factor, on a terminal; give a function to tell it seconds, total, factor."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[factor]}", markup=False), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name, total=None, factor="")
        yield lambda seconds, total, factor: progress.update(
            task, completed=seconds, total=total, factor=f"real-time factor {factor:.3f}"
        )


# --- pipes ----------------------------------------------------------------------------------------------------------


def _from_stdin(settings: Settings, options: Namespace) -> dict:
    """A whole recording from standard input, kept on disk until it is read: its level is known at the end alone."""
    from spikesep.separation.audio import open_sound

    model = _model(settings)
    with _sink(options, "stdin", model.n_speakers) as (names, open_sink), tempfile.TemporaryFile() as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.seek(0)
        sound = open_sound(kept, options.raw)

        def write(n_samples: int, blocks: Iterator) -> None:
            with open_sink(sound.sample_rate, n_samples) as append:
                for block in blocks:
                    append(block)

        place = options.out_dir or Path(tempfile.gettempdir())
        with _bar("standard input") as on_progress:
            report = _report(model, sound, place, write, settings, on_progress)
    report = {"recording": STDIN, "voices": names, **report}
    _tell(report)
    return report


def _live(settings: Settings, options: Namespace) -> dict:
    """A recording that goes on, from standard input or the microphone."""
    from spikesep.separation import recordings

    model, (name,) = _model(settings), options.recordings
    with _sink(options, "stdin" if name == STDIN else name, model.n_speakers) as (names, open_sink):
        if name == STDIN:
            sound = recordings.pipe_sound(sys.stdin.buffer, options.raw)
        else:
            sound = recordings.microphone_sound(partial(complain, PROG))
        latency = recordings.stream_of(model, sound, settings.segment).latency
        print(f"{PROG}: {sound.sample_rate} Hz, latency {latency:.2f} s and the time to compute", file=sys.stderr)
        begun = time.perf_counter()
        with open_sink(sound.sample_rate, None) as append:
            found = recordings.separate_live(model, sound, append, settings.level, settings.segment)
    report = {"recording": name, "voices": names, "latency": latency}
    report |= _facts(model, sound, found, time.perf_counter() - begun)
    _tell(report)
    if found.broken_off:
        complain(PROG, f"{found.broken_off} (what came before is separated)")
        report["broken_off"] = found.broken_off
    return report


@contextmanager
def _sink(options: Namespace, stem: str, n_speakers: int) -> Iterator[tuple[list[str], Callable]]:
    """Where the voices of a pipe go: their names, and a function of sample rate and length that opens them."""
    from spikesep.separation.recordings import open_files, open_pipe

    files = [] if options.out_dir is None else _voices(options.out_dir / f"{stem}.wav", n_speakers)
    _check_files(files, [], options)
    if files:
        yield [str(file) for file in files], partial(open_files, files)
    elif sys.stdout.isatty():
        raise SpikeSepError("standard output is a terminal; send it to a program or a file, or give --out-dir")
    else:
        yield [STDIN], partial(open_pipe, sys.stdout.buffer, n_speakers)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep what decoders write to standard error past Python, of a damaged mp3 for one, from between our lines."""
    try:
        kept, python_stderr = os.dup(2), sys.stderr
    except OSError:  # there is no standard error
        yield
        return
    ours = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    with open(os.devnull, "w") as nowhere, ours:
        try:
            if python_stderr is sys.__stderr__:
                sys.stderr = ours
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            sys.stderr = python_stderr


# --- lines ----------------------------------------------------------------------------------------------------------


def _tell(report: dict) -> None:
    """One line a recording; on standard error where the voices go to standard output."""
    if "error" in report:
        complain(PROG, report["error"])
        return
    cost = report["cost"]
    work = f"{cost['macs'] / 1e6:.0f} M MACs"
    if cost["synops"]:
        work = f"{cost['synops'] / 1e6:.0f} M SynOps ({cost['synops_ratio']:.2f} of the ANN's MACs)"
    seconds, factor = report["seconds"], report["real_time_factor"]
    notes = [
        f"{seconds:.2f} s at {report['sample_rate']} Hz in {seconds * factor:.2f} s, real-time factor {factor:.3f}",
        f"{report['network']} {work}",
    ]
    if report["channels"] > 1:
        notes.append(f"{report['channels']} channels averaged")
    if report["scale"] < 1:
        notes.append(f"lowered by {report['scale']:.2f} to stay within full scale")
    to_stdout = report["voices"] == [STDIN]
    line = f"{report['recording']} -> {', '.join(report['voices'])}: {', '.join(notes)}"
    print(printable(line), file=sys.stderr if to_stdout else sys.stdout)


def printable(text: str) -> str:
    """Text in one line, whatever a file's name holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
