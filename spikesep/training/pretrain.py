"""Pre-training of the analog network with Lightning."""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from spikesep.errors import SpikeSepError
from spikesep.tensors import load_tensors
from spikesep.training.config import LaunchConfig, PretrainConfig, is_first_process
from spikesep.training.objective import Loss, Metric, Objective
from spikesep.training.optimizer import MAX_GRADIENT_NORM
from spikesep.training.precision import uses_bf16
from spikesep.training.pretraining.callbacks import (
    AtomicCheckpoints,
    EpochRecord,
    keep_sigterm_handler,
    quiet_lightning,
)
from spikesep.training.pretraining.levels import prepare_levels
from spikesep.training.pretraining.task import PretrainTask
from spikesep.training.processes.distributed import (
    end_processes,
    lost_a_process,
    own_share,
    share_batch_norms,
)
from spikesep.training.records.history import History
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
    *,
    history: History,
    metric: Metric,
    launch: LaunchConfig | None = None,
    began: float | None = None,
) -> None:
    """Train `model` in place until the schedule ends; keep the weights of the best validation loss.

    Resumes an interrupted run after its last complete epoch, with the state of optimizer, schedule
    and early stopping. Several processes share each batch and the statistics of batch norm: the
    result equals that of one process up to rounding, and a run can be resumed with another number
    of processes. Each process runs the whole command; only the first writes files.

    Args:
        model: maps a batch of inputs to predictions.
        loss: scalar loss of a batch, from predictions and targets.
        train_loader: batches (input, target); `set_epoch` of its sampler is called.
        valid_loader: batches (input, target).
        config: the settings.
        folder: folder of checkpoints and logs.
        history: receives a row per epoch.
        metric: metric of a batch, from predictions, targets and loss.
        launch: processes and accelerators.
        began: start of the time budget, by `time.monotonic()`; None for now.

    Raises:
        SpikeSepError: there are fewer examples than processes, a loss is not finite, or another
            process of the training ended.
        SpikeSepError: with `config.levels`, a layer is silent, or the network has identity paths
            and is to have steps per channel.
    """
    launch, budget = launch or LaunchConfig(), Budget(config.max_minutes, began)
    n_processes = launch.local_processes * launch.n_nodes
    prepare_levels(model, config.levels, valid_loader)
    if n_processes > 1:
        _check_shares(n_processes, config.batch_size, train_loader, valid_loader)
        train_loader, valid_loader = own_share(train_loader), own_share(valid_loader)
        share_batch_norms(model)
    if is_first_process():
        print(
            f"effective batch: {config.batch_size} examples a step over {n_processes} process(es)",
            flush=True,
        )
    task = PretrainTask(model, Objective(loss, metric), config, len(train_loader))
    progress = Progress(bar=False, quiet=not is_first_process())
    callbacks = [
        *_checkpoints(folder),
        TimeKeeper(config, budget, valid_loader, progress),
        EpochRecord(history, config),
        keep_sigterm_handler(),
    ]
    if config.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=config.ema_decay))
    with quiet_lightning(), progress:  # pyright: ignore[reportCallIssue]
        trainer = _trainer(config, launch, folder, callbacks)
        _fit(trainer, task, train_loader, valid_loader, folder / "last.ckpt")
    end_processes()
    task.load_state_dict(load_tensors(folder / "best.ckpt")["state_dict"])
    model.cpu().eval()


def _checkpoints(folder: Path) -> list[pl.Callback]:
    """Return the callbacks that write `best.ckpt` and `last.ckpt`.

    There are two, as Lightning's `save_last` skips epochs that are not the best. The best comes
    first, so that the last checkpoint includes its score.
    """
    return [
        ModelCheckpoint(folder, "best", monitor="valid_loss", enable_version_counter=False),
        ModelCheckpoint(folder, "last", enable_version_counter=False),
    ]


def _trainer(
    config: PretrainConfig, launch: LaunchConfig, folder: Path, callbacks: list[pl.Callback]
) -> pl.Trainer:
    """Return Lightning's trainer for the settings."""
    interactive = sys.stderr.isatty()
    if config.schedule == "plateau":
        callbacks.append(EarlyStopping("valid_loss", patience=config.stop_patience))
    if interactive:
        callbacks.append(RichProgressBar(leave=False))
    n_processes = launch.local_processes * launch.n_nodes
    device = torch.device("cuda" if launch.n_gpus else "cpu")
    return pl.Trainer(
        accelerator="gpu" if launch.n_gpus else "cpu",
        devices=launch.local_processes,
        num_nodes=launch.n_nodes,
        # Shared norms keep buffers equal; a broadcast would wait for processes without a batch.
        strategy=DDPStrategy(broadcast_buffers=False) if n_processes > 1 else "auto",
        use_distributed_sampler=False,
        plugins=[AtomicCheckpoints()],
        benchmark=bool(launch.n_gpus),  # all batches have the same shape
        precision="bf16-mixed" if uses_bf16(config.precision, device) else "32-true",
        max_epochs=config.epochs,
        gradient_clip_val=MAX_GRADIENT_NORM,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder, name="", version="tensorboard"),
        enable_progress_bar=interactive,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
    )


def _fit(
    trainer: pl.Trainer,
    task: PretrainTask,
    train_loader: DataLoader,
    valid_loader: DataLoader,
    checkpoint: Path,
) -> None:
    """Run training, from `checkpoint` on if it exists.

    Raises:
        SpikeSepError: another process of the training ended.
    """
    try:
        trainer.fit(
            task,
            train_loader,
            valid_loader,
            ckpt_path=checkpoint if checkpoint.exists() else None,
        )
    except SystemExit as stop:  # how Lightning reports Ctrl-C
        raise KeyboardInterrupt from stop
    except RuntimeError as error:
        if trainer.world_size > 1 and lost_a_process(error):
            raise SpikeSepError(
                "a process of this training ended, for the reason it gave; run the same command "
                "again to resume"
            ) from error
        raise


def _check_shares(
    n_processes: int, batch_size: int, train_loader: DataLoader, valid_loader: DataLoader
) -> None:
    """Check that every process has an example of each set and batch."""
    available = {
        "--train.batch_size": batch_size,
        "the training set": len(train_loader.dataset),  # pyright: ignore[reportArgumentType]
        "the validation set": len(valid_loader.dataset),  # pyright: ignore[reportArgumentType]
    }
    for name, n in available.items():
        if n < n_processes:
            raise SpikeSepError(
                f"{name}: {n} examples for {n_processes} processes; use fewer processes"
            )
