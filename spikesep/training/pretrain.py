"""Pre-training of the analog network: Lightning does the loop; here is what a step, a schedule and an epoch are."""

import logging
import math
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    LambdaCallback,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spikesep.errors import SpikeSepError
from spikesep.training.config import LaunchConfig, PretrainConfig, is_first_process
from spikesep.training.objective import Loss, Metric
from spikesep.training.optimizer import optimizer_of
from spikesep.training.precision import supports_bf16
from spikesep.training.processes.distributed import (
    end_processes,
    lost_a_process,
    own_share,
    share_batch_norms,
    sum_over_processes,
)
from spikesep.training.records.history import Epoch, History
from spikesep.training.records.run_folder import load_tensors, save_tensors
from spikesep.training.timing.budget import Budget
from spikesep.training.timing.progress import Progress
from spikesep.training.timing.timekeeper import TimeKeeper


def pretrain(
    model: nn.Module,
    loss: Loss,
    train_loader: DataLoader,
    valid_loader: DataLoader,
    config: PretrainConfig,
    folder: Path,
    history: History,
    metric: Metric,
    launch: LaunchConfig | None = None,
    began: float | None = None,
) -> None:
    """Train `model` on batches (input, target) until the schedule ends; leave it with the best weights on validation.

    A run that was stopped goes on from the end of its last whole epoch, with optimizer, schedule, patience and best.
    Several processes share each batch, and its batch norms: they learn what one would, up to rounding, and may go on
    where another number of them stopped. Each runs the whole command; only the first writes files.

    Args:
        model: maps a batch of inputs to predictions.
        loss: of (predictions, targets), a scalar.
        train_loader, valid_loader: the data; a sampler with `set_epoch` is told the epoch.
        config: the schedule.
        folder: of the checkpoints and logs.
        history: gets a row an epoch.
        metric: the task's figure of merit of a batch, from (predictions, targets, loss); averaged over the examples.
        launch: on which processors.
        began: when the time budget begins to count, by `time.monotonic()`; None for now.

    Raises:
        SpikeSepError: fewer examples than processes, or a process of this training ended before the others.
    """
    launch, budget = launch or LaunchConfig(), Budget(config.max_minutes, began)
    n_processes = launch.local_processes * launch.n_nodes
    if n_processes > 1:
        _check_shares(n_processes, config.batch_size, train_loader, valid_loader)
        train_loader, valid_loader = own_share(train_loader), own_share(valid_loader)
        share_batch_norms(model)
    if is_first_process():
        print(
            f"effective batch: {config.batch_size} examples a step over {n_processes} process(es)",
            flush=True,
        )
    task = PretrainTask(model, loss, metric, config, steps_per_epoch=len(train_loader))
    # Two of them, for Lightning's `save_last` skips epochs that are not the best; the best first, whose score the other
    # then carries.
    best = ModelCheckpoint(folder, "best", monitor="valid_loss", enable_version_counter=False)
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    progress = Progress(bar=False, quiet=not is_first_process())
    timekeeper = TimeKeeper(config, budget, valid_loader, progress)
    callbacks = [best, last, timekeeper, EpochRecord(history, config), heeding_sigterm()]
    if config.schedule == "plateau":
        callbacks.append(EarlyStopping("valid_loss", patience=config.stop_patience))
    interactive = sys.stderr.isatty()
    if interactive:
        callbacks.append(RichProgressBar(leave=False))
    resume = folder / "last.ckpt"
    with _quiet_lightning(), progress:
        trainer = pl.Trainer(
            accelerator="gpu" if launch.n_gpus else "cpu",
            devices=launch.local_processes,
            num_nodes=launch.n_nodes,
            # Norms are shared and buffers therefore equal; a broadcast would wait for processes without a batch.
            strategy=DDPStrategy(broadcast_buffers=False) if n_processes > 1 else "auto",
            use_distributed_sampler=False,
            plugins=[WholeCheckpoints()],
            benchmark=bool(
                launch.n_gpus
            ),  # batches are all alike: the fastest convolution for them is worth a search
            precision=_precision(config, torch.device("cuda" if launch.n_gpus else "cpu")),
            max_epochs=config.epochs,
            gradient_clip_val=config.clip_norm,
            callbacks=callbacks,
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            enable_progress_bar=interactive,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=20,
        )
        try:
            trainer.fit(
                task, train_loader, valid_loader, ckpt_path=resume if resume.exists() else None
            )
        except SystemExit as stop:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stop
        except RuntimeError as error:
            if n_processes > 1 and lost_a_process(error):
                raise SpikeSepError(
                    "a process of this training ended, for the reason it gave; the same command goes on"
                ) from error
            raise
    end_processes()
    task.load_state_dict(load_tensors(folder / "best.ckpt")["state_dict"])
    model.cpu().eval()


def _check_shares(
    n_processes: int, batch_size: int, train_loader: DataLoader, valid_loader: DataLoader
) -> None:
    available = {
        "--ann.batch_size": batch_size,
        "the training set": len(train_loader.dataset),
        "the validation set": len(valid_loader.dataset),
    }
    for name, n in available.items():
        if n < n_processes:
            raise SpikeSepError(
                f"{name}: {n} examples for {n_processes} processes; take fewer processes"
            )


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or not there. (Lightning's pass through the folder of temporary files.)"""

    def save_checkpoint(
        self, checkpoint: dict, path: str | Path, storage_options: None = None
    ) -> None:
        """Write, then rename."""
        save_tensors(Path(path), checkpoint)

    def load_checkpoint(self, path: str | Path, *where, **how) -> dict:
        """Read it, into the memory of the CPU."""
        return load_tensors(Path(path))


def heeding_sigterm() -> pl.Callback:
    """Keeps what SIGTERM does now: by default it ends the process, and the last whole epoch is there.

    Lightning's way would have the processes tell one another from within the handler, and so wait for ever for one that
    waits in another exchange.
    """
    now = signal.getsignal(signal.SIGTERM)

    def restore(*_) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, now)

    return LambdaCallback(on_train_start=restore)


class PretrainTask(pl.LightningModule):
    """A model, its loss and its learning rate schedule."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        metric: Metric,
        config: PretrainConfig,
        steps_per_epoch: int,
    ):
        super().__init__()
        self.model = model
        self.loss = loss
        self.metric = metric
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.spent_seconds = self.reserved_seconds = (
            0.0  # of the time budget; for the validation still to come
        )
        self.finished = self.cut_short = False
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._plateau_state: dict | None = None
        self._sums: dict[str, Tensor] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Loss of one batch, weighed so that the mean over the processes is the mean over all their examples."""
        x, target = batch
        _, loss = self._loss(x, target)
        self.log("train_loss_step", loss.detach())
        self._count("train", loss, len(x))
        if self.trainer.world_size == 1:
            return loss
        return loss * (
            len(x) * self.trainer.world_size / sum_over_processes(loss.new_full((), len(x)))
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Add loss and metric of one batch."""
        x, target = batch
        prediction, loss = self._loss(x, target)
        self._count("valid", loss, len(x), self.metric(prediction, target, float(loss)))

    def _loss(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and loss, in float32: rounded to bf16, a loss of 12 dB would move in steps of 0.06."""
        prediction = self.model(x).float()
        with torch.autocast(x.device.type, enabled=False):
            return prediction, self.loss(prediction, target)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all examples of all processes; Lightning's is one of unequal shares.

        Raises:
            SpikeSepError: a loss is not finite.
        """
        for name, sums in self._sums.items():
            total = sums if self.trainer.world_size == 1 else sum_over_processes(sums)
            if not total[0].isfinite():
                what = {"train": "training", "valid": "validation"}[name]
                raise SpikeSepError(
                    f"epoch {self.current_epoch + 1}: the {what} loss is {float(total[0])}; lower "
                    "ann.learning_rate, or see to the examples. What earlier epochs learned is kept"
                )
            self.log("valid_loss" if name == "valid" else "train_loss_epoch", total[0] / total[1])
            if name == "valid":
                self.log("valid_metric", total[2] / total[1])
        self._sums.clear()

    def _count(self, name: str, loss: Tensor, n: int, metric: float = 0.0) -> None:
        """Add a mean loss and metric over n examples to the sums (of losses, of examples, of metrics) of this epoch."""
        added = torch.stack([
            n * loss.detach().double(), *(loss.new_full((), v, dtype=torch.float64) for v in (n, n * metric))
        ])  # fmt: skip
        self._sums[name] = self._sums.get(name, 0) + added

    def configure_optimizers(self):
        """The optimizer and the schedule of the configuration."""
        optimizer = optimizer_of(
            self.config.optimizer, self.model.parameters(), self.config.learning_rate
        )
        if self.config.schedule == "cosine":
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._cosine)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }
        # Lightning would step this one after it has written the epoch's checkpoint; `EpochRecord` does it before.
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=self.config.halve_patience - 1
        )
        if self._plateau_state:
            self.plateau.load_state_dict(self._plateau_state)
        return optimizer

    def optimizer_step(
        self, epoch: int, batch_index: int, optimizer, optimizer_closure=None
    ) -> None:
        """A step; the first ones at a rate that rises from zero."""
        if self.global_step < self.config.warmup_steps:
            for group in optimizer.param_groups:
                group["lr"] = (
                    self.config.learning_rate * (self.global_step + 1) / self.config.warmup_steps
                )
        optimizer.step(closure=optimizer_closure)

    def _cosine(self, step: int) -> float:
        start = self.config.cosine_from
        falling = max(0.0, (self._progress(step) - start) / (1 - start)) if start < 1 else 0.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))

    def _progress(self, step: int) -> float:
        """Share of the run that is over, by steps or, where that is further, by the clock."""
        done = step / (self.config.epochs * self.steps_per_epoch)
        if self.config.max_minutes:
            seconds = 60 * self.config.max_minutes - self.reserved_seconds
            done = max(done, self.spent_seconds / seconds) if seconds > 0 else 1.0
        return done

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep the time that was spent, the patience of the schedule, and whether it is over."""
        checkpoint["spent_seconds"] = self.spent_seconds
        checkpoint["reserved_seconds"] = self.reserved_seconds
        checkpoint["finished"] = self.trainer.should_stop  # by the time, or by patience
        checkpoint["plateau"] = self.plateau.state_dict() if self.plateau else None

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Take them up."""
        self.spent_seconds = checkpoint["spent_seconds"]
        self.reserved_seconds = checkpoint.get("reserved_seconds", 0.0)
        self.finished = checkpoint["finished"]
        self._plateau_state = checkpoint["plateau"]
        if self.plateau and self._plateau_state:
            self.plateau.load_state_dict(self._plateau_state)


class EpochRecord(pl.Callback):
    """Writes and prints each epoch."""

    def __init__(self, history: History, config: PretrainConfig):
        self.history = history
        self.config = config
        self._begun = 0.0

    def on_train_start(self, trainer: pl.Trainer, task: PretrainTask) -> None:
        """A run that was at its end when it was stopped has nothing left to do."""
        trainer.should_stop = task.finished

    def on_train_epoch_start(self, trainer: pl.Trainer, task: PretrainTask) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, task: PretrainTask) -> None:
        """Write the row."""
        seconds = time.monotonic() - self._begun
        loss = {
            k: float(trainer.callback_metrics[k])
            for k in ("train_loss_epoch", "valid_loss", "valid_metric")
        }
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        epoch, cut_at = trainer.current_epoch + 1, self.config.epochs if task.cut_short else 0
        if trainer.is_global_zero:
            self._report(Epoch(0, epoch, *loss.values(), rate, seconds, cut_at))
        if task.plateau:
            task.plateau.step(loss["valid_loss"])

    def _report(self, row: Epoch) -> None:
        self.history.add(row)
        print(
            f"epoch {row.epoch}/{self.config.epochs}: training loss {row.train_loss:.4g}, validation loss "
            f"{row.valid_loss:.4g} (metric {row.valid_metric:.4g}), learning rate {row.learning_rate:.1e}, "
            f"{row.seconds:.0f} s",
            flush=True,
        )


def _precision(config: PretrainConfig, device: torch.device) -> str:
    bf16 = config.precision == "bf16" or (config.precision == "auto" and supports_bf16(device))
    return "bf16-mixed" if bf16 else "32-true"


class _quiet_lightning(warnings.catch_warnings):  # noqa: N801
    """Without Lightning's advice on hardware, workers and its own products; and without the trace that TensorBoard's
    thread leaves of a full disk, of which the main thread will tell."""

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
