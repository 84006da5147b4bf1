"""Checkpoint of a conversion, which identifies the run it belongs to."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.ptl import ProgressiveTandemLearning
from spikesep.tensors import hash_of_tensors, load_tensors, save_tensors
from spikesep.training.config import ConversionConfig
from spikesep.training.records.run_folder import first_difference, flattened
from spikesep.training.renamed import migrated_record

RUN = "begun"
"""Key of the checkpoint under which the run is described."""
IRRELEVANT = "convert.cache."
"""Prefix of the settings that do not affect the result and may change between starts."""


class Checkpoint:
    """The file with the state of a conversion.

    Args:
        path: the file.
        model: the model before conversion.
        teacher: the analog model whose predictions are the targets, if any.
        config: the settings.
        others: other values that the result depends on, by name.
    """

    def __init__(
        self,
        path: Path,
        *,
        model: nn.Module,
        teacher: nn.Module | None,
        config: ConversionConfig,
        others: dict[str, Any],
    ):
        self.path = path
        self._defaults = {"convert": asdict(type(config)())}
        self._run = {
            "weights": _hash_of_parameters(model),
            "teacher": None if teacher is None else _hash_of_parameters(teacher),
            "convert": asdict(config),
            **others,
        }

    def save(self, learning: ProgressiveTandemLearning) -> None:
        """Write the present state of the run atomically."""
        save_tensors(self.path, {**learning.state_dict(), RUN: self._run})

    def resume(self, learning: ProgressiveTandemLearning, device: torch.device) -> None:
        """Restore the state in the file.

        A setting that the file lacks, as it was written by an earlier release, counts as having
        its default. A file that does not describe its run is restored if its tensors fit.

        Raises:
            SpikeSepError: the file is incomplete or belongs to another run.
        """
        state = load_tensors(self.path, device)
        remedy = "give another folder, or delete it to start over"
        if (run := state.get(RUN)) is not None:
            before = flattened(self._defaults) | flattened(migrated_record(run, self.path))
            if different := first_difference(_relevant(before), _relevant(flattened(self._run))):
                raise SpikeSepError(
                    f"{self.path.parent}: contains a conversion begun with {different}; {remedy}"
                )
        try:
            learning.load_state_dict(state)
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            raise SpikeSepError(
                f"{self.path.parent}: contains the conversion of another network; {remedy}"
            ) from error


def _relevant(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith(IRRELEVANT)}


def _hash_of_parameters(model: nn.Module) -> str:
    """Return a hash of the parameters.

    Buffers are excluded: the statistics of a fresh network's norms are measured anew in each start
    and may differ in the last digit.
    """
    return hash_of_tensors(dict(model.named_parameters()))[:16]
