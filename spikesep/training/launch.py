"""How a run starts: on which processor, and from which seed."""

import random

import numpy as np
import torch

from spikesep.errors import SpikeSepError
from spikesep.training.config import LaunchConfig


def seed_everything(seed: int) -> None:
    """Seed all generators that training draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def check_gpus(launch: LaunchConfig) -> None:
    """See that the accelerators asked for are there.

    Raises:
        SpikeSepError: there are fewer.
    """
    if launch.n_gpus > torch.cuda.device_count():
        raise SpikeSepError(
            f"--launch.n_gpus: {launch.n_gpus} asked for, {torch.cuda.device_count()} found; give 0 to use the CPU"
        )
