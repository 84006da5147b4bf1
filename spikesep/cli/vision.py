"""`spikesep-vision TASK`: the stages of an image recipe: prepare the images, train the analog networks, convert them,
score them, write the report.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from spikesep.cli.common import recipe_of, recipe_parser, run, unwinding
from spikesep.errors import SpikeSepError
from spikesep.files import write_json, write_text
from spikesep.vision.config import ImageRecipe

PROG = "spikesep-vision"
TASKS = ("prepare", "train", "convert", "score", "report")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = recipe_parser(
        PROG, "Run one stage of an image recipe; a stopped run goes on.", ImageRecipe
    )
    parser.add_argument("task", choices=TASKS, help="the stage")
    parser.add_argument(
        "--downloads", type=Path | None, default=None, help="folder of fetched files; beside --data"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where `report` leaves its files"
    )
    parser.add_argument(
        "--command", default="", help="recorded beside the results; this command if not given"
    )
    run(parser, lambda options: _act(options, shlex.join([PROG, *argv])), argv)


def _act(options: Namespace, command: str) -> None:
    recipe = recipe_of(options, ImageRecipe)
    launch = recipe.launch
    if launch.launcher != "local" or launch.local_processes * launch.n_nodes > 1:
        raise SpikeSepError(
            "--launch: image tasks run in one process, local, on at most one accelerator"
        )
    if options.task == "prepare":
        from spikesep.vision.preparation import prepare_images  # brings torch

        downloads = options.downloads or options.data.resolve().parent / "downloads"
        with unwinding():
            print(f"{prepare_images(recipe.images, options.data, downloads)}: there and whole")
        return
    from spikesep.vision import runs

    stages = {
        "train": runs.train_all,
        "convert": runs.convert_all,
        "score": runs.score_all,
        "report": None,
    }
    if options.task != "report":
        stages[options.task](recipe, options.data, options.exp)
    else:
        _report(recipe, options, options.command or command)


def _report(recipe: ImageRecipe, options: Namespace, command: str) -> None:
    from spikesep.vision import figures, results, results_page

    found = results.summarize(recipe, options.exp, command)
    write_json(options.exp / "results.json", found)
    folder = options.results if recipe.experiment.name else options.exp / "results"
    figures.draw(recipe, options.data, options.exp, found, folder)
    write_json(folder / f"{recipe.experiment.name or 'results'}.json", found)
    page = folder.parent / "RESULTS.md"
    write_text(page, results_page.markdown(folder, options.results.resolve().parent.name))
    print("\n".join(results_page.table(found)))
    print(f"{page}: written, with {folder}")
