"""What must stand beside a measured figure: versions and machine, without the machine's name."""

import os
import platform
from pathlib import Path
from typing import Any

import spikesep


def provenance() -> dict[str, Any]:
    """Versions and machine, for JSON."""
    import torch  # slow to load; whoever only counts cores has no use for it

    machine: dict[str, Any] = {"processor": processor_name(), "cores": available_cores()}
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "spikesep": spikesep.__version__},
        "machine": machine,
    }


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
