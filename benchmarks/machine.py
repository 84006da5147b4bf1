"""The line about the machine that stands above every table."""

import platform
from pathlib import Path

import torch


def machine() -> str:
    """Processor, cores in use and versions; no host name."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or "unknown processor"
    return (
        f"{processor}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"
    )
