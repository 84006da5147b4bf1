"""The record of a whole training, ANN and every conversion stage, a row an epoch: `history.csv` beside the models."""

import csv
from dataclasses import asdict, dataclass, fields
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
    """

    stage: int
    epoch: int
    train_loss: float
    valid_loss: float
    valid_metric: float
    learning_rate: float
    seconds: float


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
                return [Epoch(**{f.name: f.type(row[f.name]) for f in fields(Epoch)}) for row in csv.DictReader(file)]
            except (KeyError, TypeError, ValueError) as error:
                raise SpikeSepError(
                    f"{self.path}: not a training history ({error}); delete it to start anew"
                ) from error

    def add(self, row: Epoch) -> None:
        """Append a row, dropping any that came at or after it in an earlier, broken run."""
        rows = [old for old in self.read() if (old.stage, old.epoch) < (row.stage, row.epoch)]
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Epoch)])
            writer.writeheader()
            writer.writerows(asdict(r) for r in [*rows, row])
