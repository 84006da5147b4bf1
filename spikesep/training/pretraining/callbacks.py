"""Lightning callbacks and plugins of pre-training."""

import logging
import signal
import threading
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.plugins.io import TorchCheckpointIO

from spikesep.tensors import load_tensors, save_tensors
from spikesep.training.config import PretrainConfig
from spikesep.training.pretraining.task import PretrainTask
from spikesep.training.records.history import Epoch, History


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, without Lightning's detour through the temporary folder."""

    def save_checkpoint(
        self, checkpoint: dict, path: str | Path, storage_options: None = None
    ) -> None:
        """Write a file beside `path`, then rename it."""
        save_tensors(Path(path), checkpoint)

    def load_checkpoint(self, path: str | Path, *args, **options) -> dict:
        """Read a checkpoint into CPU memory."""
        return load_tensors(Path(path))


def keep_sigterm_handler() -> pl.Callback:
    """Return a callback that restores the present SIGTERM handler once training starts.

    By default, SIGTERM ends the process, and the last complete epoch is kept. Lightning's handler
    communicates with the other processes and deadlocks with one that waits in another exchange.
    """
    handler = signal.getsignal(signal.SIGTERM)

    def restore(*_) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    return LambdaCallback(on_train_start=restore)


class EpochRecord(pl.Callback):
    """Adds each epoch to the history and prints it.

    Args:
        history: receives a row per epoch.
        config: the settings.
    """

    def __init__(self, history: History, config: PretrainConfig):
        self.history = history
        self.config = config
        self._begun = 0.0

    def on_train_start(self, trainer: pl.Trainer, task: PretrainTask) -> None:
        """Stop at once if the resumed run had already ended."""
        trainer.should_stop = task.finished

    def on_train_epoch_start(self, trainer: pl.Trainer, task: PretrainTask) -> None:
        """Start timing the epoch."""
        self._begun = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, task: PretrainTask) -> None:
        """Record the epoch and step the schedule `plateau`."""
        seconds = time.monotonic() - self._begun
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            row = Epoch(
                stage=0,
                epoch=trainer.current_epoch + 1,
                train_loss=values["train_loss_epoch"],
                valid_loss=values["valid_loss"],
                valid_metric=values["valid_metric"],
                learning_rate=trainer.optimizers[0].param_groups[0]["lr"],
                seconds=seconds,
                cut_at=self.config.epochs if task.cut_short else 0,
            )
            self._report(row, values["valid_rate"])
        if task.plateau:
            task.plateau.step(values["valid_loss"])

    def _report(self, row: Epoch, rate: float) -> None:
        self.history.add(row)
        spikes = f", {rate:.3g} spikes per neuron and step" if self.config.levels.n_steps else ""
        print(
            f"epoch {row.epoch}/{self.config.epochs}: training loss {row.train_loss:.4g}, "
            f"validation loss {row.valid_loss:.4g} (metric {row.valid_metric:.4g}), "
            f"learning rate {row.learning_rate:.1e}{spikes}, {row.seconds:.0f} s",
            flush=True,
        )


class quiet_lightning(warnings.catch_warnings):  # noqa: N801
    """Suppress Lightning's advice on hardware, workers and its own products.

    Also suppresses the traceback of TensorBoard's thread when the disk is full; the main thread
    reports that.
    """

    def __enter__(self):
        super().__enter__()
        threading.excepthook = lambda args: (
            None if args.exc_type is OSError else threading.__excepthook__(args)
        )
        warnings.simplefilter("ignore")
        for name in ("pytorch_lightning", "lightning_fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        return self

    def __exit__(self, *error):
        threading.excepthook = threading.__excepthook__
        return super().__exit__(*error)
