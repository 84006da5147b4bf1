"""What must stand beside a measured figure: versions, commit and machine, without the machine's name."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import spikesep


def provenance() -> dict[str, Any]:
    """Versions, with the commit as one of them, and the machine, for JSON."""
    import torch  # slow to load; whoever only counts cores has no use for it

    machine: dict[str, Any] = {"processor": processor_name(), "cores": available_cores()}
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "spikesep": spikesep.__version__,
        "commit": commit(),
    }
    return {"versions": versions, "machine": machine}


@cache
def commit() -> str:
    """The commit of the checkout that runs, with `-dirty` where tracked files differ; else the installed version."""
    checkout = Path(spikesep.__file__).resolve().parents[1]
    if (
        checkout / ".git"
    ).exists():  # a package may also be installed somewhere below another project's checkout
        command = [
            "git",
            "--no-optional-locks",
            "-C",
            checkout,
            "describe",
            "--always",
            "--abbrev=40",
            "--dirty",
            "--exclude=*",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):  # no git
            return spikesep.__version__
        if done.returncode == 0:
            return done.stdout.strip()
    return spikesep.__version__


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name as its maker gives it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
