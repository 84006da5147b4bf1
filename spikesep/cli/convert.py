"""`spikesep-convert`: convert the trained separator to spiking neurons (stage 3)."""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from spikesep.cli.common import recipe_parser, run, to_recipe
from spikesep.training.processes.slurm import Resources


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = recipe_parser(
        "spikesep-convert",
        "Convert the separator by progressive tandem learning. An interrupted run resumes.",
    )
    parser.add_argument(
        "--from-ann",
        type=Path | None,
        default=None,
        help="analog separator to convert, if --exp contains none",
    )
    parser.add_argument(
        "--from-snn",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="result of an earlier conversion of this analog separator, to train further; with "
        "several, training starts from their average",
    )
    run(parser, convert, argv, lambda launch: Resources(gpus=min(1, launch.n_gpus)))


def convert(options) -> None:
    """Run stage 3 and print its report, one row per layer."""
    began = time.monotonic()
    from spikesep.separation.experiment import convert_snn

    recipe = to_recipe(options)
    folder, reports = convert_snn(
        options.data, options.exp, recipe, options.from_ann, options.from_snn, began
    )
    if reports:
        Console().print(_table(reports))
    print(f"spiking separator: {folder}")


def _table(reports) -> Table:
    table = Table(
        "layer",
        title="Conversion report",
        caption="count error in spikes; quantization error relative",
    )
    for name in ("threshold", "percentile", "clipped", "rate", "quantization error", "count error"):
        table.add_column(name, justify="right")
    for r in reports:
        table.add_row(
            r.layer,
            f"{r.threshold:.4g}",
            f"{r.percentile:g}",
            f"{r.clipped_share:.2%}",
            f"{r.firing_rate:.3f}",
            f"{r.quantization_error:.3f}",
            f"{r.count_error:.3f}",
        )
    return table
