"""Conversion as a resumable run: the loop behind `ProgressiveTandemLearning`, its spike cache and its checkpoints."""

import copy
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from spikesep.files import explain_full_disk
from spikesep.spiking.conversion.equivalence import require_foldable
from spikesep.spiking.conversion.fixed_point import require_fixed_point, to_fixed_point
from spikesep.spiking.conversion.ptl import (
    AllAtOnce,
    ProgressiveTandemLearning,
    StageEpoch,
    ThresholdChoice,
)
from spikesep.spiking.conversion.spike_budget import Example
from spikesep.spiking.cost import SynopsEstimate
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Coding, Signal, require_finite
from spikesep.spiking.spike_trains.cache import SpikeCache
from spikesep.training.config import ConversionConfig
from spikesep.training.objective import Loss, Metric
from spikesep.training.optimizer import optimizer_of
from spikesep.training.precision import autocast, exact_products
from spikesep.training.records.checkpoint import Checkpoint
from spikesep.training.records.history import Epoch, History, cut_short
from spikesep.training.records.run_folder import save_tensors
from spikesep.training.timing.budget import Budget, StageClock
from spikesep.training.timing.progress import Progress

STATE_FILE = "state.pt"
FIXED_POINT_VALIDATIONS = 15.0
"""How many validations the fixed-point form takes as long as; about that of debian-2mix."""


class ConvertibleModel(Protocol):
    """A model around a `SpikingNetwork`: prediction = decode(network(features), context)."""

    network: SpikingNetwork

    def encode(self, x: Tensor) -> tuple[Tensor, Any]:
        """The network's input for a batch, and what `decode` needs of it besides."""

    def decode(self, potential: Tensor, context: Any) -> Tensor:
        """Predictions from the network's readout."""

    def front(self) -> list[nn.Module]:
        """The modules that `encode` runs; they stay as they are during conversion."""


def convert(
    model: ConvertibleModel,
    loss: Loss,
    train_set: Dataset,
    valid_set: Dataset,
    config: ConversionConfig,
    folder: Path,
    history: History,
    metric: Metric,
    seed: int = 0,
    device: torch.device | str = "cpu",
    fresh: DataLoader | None = None,
    teacher: ConvertibleModel | None = None,
    began: float | None = None,
) -> list[ThresholdChoice]:
    """Convert all layers of `model.network`, by progressive tandem learning unless the settings name another method,
    and bring it into fixed-point form if they say so.

    A run that was stopped goes on from the end of its last whole epoch; each finished stage leaves `stageNN.pt`. When
    `config.max_minutes` are spent, the layers that are left are converted without training.

    Args:
        model: trained, analog; it is changed in place.
        loss: of (predictions, targets), a scalar.
        train_set, valid_set: fixed examples (input, target), by index.
        config: the schedule.
        folder: of the checkpoints.
        history: gets a row an epoch.
        metric: the task's figure of merit of a batch, from (predictions, targets, loss); averaged over the examples.
        seed: of the order of the batches.
        device: where to compute.
        fresh: batches (inputs, targets) that differ in each epoch, for the first stage, when nothing is frozen yet; its
            sampler is told the epoch. Without it, the first stage trains on `train_set` as the others do.
        teacher: the analog model, whose predictions are learned in place of the targets (Hinton et al., "Distilling the
            knowledge in a neural network", arXiv 1503.02531); `loss` must take them. The metric keeps the targets.
        began: when the time budget begins to count, by `time.monotonic()`; None for now.

    Returns:
        How each threshold was chosen; the model is on the CPU again.

    Raises:
        SpikeSepError: the network has no fixed-point form or cannot be folded, a loss is not finite, or `folder` holds
            the run of another network or of other settings.
    """
    model.network.require_float32()
    if config.weight_bits:
        require_fixed_point(model.network)
    examples = {"train_examples": len(train_set), "valid_examples": len(valid_set)}
    checkpoint = Checkpoint(folder / STATE_FILE, model, teacher, config, {"seed": seed, **examples})
    device = torch.device(device)
    exact_products(device)
    model.to(device)
    teacher = None if teacher is None else teacher.to(device).eval()
    budget, progress = Budget(config.max_minutes, began), Progress()
    trainer = TandemTrainer(
        model,
        loss,
        metric,
        train_set,
        valid_set,
        config,
        seed,
        device,
        fresh,
        folder,
        teacher,
        budget,
        progress,
    )
    clock = _Clock()
    n_stages = len(model.network) if config.method == "ptl" else 1

    def on_epoch(done: StageEpoch) -> None:
        seconds = clock.lap()
        row = Epoch(
            done.stage + 1,
            done.epoch,
            done.train_loss,
            done.valid_loss,
            trainer.valid_metric,
            trainer.optimizer.param_groups[0]["lr"],
            seconds,
            done.cut_at,
        )
        history.add(row)
        checkpoint.save(learning)
        trained = "" if math.isnan(done.train_loss) else f"training loss {done.train_loss:.4g}, "
        layer = model.network.names[done.stage] if config.method == "ptl" else "all layers"
        print(
            f"stage {done.stage + 1}/{n_stages} ({layer}), epoch {done.epoch}: {trained}"
            f"validation loss {done.valid_loss:.4g} (metric {trainer.valid_metric:.4g}), {seconds:.0f} s"
            f"{'; the time budget ends this stage' if done.cut_at else ''}",
            flush=True,
        )

    def on_stage(stage: int) -> None:
        save_tensors(folder / f"stage{stage + 1:02d}.pt", model.state_dict())

    coding = Coding(config.n_steps, config.encoding, config.initial_potential, config.deferred)
    learning = (ProgressiveTandemLearning if config.method == "ptl" else AllAtOnce)(
        model,
        model.network,
        trainer,
        coding,
        config.percentile,
        config.discretize and config.method == "ptl",
        "surrogate" if config.method == "surrogate" else config.gradient,
        HardwareLimits(config.qat_bits, config.fan_in),
        config.pruning,
        config.synops_budget,
        config.patience,
        0 if config.method == "rate" else config.max_epochs,
        0 if config.method == "rate" else config.first_stage_epochs,
        on_epoch,
        on_stage,
        trainer.clock.cuts_short,
    )
    trainer.check_network()
    with progress:
        if checkpoint.path.exists():
            checkpoint.take_up(learning, device)
            print(f"going on from stage {min(learning.stage + 1, n_stages)}/{n_stages}", flush=True)
        elif config.synops_budget or config.pruning == "refit":
            print("weighing spikes and connections, some minutes", flush=True)
        learning.run()
        model.cpu().eval()
        if config.weight_bits:
            trainer.to_fixed_point()
    for sentence in cut_short([row for row in history.read() if row.stage > 0]):
        print(sentence, flush=True)
    return learning.choices


class TandemTrainer:
    """The `StageTrainer` of a model in memory: batches, gradients, and the spikes of the frozen prefix."""

    def __init__(
        self,
        model: ConvertibleModel,
        loss: Loss,
        metric: Metric,
        train_set: Dataset,
        valid_set: Dataset,
        config: ConversionConfig,
        seed: int,
        device: torch.device,
        fresh: DataLoader | None = None,
        folder: Path | None = None,
        teacher: ConvertibleModel | None = None,
        budget: Budget | None = None,
        progress: Progress | None = None,
    ):
        self.model = model
        self.loss = loss
        self.metric = metric
        self.valid_metric = math.nan
        self.sets = {"train": train_set, "valid": valid_set}
        self.config = config
        self.seed = seed
        self.device = device
        self.fresh = fresh
        self.teacher = teacher
        self.folder = folder  # where spikes go that find no room in memory
        self.caches: dict[str, list[SpikeCache] | None] = {
            "train": [],
            "valid": [],
        }  # a layer each; None: no room
        self.cached_stage = 0
        self.optimizer: torch.optim.Optimizer | None = None
        self.mean: AveragedModel | None = None
        self.onward: dict[str, Tensor] | None = (
            None  # where steps had come to, while the model stands at their mean
        )
        self.progress = progress or Progress(quiet=True)
        at_end = FIXED_POINT_VALIDATIONS if config.weight_bits else 0.0
        self.clock = StageClock(budget or Budget(None), self._most_steps(), at_end)
        for module in model.front():
            module.requires_grad_(False)

    def advance(self, stage: int) -> None:
        """Bring the caches to the spikes behind the frozen layers 0..stage-1."""
        self.clock.open()
        self.model.eval()
        while self.cached_stage < stage:
            for name in self.sets:
                self._advance_cache(name, self.cached_stage)
            self.cached_stage += 1

    def check_network(self) -> None:
        """See on calibration examples that the network can be converted.

        Raises:
            SpikeSepError: it cannot, or what it is given is not finite.
        """
        for name, weight in self.model.network.named_parameters():
            require_finite(weight, f"the network's {name}")
        for features, _ in itertools.islice(self.examples(), 1):
            require_foldable(self.model.network, features)

    def examples(self, purpose: str = "weighing spikes and connections") -> Iterator[Example]:
        """See `StageTrainer`."""
        self.model.eval()
        self.progress.begin(purpose, unit="batches")
        for indices in self._calibration():
            self.progress.advance()
            features, context = self._features(indices)
            yield features, lambda potential, context=context: self.model.decode(potential, context)

    def activations(self, index: int) -> Iterator[Tensor]:
        """See `StageTrainer`."""
        self.model.eval()
        layer, batches = self.model.network[index], list(self._calibration())
        self.progress.begin(
            f"calibrating layer {self.model.network.names[index]}", len(batches), "batches"
        )
        with torch.no_grad():
            for indices in batches:
                self.progress.advance()
                features, _ = self._features(indices)
                yield layer.activation(self._prefix("train", indices, features, index).value)

    @torch.no_grad()
    def _features(self, indices: list[int]) -> tuple[Tensor, Any]:
        """The network's input for training examples, which must be finite, and what `decode` needs besides."""
        features, context = self.model.encode(self._examples("train", indices)[0])
        require_finite(
            features, f"the network's input, in training examples {indices[0]} to {indices[-1]},"
        )
        return features, context

    def begin(self, stage: int) -> None:
        """See `StageTrainer`."""
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optimizer_of(
            self.config.optimizer, learning, self.config.learning_rate, fused=True
        )
        self.mean = self.onward = None
        if self.config.ema_decay:
            self.mean = AveragedModel(
                self.model, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema_decay)
            )
            self.mean.n_averaged.fill_(1)  # the model as it stands is the first

    def train_epoch(self, stage: int, epoch: int) -> float:
        """See `StageTrainer`."""
        if self.onward is not None:
            self.model.load_state_dict(self.onward)
        self.model.train()
        for module in self._settled(stage):
            module.eval()
        total, n = 0.0, 0
        predictions, n_batches = self._epoch(stage, epoch)
        self.progress.begin(
            f"{self.clock.title(stage)}, epoch {epoch}", n_batches, left=self.clock.left
        )
        self.clock.start(stage, epoch)
        for k, (prediction, target, estimate) in enumerate(predictions):
            self._set_rate(stage, epoch - 1 + k / n_batches)
            loss = (
                self.loss(prediction.float(), target) + self.config.synops_weight * estimate.ratio
            )
            self.optimizer.zero_grad()
            loss.backward()
            learning = self.optimizer.param_groups[0][
                "params"
            ]  # what is frozen may still hold an old gradient
            nn.utils.clip_grad_norm_(learning, self.config.clip_norm)
            self.optimizer.step()
            if self.mean is not None:
                self.mean.update_parameters(self.model)
            total += loss.detach().double() * len(target)  # a tensor: no accelerator waits
            n += len(target)
            self.progress.advance()
            if self.clock.step():
                break
        if self.mean is not None:
            self.onward = copy.deepcopy(self.model.state_dict())
            self.model.load_state_dict(self.mean.module.state_dict())
        return float(total) / n

    def validate(self, stage: int) -> float:
        """See `StageTrainer`; leaves the mean metric in `valid_metric`."""
        self.model.eval()
        total, metric, n = 0.0, 0.0, len(self.sets["valid"])
        batches, seconds = list(self._batches(range(n))), []
        self.progress.begin("validation", len(batches), "batches")
        with torch.no_grad():
            for indices in batches:
                begun = time.monotonic()
                x, target = self._examples("valid", indices)
                estimate = SynopsEstimate()
                prediction = self._predict(
                    x, stage, partial(self._prefix, "valid", indices, stage=stage), estimate
                )
                loss = of_task = float(self.loss(prediction, target))
                if self.teacher is not None:
                    loss = float(self.loss(prediction, self._taught(x)))
                total += (loss + self.config.synops_weight * float(estimate.ratio)) * len(indices)
                metric += self.metric(prediction, target, of_task) * len(indices)
                seconds.append(time.monotonic() - begun)
                self.progress.advance()
        self.valid_metric = metric / n
        self.clock.validation = len(seconds) * median(
            seconds
        )  # not the mean: the first may wait for a compiler
        return total / n

    def to_fixed_point(self) -> None:
        """Bring the network, converted and on the CPU, into fixed-point form, and say what that costs."""
        self.device, bits = torch.device("cpu"), self.config.weight_bits
        self.caches, self.cached_stage = (
            {name: [] for name in self.sets},
            0,
        )  # nothing is kept of it as it was
        if self.teacher is not None:
            self.teacher.cpu()
        before = self.validate(0)
        with torch.no_grad():
            to_fixed_point(
                self.model.network,
                (features for features, _ in self.examples("fixed-point form")),
                bits,
            )
        change = self.validate(0) - before
        print(
            f"fixed-point form, {bits}-bit weights: validation loss {before:.4g} ({change:+.2g})",
            flush=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """See `StageTrainer`."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "onward": self.onward,
            "clock": self.clock.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `StageTrainer`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.onward = state.get("onward")
        if "clock" in state:
            self.clock.load_state_dict(state["clock"])

    def _settled(self, stage: int) -> list[nn.Module]:
        """What does not go into training mode: the front, and norms after the first stage. By then their statistics are
        good; those of the fixed crops, fewer and less varied, would be worse."""
        norms = [
            layer.norm for layer in self.model.network.layers.values() if layer.norm is not None
        ]
        return [*self.model.front(), *(norms if stage > 0 else [])]

    def _set_rate(self, stage: int, epochs_done: float) -> None:
        """The rate falls to zero along a half cosine over the most epochs that a stage can have, or over its share of
        the time, where that is over sooner."""
        config = self.config
        rate, epochs = config.learning_rate, config.max_epochs
        if stage == 0:
            rate, epochs = config.first_stage_learning_rate, config.first_stage_epochs or epochs
        done = max(self.clock.share_spent, min(1.0, epochs_done / max(1, epochs)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))

    def _most_steps(self) -> list[tuple[int, int]]:
        """Of each stage, the most epochs and the steps of one."""
        config = self.config
        n_batches = -(-len(self.sets["train"]) // config.batch_size)
        first = n_batches if self.fresh is None else len(self.fresh)
        epochs = (
            config.max_epochs if config.first_stage_epochs is None else config.first_stage_epochs
        )
        later = [(config.max_epochs, n_batches)] * (
            len(self.model.network) - 1 if config.method == "ptl" else 0
        )
        return [(0 if config.method == "rate" else epochs, first), *later]

    def _epoch(
        self, stage: int, epoch: int
    ) -> tuple[Iterator[tuple[Tensor, Tensor, SynopsEstimate]], int]:
        """Predictions, targets and cost of every batch of an epoch, one after the other, and how many there are."""
        if stage == 0 and self.fresh is not None:
            self.fresh.batch_sampler.sampler.set_epoch(epoch)
            return (
                self._autocast(x, y, lambda features: Signal(features), stage)
                for x, y in self.fresh
            ), len(self.fresh)
        order = (
            np.random.default_rng((self.seed, stage, epoch))
            .permutation(len(self.sets["train"]))
            .tolist()
        )
        batches = list(self._batches(order))
        predictions = (
            self._autocast(
                *self._examples("train", indices),
                partial(self._prefix, "train", indices, stage=stage),
                stage,
            )
            for indices in batches
        )
        return predictions, len(batches)

    def _autocast(self, x: Tensor, target: Tensor, prefix: Callable[[Tensor], Signal], stage: int):
        estimate, x = SynopsEstimate(), x.to(self.device)
        with autocast(self.config.precision, self.device):
            target = target.to(self.device) if self.teacher is None else self._taught(x)
            return self._predict(x, stage, prefix, estimate), target, estimate

    @torch.no_grad()
    def _taught(self, x: Tensor) -> Tensor:
        features, context = self.teacher.encode(x)
        return self.teacher.decode(self.teacher.network(features), context).float()

    def _predict(
        self, x: Tensor, stage: int, prefix: Callable[[Tensor], Signal], estimate: SynopsEstimate
    ) -> Tensor:
        network = self.model.network
        observe = estimate if self.config.synops_weight else None
        # What is frozen gives the same, exact numbers in training, in validation and in the cache: no autocast.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            features, context = self.model.encode(x)
            signal = prefix(features)
        signal = network.propagate(signal, stage, len(network), observe)
        return self.model.decode(network.read(signal, observe), context)

    def _prefix(self, name: str, indices: list[int], features: Tensor, stage: int) -> Signal:
        """The signal behind layers 0..stage-1, from the spikes of the frozen ones where they are cached."""
        caches = self.caches[name]
        if not caches:
            return self.model.network.propagate(features, 0, stage)
        signal = Signal(trains=tuple(cache.get(indices) for cache in caches))
        return self.model.network.propagate(signal, self.cached_stage, stage)

    def _advance_cache(self, name: str, stage: int) -> None:
        """Run every example through frozen layer `stage` and keep its spikes, if there is room for them."""
        caches, layer, ahead = self.caches[name], self.model.network[stage], None
        if caches is None:
            return
        n_examples = len(self.sets[name])
        no_more = name == "train" and self.clock.is_over  # than calibration takes
        batches = list(self._calibration() if no_more else self._batches(range(n_examples)))
        self.progress.begin(
            f"{self.clock.title(stage + 1)}, spikes of {name} examples", len(batches), "batches"
        )
        for indices in batches:
            x, _ = self._examples(name, indices)
            self.progress.advance()
            with torch.no_grad():
                (trains,) = layer(
                    self._prefix(name, indices, self.model.encode(x)[0], stage)
                ).trains
            if ahead is None:
                if (place := self._place(name, SpikeCache.size(n_examples, trains))) is None:
                    self.caches[name] = None
                    return
                room = None if place == "memory" else partial(in_unnamed_file, self.folder)
                ahead = SpikeCache(n_examples, trains, room)
            ahead.put(indices, trains)
        self.caches[name] = [*caches, ahead] if layer.identity else [ahead]

    def _place(self, name: str, more: int) -> Literal["memory", "disk"] | None:
        """Where there is room for the caches there are and for `more` bytes."""
        caches = [cache for caches_of_set in self.caches.values() for cache in caches_of_set or ()]
        limits = {
            "memory": self.config.cache_gib,
            "disk": self.config.cache_disk_gib if self.folder else 0.0,
        }
        needs = {}
        for place, limit in limits.items():
            kept = sum(cache.nbytes for cache in caches if cache.in_memory == (place == "memory"))
            needs[place] = (kept + more) / 2**30
            if needs[place] <= limit:
                return place
        print(
            f"spike cache off for the {name} examples: it would grow to {needs['memory']:.2f} GiB of memory or "
            f"{needs['disk']:.2f} GiB of disk, the limits (ptl.cache_gib, ptl.cache_disk_gib) are {limits['memory']:g} "
            f"and {limits['disk']:g} GiB; the frozen layers are run anew in each step",
            flush=True,
        )
        return None

    def _calibration(self) -> Iterator[list[int]]:
        return self._batches(range(min(self.config.calibration_examples, len(self.sets["train"]))))

    def _batches(self, indices) -> Iterator[list[int]]:
        indices = list(indices)
        for start in range(0, len(indices), self.config.batch_size):
            yield indices[start : start + self.config.batch_size]

    def _examples(self, name: str, indices: list[int]) -> tuple[Tensor, Tensor]:
        examples = self.sets[name]
        if hasattr(examples, "batch"):  # in memory, in one piece
            x, target = examples.batch(indices)
            return x.to(self.device), target.to(self.device)
        x, target = zip(*(examples[i] for i in indices), strict=True)
        return torch.stack(x).to(self.device), torch.stack(target).to(self.device)


def in_unnamed_file(folder: Path, shape: tuple[int, ...]) -> Tensor:
    """A uint8 tensor of this shape in a file without a name in `folder`: the disk has it back when the tensor is no
    longer used or the process ends, however it ends.

    Raises:
        SpikeSepError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with explain_full_disk(folder / "spike cache"), TemporaryFile(dir=folder) as file:
        os.posix_fallocate(
            file.fileno(), 0, math.prod(shape)
        )  # a map without a disk behind it kills who writes to it
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))


class _Clock:
    def __init__(self):
        self.then = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        seconds, self.then = now - self.then, now
        return seconds
