"""`spikesep-train`: pre-train the analog separator (stage 2)."""

import time
from pathlib import Path

from spikesep.cli.common import recipe_of, recipe_parser, run
from spikesep.training.config import LaunchConfig, is_first_process
from spikesep.training.processes.slurm import Resources


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = recipe_parser(
        "spikesep-train", "Pre-train the analog separator; a stopped run goes on."
    )
    parser.add_argument(
        "--from-ann",
        type=Path | None,
        default=None,
        help="analog separator to begin with, instead of chance",
    )
    run(parser, train, argv, _needs)


def _needs(launch: LaunchConfig) -> Resources:
    return Resources(launch.n_nodes, launch.local_processes, launch.n_gpus)


def train(options) -> None:
    """Call stage 2 and say where the model is."""
    began = time.monotonic()
    from spikesep.separation.experiment import train_ann

    folder = train_ann(options.data, options.exp, recipe_of(options), options.from_ann, began)
    if is_first_process():
        print(f"analog separator: {folder}")
