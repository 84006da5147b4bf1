"""How a run starts: on which processor, and from which seed."""

import random

import numpy as np
import torch

from spikesep.errors import SpikeSepError
from spikesep.provenance import available_cores
from spikesep.training.config import LaunchConfig


def seed_everything(seed: int) -> None:
    """Seed all generators that training draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def n_loader_workers(launch: LaunchConfig) -> int:
    """Processes that make examples ahead of one training process: its share of `n_jobs` beside an accelerator, which
    would wait for examples otherwise; none on the CPU, whose cores training takes."""
    return max(1, (launch.n_jobs or available_cores()) // launch.n_gpus) if launch.n_gpus else 0


def check_gpus(launch: LaunchConfig) -> None:
    """See that the accelerators asked for are there.

    Raises:
        SpikeSepError: there are fewer.
    """
    if launch.n_gpus > torch.cuda.device_count():
        raise SpikeSepError(
            f"--launch.n_gpus: {launch.n_gpus} asked for, {torch.cuda.device_count()} found; give 0 to use the CPU"
        )
