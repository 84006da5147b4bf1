"""`spikesep-infer`: separate the voices of recordings."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from spikesep.cli.common import add_model_options, complain, quiet_libraries, run, unwinding
from spikesep.errors import SpikeSepError
from spikesep.files import write_json
from spikesep.separation.inference.targets import MICROPHONE, STDIN, find_recordings

PROG = "spikesep-infer"
SEGMENT, LIVE_SEGMENT = 10.0, 0.5
"""Seconds. Of longer ones the memory is given back to the system and asked for anew each time."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), infer, argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=PROG,
        description="Separate the voices of recordings of any length into <stem>_spk1.wav, <stem>_spk2.wav; where two "
        "recordings share a stem, into <name>_spk1.wav. Any sample rate is brought to the model's and back. A folder "
        "stands for the audio files in it and below, except the output of an earlier run; its layout is "
        "kept. With -, a recording comes from standard input, and its voices go to standard output: one wav stream of "
        "16 bits, a channel a voice; messages go to standard error. Exit status: 0 if all was separated, 2 if a "
        "recording was not or an option is wrong, 130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "recordings",
        nargs="+",
        type=str,
        metavar="FILE",
        help="files (wav, flac, ogg, mp3, m4a, gsm, SPHERE, ...), pipes, folders, quoted patterns such as "
        "'talks/**/*.wav'; - for standard input; with --live, mic for the microphone",
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
        "--out-dir",
        type=Path | None,
        default=None,
        help="where the voices go; here, and for - standard output",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue a batch: skip recordings whose voices all exist and are no older than the recording, "
        "whatever model and options made them; replace partial or older voices of the others",
    )
    parser.add_argument(
        "--channels",
        type=Literal["mix", "each"] | int,
        default="mix",
        metavar="{mix,each,N}",
        help="separate the average of all channels (or the strongest if they cancel each other), each channel "
        "by itself into <stem>_ch1_spk1.wav and so on, or channel N, counted from 1",
    )
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
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the files; 0: all cores",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="give voices while - (a wav stream, or --raw) or mic goes on, with a latency that is said at the start: a "
        "block, the context it depends on, and resampling; levels rest on what was heard so far; Ctrl-C or SIGTERM "
        "ends it",
    )
    parser.add_argument(
        "--raw",
        type=int | None,
        default=None,
        metavar="RATE",
        help="- is bare 16-bit samples, mono, at RATE Hz",
    )
    parser.add_argument(
        "--json", type=Path | None, default=None, metavar="FILE", help="write a report"
    )
    return parser


def infer(options: Namespace) -> int:
    """Separate all recordings; name those that fail and return status 2 if any did."""
    segment = _checked_segment(options)
    with quiet_libraries(), unwinding():
        from spikesep.separation.inference.batch import Settings, model_of
        from spikesep.spiking.spike_trains.kernels import when_compiling

        chosen = (
            options[name] for name in ("model", "network", "steps", "engine", "device", "level")
        )
        settings = Settings(*chosen, segment, options.channels)
        model_of.cache_clear()  # it may have changed since another call in this process
        with when_compiling(_tell_compiling) if sys.stderr.isatty() else nullcontext():
            from_pipe = options.live or options.recordings == [STDIN]
            reports = (
                [_from_pipe(settings, options)] if from_pipe else _from_files(settings, options)
            )
        if options.json:
            write_json(options.json, reports)
    failed = sum("error" in report or "broken_off" in report for report in reports)
    if failed and len(reports) > 1:
        _tell(f"{failed} of {len(reports)} recordings could not be separated")
    return 2 if failed else 0


def _checked_segment(options: Namespace) -> float:
    """Check the options before anything is loaded; return the block length in seconds."""
    segment = (
        options.segment
        if options.segment is not None
        else LIVE_SEGMENT
        if options.live
        else SEGMENT
    )
    pipes = [name for name in options.recordings if name == STDIN]
    if not (segment > 0 and math.isfinite(segment)):
        raise SpikeSepError(f"--segment {segment:g}: give a positive number of seconds")
    if options.steps is not None and not 1 <= options.steps <= 1024:
        raise SpikeSepError(f"--steps {options.steps}: give 1 to 1024")
    if isinstance(options.channels, int) and options.channels < 1:
        raise SpikeSepError(
            f"--channels {options.channels}: give mix, each, or the number of one, counted from 1"
        )
    if options.jobs < 0:
        raise SpikeSepError(f"--jobs {options.jobs}: give 0, for all cores, or more")
    if options.live and options.recordings not in ([STDIN], [MICROPHONE]):
        raise SpikeSepError("--live: give - or mic, and nothing else; files need no --live")
    if pipes and len(options.recordings) > 1:
        raise SpikeSepError("-: standard input is separated alone; give files in another call")
    if options.raw is not None and (options.recordings != [STDIN] or options.raw < 1):
        raise SpikeSepError(f"--raw {options.raw}: give the rate in Hz of -, standard input")
    if options.resume and (options.overwrite or pipes or options.live):
        raise SpikeSepError(
            "--resume: continues a batch of files; leave out --overwrite, --live and -"
        )
    return segment


def _from_files(settings, options: Namespace) -> list[dict]:
    """Separate files, folders and patterns; return their reports."""
    from spikesep.separation.inference.batch import Batch

    out = options.out_dir or Path(".")
    found = find_recordings(options.recordings, out)
    batch = Batch(found.places, out, settings, options.json, options.overwrite, options.resume)
    total, reports = len(batch.targets), []
    if note := found.left_out():
        _tell(note)
    if batch.skipped:
        _tell(
            f"--resume: {len(batch.skipped)} of {total} recordings skipped, their voices are there"
        )
    try:
        with closing(batch.run(options.jobs, _bar)) as separated:
            for report in separated:
                reports.append(report)
                _tell_report(report)
    except (KeyboardInterrupt, SystemExit) as ended:
        _tell(
            f"stopped after {len(reports)} of {total} recordings; --resume continues with the rest"
        )
        raise SystemExit(130 if isinstance(ended, KeyboardInterrupt) else ended.code) from None
    return reports


def _from_pipe(settings, options: Namespace) -> dict:
    """Separate standard input or the microphone; return its report."""
    from spikesep.separation.inference.live import Outlet, separate_going_on, separate_whole

    (recording,) = options.recordings
    outlet = Outlet(recording, settings, options.out_dir, options.json, options.overwrite)
    if options.live:
        report = separate_going_on(settings, outlet, recording, options.raw, _tell)
    else:
        with _bar("standard input") as on_progress:
            report = separate_whole(settings, outlet, options.raw, on_progress)
    _tell_report(report)
    if "broken_off" in report:
        complain(PROG, f"{report['broken_off']} (what came before is separated)")
    return report


def _tell_report(report: dict) -> None:
    """Print one line per recording, to standard error if the voices go to standard output."""
    from spikesep.separation.inference.batch import line_of

    if "error" in report:
        complain(PROG, report["error"])
    elif "skipped" not in report:
        print(
            line_of(report),
            file=sys.stderr if report["voices"] == [STDIN] else sys.stdout,
            flush=True,
        )


def _tell(line: str) -> None:
    from spikesep.separation.inference.batch import printable

    print(printable(f"{PROG}: {line}"), file=sys.stderr)


def _tell_compiling() -> None:
    _tell("compiling the spiking layers for this processor; takes about 10 s, once")


@contextmanager
def _bar(title: str) -> Iterator[Callable[[float, float | None, float], None]]:
    """Show a progress bar on a terminal; yield its update of seconds, total, real-time factor."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[factor]}", markup=False), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        task = progress.add_task(title, total=None, factor="")
        yield lambda seconds, total, factor: progress.update(
            task, completed=seconds, total=total, factor=f"real-time factor {factor:.3f}"
        )
