"""How a run starts: on which processor, and from which seed."""

import random

import numpy as np
import torch

from spikesep.errors import SpikeSepError


def seed_everything(seed: int) -> None:
    """Seed all generators that training draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def check_gpus(n_gpus: int) -> int:
    """The number of accelerators asked for.

    Raises:
        SpikeSepError: there are fewer, or more than one is asked for.
    """
    if n_gpus not in (0, 1):
        raise SpikeSepError(f"--launch.n_gpus {n_gpus}: give 0 (the CPU) or 1; several are not there yet")
    if n_gpus > torch.cuda.device_count():
        raise SpikeSepError(
            f"--launch.n_gpus: {n_gpus} asked for, {torch.cuda.device_count()} found; give 0 to use the CPU"
        )
    return n_gpus
