"""Conversion of a trained network to spiking neurons, as a run that can be resumed."""

import math
import time
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from spikesep.hardware_profiles import PROFILES
from spikesep.spiking.conversion.all_at_once import AllAtOnce
from spikesep.spiking.conversion.fixed_point import require_fixed_point
from spikesep.spiking.conversion.ptl import ProgressiveTandemLearning, StageEpoch, ThresholdChoice
from spikesep.spiking.hardware_fit import check_fit
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.network import require_stack
from spikesep.spiking.signal import Coding
from spikesep.tensors import save_tensors
from spikesep.training.config import ConversionConfig
from spikesep.training.conversion.examples import ConversionData
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.conversion.schedule import max_epochs, n_stages
from spikesep.training.conversion.tandem_trainer import TandemTrainer
from spikesep.training.objective import Loss, Metric, Objective
from spikesep.training.precision import exact_products
from spikesep.training.records.checkpoint import Checkpoint
from spikesep.training.records.history import Epoch, History, cut_short
from spikesep.training.timing.budget import Budget
from spikesep.training.timing.progress import Progress

STATE_FILE = "state.pt"


def convert(
    model: ConvertibleModel,
    loss: Loss,
    train_set: Dataset,
    valid_set: Dataset,
    config: ConversionConfig,
    folder: Path,
    *,
    history: History,
    metric: Metric,
    seed: int = 0,
    device: torch.device | str = "cpu",
    fresh: DataLoader | None = None,
    teacher: ConvertibleModel | None = None,
    began: float | None = None,
) -> list[ThresholdChoice]:
    """Convert all layers of `model.network` in place, and its weights to integers if configured.

    Resumes an interrupted run after its last complete epoch. Each finished stage leaves a
    `stageNN.pt`. When `config.max_minutes` are spent, the remaining layers are converted without
    fine-tuning.

    Args:
        model: the trained analog model; steps that it has learned become its thresholds.
        loss: scalar loss of a batch, from predictions and targets.
        train_set: fixed training examples (input, target).
        valid_set: fixed validation examples, likewise.
        config: the settings.
        folder: folder of the checkpoints.
        history: receives a row per epoch.
        metric: metric of a batch, from predictions, targets and loss.
        seed: seed of the order of training examples.
        device: device to compute on.
        fresh: batches (inputs, targets) of the first stage, different in each epoch; its sampler
            has `set_epoch`. None to train the first stage on `train_set`.
        teacher: analog model whose predictions replace the targets of the loss (Hinton et al.,
            "Distilling the knowledge in a neural network", arXiv 1503.02531), but not those of
            the metric.
        began: start of the time budget, by `time.monotonic()`; None for now.

    Returns:
        The choice of each layer's threshold. The model is on the CPU, in inference mode.

    Raises:
        SpikeSepError: the network has no fixed-point form or cannot be folded, a loss is not
            finite, or `folder` contains the run of another network or of other settings.
    """
    model.network.require_float32()
    if config.budget.synops_weight:
        require_stack(model.network, "convert.budget.synops_weight")
    if config.weight_bits:
        require_fixed_point(model.network, _coding(config))
    device, data = torch.device(device), ConversionData(train_set, valid_set, fresh)
    checkpoint = Checkpoint(
        folder / STATE_FILE,
        model=cast(nn.Module, model),
        teacher=None if teacher is None else cast(nn.Module, teacher),
        config=config,
        others={
            "seed": seed,
            "train_examples": data.size("train"),
            "valid_examples": data.size("valid"),
        },
    )
    exact_products(device)
    model.to(device)
    progress = Progress()
    trainer = TandemTrainer(
        model,
        Objective(loss, metric),
        data,
        config,
        seed=seed,
        device=device,
        folder=folder,
        teacher=None if teacher is None else teacher.to(device).eval(),
        budget=Budget(config.max_minutes, began),
        progress=progress,
    )
    learning = _learning(trainer, _Recorder(trainer, checkpoint, history))
    trainer.calibration.check_network()
    with progress:
        _run(trainer, learning, checkpoint)
    for sentence in cut_short([row for row in history.read() if row.stage > 0]):
        print(sentence, flush=True)
    if config.profile:
        features = model.encode(train_set[0][0][None].cpu())[0]
        for line in check_fit(model.network, features, PROFILES[config.profile]):
            print(line, flush=True)
    return learning.choices


def _run(
    trainer: TandemTrainer, learning: ProgressiveTandemLearning, checkpoint: Checkpoint
) -> None:
    """Convert all layers, from the checkpoint on if there is one."""
    config, model = trainer.config, trainer.model
    total = n_stages(config, len(model.network))
    if checkpoint.path.exists():
        checkpoint.resume(learning, trainer.batches.device)
        print(f"going on from stage {min(learning.stage + 1, total)}/{total}", flush=True)
    elif config.budget.synops or config.pruning == "refit":
        print("allotting spikes and pruning inputs; this takes some minutes", flush=True)
    learning.run()
    model.cpu().eval()
    if config.weight_bits:
        trainer.to_fixed_point()


def _learning(trainer: TandemTrainer, recorder: "_Recorder") -> ProgressiveTandemLearning:
    """Return the learning algorithm that the settings describe."""
    config, model = trainer.config, trainer.model
    algorithm = ProgressiveTandemLearning if config.method == "ptl" else AllAtOnce
    learning = algorithm(
        cast(nn.Module, model),
        model.network,
        trainer,
        _coding(config),
        percentile=config.percentile,
        discretize=config.discretize and config.method == "ptl",
        gradient="surrogate" if config.method == "surrogate" else config.gradient,
        limits=HardwareLimits(config.qat_bits, config.fan_in),
        pruning=config.pruning,
        synops_budget=config.budget.synops,
        patience=config.patience,
        max_epochs=max_epochs(config, stage=1),
        first_stage_epochs=max_epochs(config, stage=0),
        on_epoch=recorder.on_epoch,
        on_stage=recorder.on_stage,
        cuts_short=trainer.clock.cuts_short,
    )
    recorder.learning = learning
    return learning


def _coding(config: ConversionConfig) -> Coding:
    return Coding(
        config.n_steps,
        config.encoding,
        config.initial_potential,
        config.deferred,
        reset=config.reset,
        beta=config.beta,
    )


class _Recorder:
    """Writes history and checkpoints and prints a line per epoch.

    Args:
        trainer: the training loop.
        checkpoint: the state of the run.
        history: receives a row per epoch.
    """

    learning: ProgressiveTandemLearning

    def __init__(self, trainer: TandemTrainer, checkpoint: Checkpoint, history: History):
        self.trainer = trainer
        self.checkpoint = checkpoint
        self.history = history
        self._then = time.monotonic()

    def on_epoch(self, done: StageEpoch) -> None:
        """Record an epoch."""
        now, metric = time.monotonic(), self.trainer.valid_metric
        seconds, self._then = now - self._then, now
        row = Epoch(
            stage=done.stage + 1,
            epoch=done.epoch,
            train_loss=done.train_loss,
            valid_loss=done.valid_loss,
            valid_metric=metric,
            learning_rate=self.trainer.learning_rate,
            seconds=seconds,
            cut_at=done.cut_at,
        )
        self.history.add(row)
        self.checkpoint.save(self.learning)
        config, network = self.trainer.config, self.trainer.model.network
        layer = network.names[done.stage] if config.method == "ptl" else "all layers"
        trained = "" if math.isnan(done.train_loss) else f"training loss {done.train_loss:.4g}, "
        cut = "; the time budget ends this stage" if done.cut_at else ""
        print(
            f"stage {row.stage}/{n_stages(config, len(network))} ({layer}), epoch {row.epoch}: "
            f"{trained}validation loss {row.valid_loss:.4g} (metric {metric:.4g}), "
            f"{seconds:.0f} s{cut}",
            flush=True,
        )

    def on_stage(self, stage: int) -> None:
        """Save the weights after a stage."""
        path = self.checkpoint.path.with_name(f"stage{stage + 1:02d}.pt")
        save_tensors(path, self.trainer.model.state_dict())
