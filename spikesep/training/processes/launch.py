"""Start of a run: random seeds, accelerators and loader processes."""

import random

import numpy as np
import torch

from spikesep.errors import SpikeSepError
from spikesep.provenance import available_cores
from spikesep.training.config import LaunchConfig


def seed_everything(seed: int) -> None:
    """Seed the random generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def n_loader_workers(launch: LaunchConfig) -> int:
    """Return the number of loader processes for each training process.

    With accelerators, a share of `n_jobs`; none on the CPU, whose cores training uses.
    """
    return max(1, (launch.n_jobs or available_cores()) // launch.n_gpus) if launch.n_gpus else 0


def check_gpus(launch: LaunchConfig) -> None:
    """Check that the requested accelerators exist.

    Raises:
        SpikeSepError: there are fewer.
    """
    found = torch.cuda.device_count()
    if launch.n_gpus > found:
        raise SpikeSepError(
            f"--launch.n_gpus: {launch.n_gpus} requested, {found} found; give 0 to use the CPU"
        )
