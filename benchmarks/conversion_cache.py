"""Conversion with the spike cache against the same conversion without it.

    python -m benchmarks.conversion_cache \\
        --exp egs/debian-2mix/exp/default --data egs/debian-2mix/data

Both convert the same trained separator on the same examples in the same process, one after the
other; `--repeat` gives medians. The schedule is short, with fewer examples and epochs than a recipe
by default, so that it ends in minutes.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset

from benchmarks.timing import describe_command, describe_machine
from spikesep.files import write_json
from spikesep.separation.data.dataset import FixedCrops
from spikesep.separation.data.kaldi import read_data_dir
from spikesep.separation.model.separator import Separator, load_separator
from spikesep.separation.objective import NegativeSiSdr
from spikesep.training.config import CacheConfig, ConversionConfig
from spikesep.training.convert import convert
from spikesep.training.records.history import History


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exp", type=Path, required=True, help="experiment with a trained ann/")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train-segments", type=int, default=96)
    parser.add_argument("--valid-segments", type=int, default=24)
    parser.add_argument("--max-epochs", type=int, default=2)
    parser.add_argument("--n-steps", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    rate = load_separator(options.exp / "ann").sample_rate
    sets = [
        FixedCrops(read_data_dir(options.data / split), rate, rate, n)
        for split, n in (("tr", options.train_segments), ("cv", options.valid_segments))
    ]
    times, outcomes = {"cache": [], "no cache": []}, {}
    for _ in range(options.repeat):
        for name, gib in (("cache", 8.0), ("no cache", 0.0)):
            config = ConversionConfig(
                n_steps=options.n_steps,
                patience=options.max_epochs,
                max_epochs=options.max_epochs,
                calibration_examples=max(
                    8, options.train_segments // 6
                ),  # the proportion of the recipe's default
                cache=CacheConfig(gib),
                weight_bits=0,
            )
            seconds, outcomes[name] = one_conversion(
                load_separator(options.exp / "ann"), *sets, config
            )
            times[name].append(seconds)
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    found = {
        "seconds": median,
        "ratio": median["cache"] / median["no cache"],
        "same": same_outcome(outcomes["cache"], outcomes["no cache"]),
    }
    print_table(found, times)
    if options.json:
        write_json(options.json, describe_command("benchmarks.conversion_cache", 0) | found)


def one_conversion(
    model: Separator, train_set: Dataset, valid_set: Dataset, config: ConversionConfig
):
    """Convert, and return the seconds and (upper bounds, validation losses, weights)."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        history = History(Path(folder) / "history.csv")
        begun = time.perf_counter()
        choices = convert(
            model,
            NegativeSiSdr(),
            train_set,
            valid_set,
            config,
            Path(folder),
            history=history,
            metric=lambda *batch: -batch[-1],
        )
        seconds = time.perf_counter() - begun
        losses = [row.valid_loss for row in history.read()]
    return seconds, ([c.upper_bound for c in choices], losses, model.state_dict())


def same_outcome(one, other) -> dict[str, bool]:
    """Compare two outcomes of `one_conversion` to the bit."""
    return {
        "thresholds": one[0] == other[0],
        "losses": one[1] == other[1],
        "weights": all(torch.equal(tensor, other[2][name]) for name, tensor in one[2].items()),
    }


def print_table(found: dict, times: dict[str, list[float]]) -> None:
    console = Console()
    console.print(describe_machine())
    table = Table("conversion", "median s", "min", "max")
    for name, seconds in times.items():
        table.add_row(
            name, f"{statistics.median(seconds):.1f}", f"{min(seconds):.1f}", f"{max(seconds):.1f}"
        )
    console.print(table)
    same = ", ".join(f"{what}: {'yes' if equal else 'NO'}" for what, equal in found["same"].items())
    console.print(f"cache / no cache = {found['ratio']:.3f}; the same {same}")


if __name__ == "__main__":
    main()
