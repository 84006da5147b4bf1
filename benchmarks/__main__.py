"""Run the benchmarks: `python -m benchmarks [--only NAME] [--quick] [--json FILE]`.

The engines need the extra `bench`. All contenders run in turn in one process, with the same number
of threads and after a warm-up. Times are medians with minimum and maximum; a ratio is peer / ours.
"""

import argparse
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.timing import describe_machine
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
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", choices=BENCHMARKS, action="append", help="run this benchmark; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="smaller networks, fewer rounds")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    console, rows = Console(width=200), []
    console.print(describe_machine())
    for name in options.only or BENCHMARKS:
        module, function = BENCHMARKS[name].split(".")
        journal = options.json and options.json.with_suffix(".memory.json")
        more = {"journal": journal} if name == "memory" else {}
        found = getattr(import_module(f"benchmarks.{module}"), function)(options.quick, **more)
        if isinstance(found, str):
            console.print(f"{name}: skipped, {found}")
            continue
        rows += found
        table = Table(
            "what", "ours, s", "peer", "peer, s", "ratio", "same result", "note", title=name
        )
        for r in found:
            same = {True: "yes", False: "NO", None: ""}[r["counts_equal"]]
            table.add_row(
                r["name"],
                r["ours"],
                r["peer"],
                r["peer_range"],
                f"{r['ratio']:.2f}",
                same,
                r.get("note", ""),
            )
        console.print(table)
    if options.json:
        write_json(options.json, rows)
        journal.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
