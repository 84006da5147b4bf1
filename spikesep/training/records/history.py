"""The record of a whole training, ANN and every conversion stage, a row an epoch: `history.csv` beside the models."""

import csv
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path


@dataclass(frozen=True)
class Epoch:
    """One row.

    Attributes:
        stage: 0 for pre-training, k for the conversion of the k-th layer.
        epoch: within the stage, from 1; 0 is the layer right after conversion, before training.
        train_loss: mean over the epoch; nan where nothing was trained.
        valid_loss: of the network as it stands.
        valid_metric: the task's figure of merit, from the validation loss (SI-SDR improvement in dB, accuracy, ...).
        learning_rate: at the end of the epoch.
        seconds: it took.
        cut_at: epochs that were planned at most, where the time budget ended the stage with this one; 0 elsewhere.
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
    """A CSV file of `Epoch` rows in order; a row that was written before a restart is written over.

    Args:
        path: the file; it need not be there.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def read(self) -> list[Epoch]:
        """All rows; none where there is no file.

        Raises:
            SpikeSepError: a row is broken.
        """
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            try:
                return [_epoch(row) for row in csv.DictReader(file)]
            except (KeyError, TypeError, ValueError) as error:
                raise SpikeSepError(
                    f"{self.path}: not a training history ({error}); delete it to start anew"
                ) from error

    def add(self, row: Epoch) -> None:
        """Append a row, dropping any that came at or after it in an earlier, broken run."""
        rows = [old for old in self.read() if (old.stage, old.epoch) < (row.stage, row.epoch)]
        with (
            atomic_path(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [f.name for f in fields(Epoch)])
            writer.writeheader()
            writer.writerows(asdict(r) for r in [*rows, row])


def cut_short(rows: Sequence[Epoch]) -> list[str]:
    """What a time budget ended before its schedule did: a sentence each for training and conversion.

    Args:
        rows: of the whole history.
    """
    ann = [row for row in rows if row.stage == 0 and row.cut_at]
    stages = [row for row in rows if row.stage > 0 and row.cut_at]
    told = [
        f"Training was stopped by its time budget in epoch {row.epoch} of {row.cut_at}."
        for row in ann[-1:]
    ]
    if stages:
        last = max(row.stage for row in rows)
        untrained = sum(row.epoch == 0 for row in stages)
        rest = f", {untrained} of them to none at all" if untrained else ""
        told.append(
            f"The time budget of conversion cut short the training of {len(stages)} of {last} stages{rest}."
        )
    return told


def _epoch(row: dict[str, str]) -> Epoch:
    """A row as it was written; older files lack the newest columns."""
    known = [f for f in fields(Epoch) if f.name in row or f.default is MISSING]
    return Epoch(**{f.name: f.type(row[f.name]) for f in known})
