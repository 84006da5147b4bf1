"""`spikesep-infer`: separate the voices of recordings."""

import math
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common import (
    add_band_option,
    add_energy_option,
    add_model_options,
    add_voice_options,
    exit_on_signal,
    print_error,
    quiet_libraries,
    run,
)
from spikesep.cli.common.progress import progress_bar
from spikesep.errors import SpikeSepError
from spikesep.files import write_json, write_text
from spikesep.separation.inference import MICROPHONE, STDIN

if TYPE_CHECKING:
    from spikesep.separation.inference.settings import InferenceSettings

PROG = "spikesep-infer"
SEGMENT = 10.0
"""Default length of the network's blocks in seconds. For much longer ones, the allocator returns
the memory to the system after each block, which is slow."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), infer, argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=PROG,
        description="Separate the voices of recordings of any length and sample rate into "
        "<stem>_spk1.wav, <stem>_spk2.wav; recordings that share a stem get <name>_spk1.wav. "
        "A folder stands for the audio files in it and below, except the output of an earlier run; "
        "its layout is kept. With -, a recording is read from standard input and its voices are "
        "written to standard output as one 16-bit WAV stream with a channel per voice; messages go "
        "to standard error. Exit status: 0 if everything was separated; 2 if a recording was not, "
        "or an option is wrong; 130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    _add_input_options(parser)
    add_model_options(parser)
    _add_network_options(parser)
    _add_output_options(parser)
    return parser


def _add_input_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "recordings",
        nargs="+",
        type=str,
        metavar="FILE",
        help="files (wav, flac, ogg, mp3, m4a, gsm, SPHERE, ...), pipes, folders, or quoted "
        "patterns such as 'talks/**/*.wav'; - for standard input; with --live, mic for the "
        "microphone",
    )
    parser.add_argument(
        "--channels",
        type=Literal["mix", "each"] | int,
        default="mix",
        metavar="{mix,each,N}",
        help="what to separate: the average of all channels (or the strongest channel if they "
        "cancel each other), each channel by itself into <stem>_ch1_spk1.wav and so on, or "
        "channel N, counted from 1",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="separate - (a WAV stream, or --raw) or mic while it continues; the latency and its "
        "parts are printed at the start; the default model is a shipped one named live, if there "
        "is one; output levels follow what was heard so far; Ctrl-C or SIGTERM ends it",
    )
    parser.add_argument(
        "--raw",
        type=int | None,
        default=None,
        metavar="RATE",
        help="read - as headerless 16-bit mono samples at RATE Hz",
    )


def _add_network_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--steps",
        type=int | None,
        default=None,
        metavar="N",
        help="number of time steps of the spiking network (default: as trained); fewer steps cost "
        "less and quantize more coarsely; thresholds are rescaled so that the largest value a "
        "neuron can represent stays the same",
    )
    parser.add_argument(
        "--engine",
        type=Literal["auto", "dense", "event", "gpu"],
        default="auto",
        help="implementation of the spiking layers; the voices of fixed-point models are identical "
        "on all of them",
    )
    parser.add_argument(
        "--segment",
        type=float | None,
        default=None,
        metavar="SECONDS",
        help="length of the network's blocks, which bounds memory but does not change the voices "
        f"(default: {SEGMENT:g}; with --live 0.1, or 0.02 for a causal model)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="number of processes that separate files in parallel; 0 uses all cores",
    )


def _add_output_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out-dir",
        type=Path | None,
        default=None,
        help="output folder (default: the current one; for -, standard output)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue a batch: skip recordings whose voices all exist and are no older than the "
        "recording, whatever model and options they were made with; replace partial or older "
        "voices of the others",
    )
    add_voice_options(parser)
    add_band_option(parser)
    add_energy_option(parser)
    parser.add_argument(
        "--rttm",
        type=Path | None,
        default=None,
        metavar="FILE",
        help="write who spoke when, in all recordings, as Rich Transcription Time Marked lines; "
        "spk1 of recording <stem> is the voice in <stem>_spk1.wav",
    )
    parser.add_argument(
        "--json", type=Path | None, default=None, metavar="FILE", help="write a JSON report"
    )


def infer(options: Namespace) -> int:
    """Separate all recordings; report those that fail and return status 2 if any did."""
    _check(options)
    with quiet_libraries(), exit_on_signal():
        from spikesep.compilation import load_without_blas, when_compiling
        from spikesep.separation.inference.settings import InferenceSettings, cached_model

        names = (
            "network", "steps", "engine", "device", "level", "channels", "tracks",
            "voices", "energy_table", "band",
        )  # fmt: skip
        settings = InferenceSettings(
            **{name: options[name] for name in names},
            model=_model(options),
            segment=_segment(options),
        )
        load_without_blas()
        cached_model.cache_clear()  # the files may have changed since an earlier call
        if options.rttm and cached_model(settings).embedder is None:
            raise SpikeSepError(
                f"--rttm {options.rttm}: this model has no embedder of speakers; train one with "
                "spikesep-tracks, or leave --rttm out"
            )
        with when_compiling(_tell_compiling) if sys.stderr.isatty() else nullcontext():
            if options.live or options.recordings == [STDIN]:
                reports = [_separate_pipe(settings, options)]
            else:
                reports = _separate_files(settings, options)
        if options.json:
            write_json(options.json, reports)
        if options.rttm:
            _write_rttm(options, reports)
    failed = sum("error" in report or "broken_off" in report for report in reports)
    if failed and len(reports) > 1:
        _tell(f"{failed} of {len(reports)} recordings could not be separated")
    return 2 if failed else 0


def _write_rttm(options: Namespace, reports: list[dict[str, Any]]) -> None:
    """Write who spoke when in all separated recordings."""
    from spikesep.separation.tracks.rttm import format_reports

    channel = options.channels if isinstance(options.channels, int) else 1
    write_text(options.rttm, format_reports(reports, channel, options.out_dir or Path(".")))


def _segment(options: Namespace) -> float | None:
    """Return the length of the network's blocks; None leaves it to the model of a live stream."""
    return SEGMENT if options.segment is None and not options.live else options.segment


def _model(options: Namespace) -> str | None:
    """Return the model; without the option, the default of live streams for one of these."""
    if options.model is not None or not options.live:
        return options.model
    from spikesep.separation.model.hub import default_name

    return default_name(live=True)


def _check(options: Namespace) -> None:
    """Check values and combinations of options before anything is loaded."""
    segment = _segment(options)
    has_stdin = STDIN in options.recordings
    if segment is not None and not (segment > 0 and math.isfinite(segment)):
        raise SpikeSepError(f"--segment {segment:g}: give a positive number of seconds")
    if options.steps is not None and not 1 <= options.steps <= 1024:
        raise SpikeSepError(f"--steps {options.steps}: give 1 to 1024")
    if isinstance(options.channels, int) and options.channels < 1:
        raise SpikeSepError(
            f"--channels {options.channels}: give mix, each, or a channel's number, counted from 1"
        )
    if isinstance(options.voices, int) and options.voices < 1:
        raise SpikeSepError(f"--voices {options.voices}: give all, auto, or a number from 1")
    if options.live and options.voices != "all":
        raise SpikeSepError(
            f"--voices {options.voices}: cannot be known while a recording goes on; leave it out "
            "with --live"
        )
    if options.jobs < 0:
        raise SpikeSepError(f"--jobs {options.jobs}: give 0, for all cores, or more")
    if options.live and options.recordings not in ([STDIN], [MICROPHONE]):
        raise SpikeSepError("--live: give - or mic, and nothing else; files need no --live")
    if has_stdin and len(options.recordings) > 1:
        raise SpikeSepError("-: standard input goes alone; separate files in another call")
    if options.raw is not None and (options.recordings != [STDIN] or options.raw < 1):
        raise SpikeSepError(f"--raw {options.raw}: give the rate in Hz of -, standard input")
    if options.resume and (options.overwrite or has_stdin or options.live):
        raise SpikeSepError(
            "--resume: continues a batch of files; leave out --overwrite, --live and -"
        )
    if options.rttm is not None and (options.tracks == "off" or options.resume):
        other = "--tracks off" if options.tracks == "off" else "--resume"
        raise SpikeSepError(
            f"--rttm {options.rttm}: cannot be combined with {other}; leave one of them out"
        )


def _reports(options: Namespace) -> dict[str, Path]:
    """Return the files to be written besides voices, by option."""
    files = {"--json": options.json, "--rttm": options.rttm}
    return {option: file for option, file in files.items() if file is not None}


def _separate_files(settings: "InferenceSettings", options: Namespace) -> list[dict[str, Any]]:
    """Separate files, folders and patterns; return their reports."""
    from spikesep.separation.inference.batch import Batch

    out = options.out_dir or Path(".")
    from spikesep.separation.inference.inputs import find_recordings

    found = find_recordings(options.recordings, out)
    batch = Batch(
        found.relative_paths,
        out,
        settings,
        reports=_reports(options),
        overwrite=options.overwrite,
        resume=options.resume,
    )
    total, reports = len(batch.targets), []
    if note := found.describe_left_out():
        _tell(note)
    if batch.skipped:
        _tell(f"--resume: {len(batch.skipped)} of {total} recordings skipped, their voices exist")
    try:
        with closing(batch.run(options.jobs, progress_bar)) as separated:
            for report in separated:
                reports.append(report)
                _print_report(report)
    except (KeyboardInterrupt, SystemExit) as ended:
        _tell(
            f"stopped after {len(reports)} of {total} recordings; --resume continues with the rest"
        )
        raise SystemExit(130 if isinstance(ended, KeyboardInterrupt) else ended.code) from None
    return reports


def _separate_pipe(settings: "InferenceSettings", options: Namespace) -> dict[str, Any]:
    """Separate standard input or the microphone; return its report."""
    from spikesep.separation.inference.live import (
        PipeOutput,
        separate_live_input,
        separate_standard_input,
    )

    (recording,) = options.recordings
    output = PipeOutput(
        recording,
        settings,
        out=options.out_dir,
        reports=_reports(options),
        overwrite=options.overwrite,
    )
    if options.live:
        report = separate_live_input(settings, output, recording, raw_rate=options.raw, tell=_tell)
    else:
        with progress_bar("standard input") as on_progress:
            report = separate_standard_input(settings, output, options.raw, on_progress)
    _print_report(report)
    if "broken_off" in report:
        print_error(PROG, f"{report['broken_off']} (everything before that is separated)")
    return report


def _print_report(report: dict[str, Any]) -> None:
    """Print one line per recording, on standard error if the voices go to standard output."""
    from spikesep.separation.inference.report import format_report

    if "error" in report:
        print_error(PROG, report["error"])
    elif "skipped" not in report:
        file = sys.stderr if report["voices"] == [STDIN] else sys.stdout
        print(format_report(report), file=file, flush=True)


def _tell(line: str) -> None:
    from spikesep.separation.inference.report import printable

    print(printable(f"{PROG}: {line}"), file=sys.stderr)


def _tell_compiling() -> None:
    _tell("compiling the spiking layers for this processor; takes about 10 s, once")
