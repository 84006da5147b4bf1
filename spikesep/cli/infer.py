"""`spikesep-infer`: separate the voices of recordings."""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import Progress

from spikesep.cli.common import complain, run
from spikesep.errors import SpikeSepError
from spikesep.files import write_json


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), infer, argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="spikesep-infer",
        description="Separate the voices of recordings into <stem>_spk1.wav, <stem>_spk2.wav. Channels are averaged; "
        "any sample rate is brought to the model's and back.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("recordings", nargs="+", type=Path, metavar="WAV", help="wav, flac, ogg, mp3 or gsm")
    parser.add_argument("--model", type=Path, required=True, help="a model folder, or exp/<tag> of a recipe")
    parser.add_argument("--network", type=Literal["snn", "ann"] | None, default=None, help="which network of exp/<tag>")
    parser.add_argument("--out-dir", type=Path, default=Path("."), help="where the voices go")
    parser.add_argument("--overwrite", action="store_true", help="replace files there")
    parser.add_argument(
        "--level",
        type=Literal["match-mix", "peak", "none"],
        default="match-mix",
        help="of the voices: adding up to the mixture, each to a peak of 0.9, or as they come; never clipped",
    )
    parser.add_argument("--segment", type=float, default=30.0, metavar="SECONDS", help="block length; bounds memory")
    parser.add_argument(
        "--engine",
        type=Literal["auto", "dense", "event", "gpu"],
        default="auto",
        help="how the spiking layers run; in fixed-point form the voices are the same to the bit",
    )
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--json", type=Path | None, default=None, metavar="FILE", help="write a report")
    return parser


def infer(options: Namespace) -> int:
    """Separate every recording; a bad one is named and the rest goes on. Status 2 if there was any."""
    from spikesep.separation.separate import load_model

    if options.segment <= 0:
        raise SpikeSepError(f"--segment {options.segment:g}: give a positive number of seconds")
    model = load_model(options.model, options.network, options.device)
    model.separator.network.use_engine(options.engine)
    targets = _targets(options, model.n_speakers)
    reports, failed = [], 0
    for recording, files in targets.items():
        try:
            reports.append(_separate(model, recording, files, options))
        except (SpikeSepError, OSError) as error:
            complain("spikesep-infer", error)
            reports.append({"recording": str(recording), "error": str(error)})
            failed += 1
    if options.json:
        write_json(options.json, reports)
    if failed and len(targets) > 1:
        print(f"{failed} of {len(targets)} recordings could not be separated", file=sys.stderr)
    return 2 if failed else 0


def _targets(options: Namespace, n_speakers: int) -> dict[Path, list[Path]]:
    """The output files of each recording; no two may be the same, none may be there unless it may be overwritten."""
    targets = {
        path: [options.out_dir / f"{path.stem}_spk{k + 1}.wav" for k in range(n_speakers)]
        for path in options.recordings
    }
    for file, times in Counter(file for files in targets.values() for file in files).items():
        if times > 1:
            raise SpikeSepError(
                f"{file}: would be written for {times} recordings of the same name; separate them apart"
            )
    recordings = {path.resolve() for path in options.recordings}
    for file in (file for files in targets.values() for file in files if file.resolve() in recordings):
        raise SpikeSepError(f"{file}: is one of the recordings; give another --out-dir")
    if not options.overwrite:
        for file in (file for files in targets.values() for file in files if file.exists()):
            raise SpikeSepError(f"{file}: is there already; give --overwrite, or another --out-dir")
    return targets


def _separate(model, recording: Path, files: list[Path], options: Namespace) -> dict:
    from spikesep.separation.audio import read_channels, write_wav

    channels, sample_rate = read_channels(recording)
    seconds = channels.shape[1] / sample_rate
    begun = time.perf_counter()
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(recording.name, total=1.0)
        result = model.separate_recording(
            channels, sample_rate, options.level, options.segment, lambda share: progress.update(task, completed=share)
        )
    spent = time.perf_counter() - begun
    for voice, file in zip(result.estimates, files, strict=True):
        write_wav(file, voice, sample_rate)
    notes = []
    if len(channels) > 1:
        notes.append(f"{len(channels)} channels averaged")
    if result.scale < 1:
        notes.append(f"lowered by {result.scale:.2f} to stay within full scale")
    summary = ", ".join([_summary(model, result.cost, seconds, sample_rate, spent), *notes])
    print(f"{recording} -> {', '.join(map(str, files))}: {summary}")
    return {
        "recording": str(recording),
        "voices": [str(file) for file in files],
        "seconds": seconds,
        "sample_rate": sample_rate,
        "channels": len(channels),
        "real_time_factor": spent / seconds,
        "network": model.kind,
        "scale": result.scale,
        "cost": result.cost.to_dict(),
        "engines": {name: layer.ran_on for name, layer in model.separator.network.layers.items() if layer.ran_on},
    }


def _summary(model, cost, seconds: float, sample_rate: int, spent: float) -> str:
    work = f"{cost.macs / 1e6:.0f} M MACs"
    if cost.synops:
        work = f"{cost.synops / 1e6:.0f} M SynOps ({cost.synops_ratio:.2f} of the ANN's MACs)"
    factor = f"real-time factor {spent / seconds:.3f}"
    return f"{seconds:.2f} s at {sample_rate} Hz in {spent:.2f} s, {factor}, {model.kind} {work}"
