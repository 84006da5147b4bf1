"""Preparation of Libri2Mix on several workers, on one, and by LibriMix's own procedure.

    python -m benchmarks.preparation --librispeech /path/to/LibriSpeech

Ours is stage 1 as `spikesep-prepare mixtures` runs it: draw the metadata, write the mixtures with
checksums, write the data directory. The peer does what LibriMix's two scripts do for the same
mixtures, in one process and without their data frames: read both sources, measure and set their
loudness, again after the check for clipping; then read them once more, scale, resample, cut, and
write three files. Runs alternate, so that other load affects all of them.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyloudnorm
import soundfile
from rich.console import Console
from rich.table import Table
from scipy.signal import resample_poly

from spikesep.files import write_json
from spikesep.separation.config import CorpusConfig, MixingConfig, RecipeConfig
from spikesep.separation.data.corpora import list_utterances
from spikesep.separation.data.corpora.mixture_lists import MixtureListRow, read_mixture_list
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.kaldi import write_data_dir
from spikesep.separation.data.mixing import librimix
from spikesep.separation.data.mixing.plan import Version, planned_files
from spikesep.separation.data.mixing.render import Target, render_mixtures
from spikesep.workers import Workers

RATE, CORPUS_RATE = 8000, 16000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--librispeech",
        type=Path,
        required=True,
        help="folder that holds SPEAKERS.TXT and the subsets",
    )
    parser.add_argument("--mixtures", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    corpus = CorpusConfig(
        "librispeech", str(options.librispeech), as_published=True, min_seconds=3.0
    )
    table, _ = list_utterances(corpus, Path("unused"), 0, 1)
    table = [row for row in table if row.split == "tr"]
    runs: dict[str, Callable[[Path], list[MixtureListRow]]] = {
        "1 worker": lambda folder: ours(folder, table, options.mixtures, 1),
        f"{options.workers} workers": lambda folder: ours(
            folder, table, options.mixtures, options.workers
        ),
        "LibriMix's procedure": lambda folder: peer(folder, options.librispeech, planned_rows),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as home:
        # Fill the disk's cache and get the mixtures for the peer.
        planned_rows = ours(Path(home) / "first", table, options.mixtures, 1)
        for k in range(options.repeat):
            for name, run in runs.items():
                begun = time.perf_counter()
                run(Path(home) / f"{k}-{name}")
                seconds[name].append(time.perf_counter() - begun)
        same = agreement(Path(home) / "0-1 worker", Path(home) / "0-LibriMix's procedure")
    report(options, seconds, same)


def ours(folder: Path, table: list[Utterance], n: int, n_jobs: int) -> list[MixtureListRow]:
    """Run stage 1 for one set and return the rows of its metadata."""
    recipe = RecipeConfig(seed=0, mixing=MixingConfig(procedure="librimix"))
    version = Version(RATE, "min")
    target = Target(
        version,
        librimix.output_folder(folder, 2, version, "tr"),
        folder / "local" / "made" / "tr.tsv",
    )
    with Workers(n_jobs) as workers:
        plan, _ = librimix.plan_set(table, "tr", n, recipe, folder, workers)
        render_mixtures(plan, "librimix", [target], folder, workers, "tr")
    write_data_dir(
        folder / "tr",
        [
            planned_files(planned, target.folder, librimix.signal_names(2, False))
            for planned in plan
        ],
    )
    return read_mixture_list(folder / "metadata" / "libri2mix_tr.csv")


def peer(folder: Path, corpus: Path, rows: list[MixtureListRow]) -> None:
    """Run LibriMix's procedure for given pairs.

    The mixtures use the gains of `rows` instead of the measured ones, so that the files equal ours.
    """
    meter = pyloudnorm.Meter(CORPUS_RATE)
    chance = np.random.default_rng(0)
    for row in rows:
        sources = [soundfile.read(corpus / name, dtype="float32")[0] for name in row.recordings]
        longest = max(map(len, sources))
        sources = [np.pad(source, (0, longest - len(source))) for source in sources]
        scaled = []
        for source in sources:
            loudness = meter.integrated_loudness(source)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scaled.append(
                    pyloudnorm.normalize.loudness(source, loudness, chance.uniform(-33, -25))
                )
            if np.abs(scaled[-1]).max() >= 1:
                scaled[-1] = source * 0.9 / np.abs(source).max()
                meter.integrated_loudness(scaled[-1])
        weight = min(1.0, 0.9 / np.abs(sum(scaled)).max())
        for source in scaled:
            meter.integrated_loudness(source * weight)
    for part in ("mix_clean", "s1", "s2"):
        (folder / part).mkdir(parents=True)
    for row in rows:
        sources = [soundfile.read(corpus / name, dtype="float32")[0] for name in row.recordings]
        scaled = [
            np.float32(gain) * source for gain, source in zip(row.gains, sources, strict=True)
        ]
        signals = [resample_poly(source, RATE, CORPUS_RATE) for source in scaled]
        signals = [signal[: min(map(len, signals))] for signal in signals]
        for part, signal in zip(("mix_clean", "s1", "s2"), (sum(signals), *signals), strict=True):
            soundfile.write(folder / part / f"{row.name}.wav", signal, RATE)


def agreement(one: Path, other: Path) -> str:
    """Count the files of `other` that are the same in `one`."""
    home = librimix.output_folder(one, 2, Version(RATE, "min"), "tr")
    files = {path.relative_to(other) for path in other.rglob("*.wav")}
    alike = sum((home / path).read_bytes() == (other / path).read_bytes() for path in files)
    return f"{alike} of {len(files)} files are the same to the bit"


def report(options: argparse.Namespace, seconds: dict[str, list[float]], same: str) -> None:
    # Imported here because it loads torch, with which workers are not forked.
    from benchmarks.timing import describe_command, describe_machine

    console = Console()
    console.print(describe_machine())
    shown = Table("preparation", "median s", "min", "max", "ms a mixture", "times 1 worker")
    median = {name: statistics.median(values) for name, values in seconds.items()}
    one, several, _ = median
    for name, values in seconds.items():
        each = 1000 * median[name] / options.mixtures
        speed = median[one] / median[name]
        shown.add_row(
            name,
            f"{median[name]:.2f}",
            f"{min(values):.2f}",
            f"{max(values):.2f}",
            f"{each:.2f}",
            f"{speed:.2f}",
        )
    console.print(shown)
    console.print(f"{options.mixtures} mixtures, 8 kHz, min; {same}")
    if options.json:
        found = {
            "mixtures": options.mixtures,
            "seconds": seconds,
            "median": median,
            "files": same,
            "speedup": median[one] / median[several],
        }
        write_json(options.json, describe_command("benchmarks.preparation", 0) | found)


if __name__ == "__main__":
    main()
