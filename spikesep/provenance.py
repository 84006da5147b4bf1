"""Versions, commit and hardware that are recorded with measured figures.

The name of the machine is left out.
"""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import spikesep


def provenance() -> dict[str, Any]:
    """Collect the versions (with the commit) and the hardware as a JSON-serializable dict."""
    import torch  # slow to import, and not needed to count cores

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
    """Return the commit hash of the running checkout, or the version of an installed package.

    The hash ends with `-dirty` if tracked files were modified.
    """
    checkout = Path(spikesep.__file__).resolve().parents[1]
    # The package may also be installed in a folder inside another project's checkout.
    if (checkout / ".git").exists():
        describe = ["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        command = ["git", "--no-optional-locks", "-C", str(checkout), *describe]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):  # no git
            return spikesep.__version__
        if done.returncode == 0:
            return done.stdout.strip()
    return spikesep.__version__


def available_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Return the processor's model name, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
