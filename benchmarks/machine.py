"""The line about the machine that stands above every table."""

import platform

import torch

from spikesep.provenance import processor_name


def machine() -> str:
    """Processor, threads in use and versions; no host name."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{processor_name()}, {torch.get_num_threads()} threads, {versions}"
