"""Run the benchmarks: `python -m benchmarks [--only NAME] [--quick] [--json FILE]`.

The engines need the extra `bench`. All contenders run in turn in one process, with the same number
of threads and after a warm-up. Times are medians with minimum and maximum; a ratio is peer / ours.
"""

import argparse
from importlib import import_module
from pathlib import Path

from rich.console import Console

from benchmarks import timing
from spikesep.files import write_json

# module.function, imported when it runs, so that a process holds only what it measures.
BENCHMARKS = {
    "engines-128": "engines.small_stack",
    "engines-full-size": "engines.full_size",
    "engines-gpu": "engines.accelerator",
    "activity": "engines.activity",
    "crossing": "engines.crossing",
    "conversion-depth": "conversion_depth.conversion_depth",
    "memory": "memory.memory",
    "ann-training": "ann_training.ann_training",
    "neurons": "neurons.neurons",
    "live": "shipped.live.live",
    "image-training": "images.training.image_training",
    "separator": "shipped.separator.separator",
    "converters": "converters.comparison.converters",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", choices=BENCHMARKS, action="append", help="run this benchmark; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="smaller networks, fewer rounds")
    parser.add_argument(
        "--json",
        type=Path,
        help="write the rows to this file, and a figure, if there is one, beside it",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("build/images"),
        help="folder of the images that `converters` downloads; default: %(default)s",
    )
    options = parser.parse_args()
    console, rows = Console(width=200), []
    console.print(timing.describe_machine())
    for name in options.only or BENCHMARKS:
        path, _, function = BENCHMARKS[name].rpartition(".")
        module = import_module(f"benchmarks.{path}")
        found = getattr(module, function)(options.quick, **_more(name, options))
        if isinstance(found, str):
            console.print(f"{name}: skipped, {found}")
            continue
        rows += found
        for part in getattr(module, "table", timing.table)(name, found):
            console.print(part)
    if options.json:
        write_json(options.json, rows)
        _journal(options.json).unlink(missing_ok=True)


def _more(name: str, options: argparse.Namespace) -> dict[str, Path | None]:
    """Return the files and folders that a benchmark uses."""
    if name == "memory":
        return {"journal": options.json and _journal(options.json)}
    if name == "converters":
        return {"data": options.data, "figure": options.json and options.json.with_suffix(".png")}
    return {}


def _journal(json: Path) -> Path:
    return json.with_suffix(".memory.json")


if __name__ == "__main__":
    main()
