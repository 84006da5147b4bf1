"""Training history: `history.csv`, a row per epoch of pre-training and of each conversion stage."""

import csv
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path


@dataclass(frozen=True)
class Epoch:
    """A row of the history.

    Attributes:
        stage: 0 for pre-training, k for the conversion of the k-th layer.
        epoch: number within the stage, from 1; 0 is the layer right after its conversion.
        train_loss: mean training loss of the epoch; nan if nothing was trained.
        valid_loss: validation loss.
        valid_metric: validation metric (SI-SDR improvement in dB, accuracy, ...).
        learning_rate: learning rate at the end of the epoch.
        seconds: duration.
        cut_at: maximum number of epochs of the stage, if the time budget ended it with this epoch;
            otherwise 0.
    """

    stage: int
    epoch: int
    train_loss: float
    valid_loss: float
    valid_metric: float
    learning_rate: float
    seconds: float
    cut_at: int = 0


class History:
    """A CSV file of `Epoch` rows in order.

    Args:
        path: the file, which need not exist.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def read(self) -> list[Epoch]:
        """Return all rows; none if the file does not exist.

        Raises:
            SpikeSepError: a row is malformed.
        """
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            try:
                return [_parsed(row) for row in csv.DictReader(file)]
            except (KeyError, TypeError, ValueError) as error:
                raise SpikeSepError(
                    f"{self.path}: not a training history ({error}); delete it to start over"
                ) from error

    def add(self, row: Epoch) -> None:
        """Append a row, replacing it and all later ones of an interrupted run."""
        rows = [old for old in self.read() if (old.stage, old.epoch) < (row.stage, row.epoch)]
        with (
            atomic_path(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [f.name for f in fields(Epoch)])
            writer.writeheader()
            writer.writerows(asdict(r) for r in [*rows, row])


def cut_short(rows: Sequence[Epoch]) -> list[str]:
    """Return a sentence on training and one on conversion, if the time budget shortened them.

    Args:
        rows: the whole history.
    """
    ann = [row for row in rows if row.stage == 0 and row.cut_at]
    stages = [row for row in rows if row.stage > 0 and row.cut_at]
    sentences = [
        f"Training was stopped by its time budget in epoch {row.epoch} of {row.cut_at}."
        for row in ann[-1:]
    ]
    if stages:
        last = max(row.stage for row in rows)
        untrained = sum(row.epoch == 0 for row in stages)
        rest = f", {untrained} of them to none at all" if untrained else ""
        sentences.append(
            f"The time budget of conversion cut short the training of {len(stages)} of {last} "
            f"stages{rest}."
        )
    return sentences


def _parsed(row: dict[str, str]) -> Epoch:
    """Return a row of a file, which lacks the newest columns if it is of an earlier release."""
    known = [f for f in fields(Epoch) if f.name in row or f.default is MISSING]
    values: dict[str, Any] = {f.name: _TYPES[f.name](row[f.name]) for f in known}
    return Epoch(**values)


_TYPES = {f.name: int if f.name in ("stage", "epoch", "cut_at") else float for f in fields(Epoch)}
