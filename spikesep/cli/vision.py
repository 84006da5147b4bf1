"""`spikesep-vision TASK`: run one stage of an image recipe."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from spikesep.cli.common import exit_on_signal, recipe_parser, run, to_recipe
from spikesep.errors import SpikeSepError
from spikesep.files import write_json, write_text
from spikesep.vision.config import ImageRecipe

PROG = "spikesep-vision"
TASKS = ("prepare", "train", "convert", "score", "report")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = recipe_parser(
        PROG, "Run one stage of an image recipe. An interrupted run resumes.", ImageRecipe
    )
    parser.add_argument(
        "task",
        choices=TASKS,
        help="prepare the images, train the analog networks, convert them, score all networks, or "
        "write the report",
    )
    parser.add_argument(
        "--downloads",
        type=Path | None,
        default=None,
        help="folder for downloaded files (default: downloads beside --data)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        help="folder to which `report` writes its files",
    )
    parser.add_argument(
        "--command",
        default="",
        help="command recorded in the results (default: this one)",
    )
    command = shlex.join([PROG, *argv])
    run(parser, lambda options: run_stage(options, command), argv)


def run_stage(options: Namespace, command: str) -> None:
    """Run the stage that `options.task` names."""
    recipe = to_recipe(options, ImageRecipe)
    launch = recipe.launch
    if launch.launcher != "local" or launch.local_processes * launch.n_nodes > 1:
        raise SpikeSepError(
            "--launch: image tasks run in one process, local, on at most one accelerator"
        )
    if options.task == "prepare":
        _prepare(recipe, options)
    elif options.task == "report":
        _report(recipe, options, options.command or command)
    else:
        from spikesep.vision import stages

        commands = {
            "train": stages.train_all,
            "convert": stages.convert_all,
            "score": stages.score_all,
        }
        commands[options.task](recipe, options.data, options.exp)


def _prepare(recipe: ImageRecipe, options: Namespace) -> None:
    from spikesep.vision.data.preparation import prepare_images  # imports torch

    downloads = options.downloads or options.data.resolve().parent / "downloads"
    with exit_on_signal():
        print(f"{prepare_images(recipe.images, options.data, downloads)}: complete")


def _report(recipe: ImageRecipe, options: Namespace, command: str) -> None:
    from spikesep.vision.report import figures, page, summary

    found = summary.summarize(recipe, options.exp, command)
    write_json(options.exp / "results.json", found)
    folder = options.results if recipe.experiment.name else options.exp / "results"
    figures.draw(recipe, options.data, options.exp, found, folder)
    write_json(folder / f"{recipe.experiment.name or 'results'}.json", found)
    path = folder.parent / "RESULTS.md"
    write_text(path, page.markdown(folder, options.results.resolve().parent.name))
    print("\n".join(page.table(found)))
    print(f"{path}: written, with {folder}")
