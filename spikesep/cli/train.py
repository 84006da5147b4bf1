"""`spikesep-train`: pre-train the analog separator (stage 2)."""

import time
from pathlib import Path

from spikesep.cli.common import recipe_parser, run, to_recipe
from spikesep.training.config import LaunchConfig, is_first_process
from spikesep.training.processes.slurm import Resources


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = recipe_parser(
        "spikesep-train", "Pre-train the analog separator. An interrupted run resumes."
    )
    parser.add_argument(
        "--from-ann",
        type=Path | None,
        default=None,
        help="analog separator to start from (default: random initialization)",
    )
    run(parser, train, argv, _resources)


def _resources(launch: LaunchConfig) -> Resources:
    return Resources(launch.n_nodes, launch.local_processes, launch.n_gpus)


def train(options) -> None:
    """Run stage 2 and print the folder of the model."""
    began = time.monotonic()
    from spikesep.separation.experiment import train_ann

    folder = train_ann(options.data, options.exp, to_recipe(options), options.from_ann, began)
    if is_first_process():
        print(f"analog separator: {folder}")
