"""Timing of contenders in turn, so that a slow moment of the machine affects all of them."""

import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from rich.table import Table

from spikesep.provenance import processor_name, provenance

PEERS = (
    "numba", "triton", "cupy", "cupy-cuda12x", "cupy-cuda13x", "spikingjelly", "snntorch", "sinabs",
    "sinabs-exodus", "norse", "lava-dl", "asteroid",
)  # fmt: skip
"""Packages whose versions matter to a measurement, besides torch."""
MASKS = (
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY",
    "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES",
)  # fmt: skip
"""Environment variables that hide instructions of the processor from a library."""


@dataclass(frozen=True)
class Times:
    """Seconds of each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        extremes = (
            f" ({min(self.seconds):.4g}-{max(self.seconds):.4g})" if len(self.seconds) > 1 else ""
        )
        return f"{self.median:.4g}{extremes}"


def time_in_turn(
    contenders: dict[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Time each contender over `rounds` rounds, after a warm-up.

    In its turn, a contender runs three times and the last run is timed: torch's threads spin for
    many milliseconds after a parallel loop, on the cores of the contender that comes next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.no_grad():
        for k in range(warm_up + rounds):
            for name, run in contenders.items():
                run(), run()
                begun = clock()
                run()
                if k >= warm_up:
                    seconds[name].append(clock() - begun)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def row(name: str, ours: Times, peer_name: str, peer: Times, equal: bool | None, **more) -> dict:
    """Return a comparison as a row of the JSON file.

    Args:
        name: what was run.
        ours: times of SpikeSep.
        peer_name: the other contender.
        peer: its times.
        equal: whether both gave the same counts; None if they cannot be compared.
        more: additional fields; `note` is printed.
    """
    return {
        "name": name,
        "ours_s": ours.median,
        "ours": str(ours),
        "peer": peer_name,
        "peer_s": peer.median,
        "peer_range": str(peer),
        "ratio": peer.median / ours.median,
        "counts_equal": equal,
        **more,
    }


def untimed_row(name: str, ours: Times, peer_name: str, status: str, note: str) -> dict:
    """Return a row for a contender without a time, with the reason.

    Args:
        name: what was run.
        ours: times of SpikeSep.
        peer_name: the other contender.
        status: `missing`, `unsuitable`, `failed`, or `other` counts.
        note: the reason.
    """
    return {
        "name": name,
        "ours_s": ours.median,
        "ours": str(ours),
        "peer": peer_name,
        "peer_s": None,
        "peer_range": "",
        "ratio": None,
        "counts_equal": False if status == "other" else None,
        "status": status,
        "note": note,
    }


def table(name: str, rows: list[dict]) -> Iterator[Table]:
    """Yield the table of a benchmark's rows; see `row`."""
    unit = "MiB" if any("ours_mib" in r for r in rows) else "s"
    columns = ("what", f"ours, {unit}", "peer", f"peer, {unit}", "ratio", "same result", "note")
    found = Table(*columns, title=name)
    for r in rows:
        same = {True: "yes", False: "NO", None: ""}[r["counts_equal"]]
        found.add_row(
            r["name"],
            r["ours"],
            r["peer"],
            r["peer_range"],
            "" if r["ratio"] is None else f"{r['ratio']:.2f}",
            same,
            r.get("note", ""),
        )
    yield found


def describe_machine() -> str:
    """Return processor, threads in use and versions, without the host name."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{processor_name()}, {torch.get_num_threads()} threads, {versions}"


def describe_command(module: str, seed: int) -> dict[str, Any]:
    """Return the command of a module of its own, such as `benchmarks.tracks`, and its run."""
    command = f"python -m {module} {shlex.join(sys.argv[1:])}"
    return {"command": command, "run": describe_run(seed)}


def describe_run(seed: int) -> dict[str, Any]:
    """Return what a measurement depends on, for JSON: machine, instructions, versions and seed."""
    found = provenance()
    found["machine"] |= {
        "threads": torch.get_num_threads(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "masks": {name: os.environ[name] for name in MASKS if name in os.environ},
    }
    for name in PEERS:
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"seed": seed}
