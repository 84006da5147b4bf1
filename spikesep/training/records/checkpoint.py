"""The state of a conversion on disk, which knows the run it is of."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.ptl import ProgressiveTandemLearning
from spikesep.training.config import ConversionConfig
from spikesep.training.records.run_folder import (
    first_difference,
    hash_of_tensors,
    load_tensors,
    save_tensors,
)

BEGUN = "begun"
FREE = ("cache_gib", "cache_disk_gib")
"""Settings that may change in between: the outcome does not depend on them."""


class Checkpoint:
    """One file with the state of a run, and what tells that run from others.

    Args:
        path: of the file.
        model: before it is converted.
        teacher: whose predictions it learns, if any.
        config: the settings.
        others: what else the outcome depends on, plain values by name.
    """

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        teacher: nn.Module | None,
        config: ConversionConfig,
        others: dict[str, Any],
    ):
        self.path = path
        self.defaults = _settings(type(config)())
        self.begun = {
            "weights": _hash_of_weights(model),
            "teacher": None if teacher is None else _hash_of_weights(teacher),
            "ptl": _settings(config),
            **others,
        }

    def save(self, learning: ProgressiveTandemLearning) -> None:
        """Write the state of the run as it is now, whole or not at all."""
        save_tensors(self.path, {**learning.state_dict(), BEGUN: self.begun})

    def take_up(self, learning: ProgressiveTandemLearning, device: torch.device) -> None:
        """Have the run go on from the state on disk.

        A setting that the version which began did not know is the same at its default, and a file
        that does not say what it is of is taken if it fits.

        Raises:
            SpikeSepError: the file is not whole, or it is of another run.
        """
        state, remedy = (
            load_tensors(self.path, device),
            "give another folder, or delete it to begin anew",
        )
        if (begun := state.get(BEGUN)) is not None:
            begun = begun | {"ptl": self.defaults | begun["ptl"]}
            if different := first_difference(begun, self.begun):
                raise SpikeSepError(
                    f"{self.path.parent}: holds a conversion that was begun with {different}; {remedy}"
                )
        try:
            learning.load_state_dict(state)
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            raise SpikeSepError(
                f"{self.path.parent}: holds the conversion of another network; {remedy}"
            ) from error


def _settings(config: ConversionConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in FREE}


def _hash_of_weights(model: nn.Module) -> str:
    """Of the parameters alone: the moments of a fresh network's norms are measured anew in each
    call, and may differ in the last digit."""
    return hash_of_tensors(dict(model.named_parameters()))[:16]
