"""Run the benchmarks: `python -m benchmarks [--list] [--only NAME] [--out FOLDER] [--quick]`.

All contenders run in turn, with the same number of threads and after a warm-up. Times are medians
with minimum and maximum; a ratio is peer / ours. A peer that is missing gets a row with the command
that installs it. benchmarks/README.md says what each benchmark needs.
"""

import argparse
import ast
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import timing
from spikesep.files import write_json

# module.function, imported when it runs, so that a process holds only what it measures.
BENCHMARKS = {
    "engines-128": "engines.comparison.small_stack",
    "engines-full-size": "engines.comparison.full_size",
    "engines-gpu": "engines.comparison.accelerator",
    "activity": "engines.comparison.activity",
    "crossing": "engines.comparison.crossing",
    "conversion-depth": "training.conversion_depth.conversion_depth",
    "memory": "training.memory.memory",
    "ann-training": "training.ann_training.ann_training",
    "neurons": "neurons.neurons",
    "live": "live.live",
    "image-training": "images.training.image_training",
    "separator": "separator.separator",
    "converters": "converters.comparison.converters",
    "pareto": "pareto.report.pareto",
}
SEED = 0
"""Of all benchmarks."""


def main() -> int:
    """Run the benchmarks asked for; return 1 if one of them failed."""
    options = _parser().parse_args()
    console = Console(width=200)
    if options.list:
        for name, place in BENCHMARKS.items():
            console.print(f"{name:18} {_summary(place)}", soft_wrap=True, highlight=False)
        return 0
    console.print(timing.describe_machine())
    every, failed = [], []
    for name in options.only or BENCHMARKS:
        record = _record(name, options)
        if options.out:
            file = options.out / f"{name}.json"
            write_json(file, record)
            if "rows" in record:
                _journal(file).unlink(missing_ok=True)
        if "rows" in record:
            every += record["rows"]
            for part in _tables(name, record["rows"]):
                console.print(part)
        else:
            console.print(f"{name}: {record.get('skipped') or record['failed']}", soft_wrap=True)
            failed += [name] if "failed" in record else []
    if options.json:
        write_json(options.json, every)
        if "memory" not in failed:
            _journal(options.json).unlink(missing_ok=True)
    if failed:
        console.print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the benchmarks and end")
    parser.add_argument(
        "--only", choices=BENCHMARKS, action="append", help="run this benchmark; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="smaller networks, fewer rounds")
    parser.add_argument(
        "--out",
        type=Path,
        help="write a JSON file per benchmark, with machine, versions and seed, and figures here",
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="write the rows of all to this file, and a figure, if there is one, beside it",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("build/images"),
        help="folder of the images that `converters` downloads; default: %(default)s",
    )
    return parser


def _record(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a benchmark; return its rows, or why it was skipped or failed, and how it was run."""
    path, _, function = BENCHMARKS[name].rpartition(".")
    command = f"python -m benchmarks --only {name}{' --quick' if options.quick else ''}"
    record = {"benchmark": name, "command": command, "run": timing.describe_run(SEED)}
    try:
        module = import_module(f"benchmarks.{path}")
        found = getattr(module, function)(options.quick, **_more(name, options))
    except ModuleNotFoundError as error:
        remedy = "pip install -e '.[train,bench]'"
        return record | {"skipped": f"skipped, {error.name} is not installed: {remedy}"}
    except Exception as error:  # the other benchmarks still run
        traceback.print_exc()
        return record | {"failed": f"failed, {type(error).__name__}: {error}"}
    if isinstance(found, str):
        return record | {"skipped": f"skipped, {found}"}
    return record | {"rows": found}


def _more(name: str, options: argparse.Namespace) -> dict[str, Path | None]:
    """Return the files and folders that a benchmark uses."""
    file = options.out / f"{name}.json" if options.out else options.json
    journal, figure = file and _journal(file), file and file.with_suffix(".png")
    return {
        "memory": {"journal": journal},
        "converters": {"data": options.data, "figure": figure},
        "pareto": {"folder": options.out},
    }.get(name, {})


def _tables(name: str, rows: list[dict]):
    module = import_module(f"benchmarks.{BENCHMARKS[name].rpartition('.')[0]}")
    return getattr(module, "table", timing.table)(name, rows)


def _summary(place: str) -> str:
    """Return the first line of a benchmark's docstring, without importing what it needs."""
    path, _, function = place.rpartition(".")
    source = Path(__file__).parent / f"{path.replace('.', '/')}.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise AssertionError(f"{source} has no {function}")


def _journal(file: Path) -> Path:
    """Return the file beside a benchmark's own from which an interrupted run resumes."""
    return file.with_suffix(".journal.json")


if __name__ == "__main__":
    sys.exit(main())
