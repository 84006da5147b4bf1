"""Training loop of a conversion: epochs, validation, and the state to resume from."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn

from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.conversion.spike_budget import Example
from spikesep.spiking.cost import SynopsEstimate
from spikesep.spiking.network import Cut
from spikesep.spiking.signal import Signal
from spikesep.training.config import ConversionConfig
from spikesep.training.conversion.calibration import Calibration
from spikesep.training.conversion.examples import Batches, ConversionData
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.conversion.prefix_cache import PrefixCache
from spikesep.training.conversion.schedule import learning_rate, planned_steps
from spikesep.training.conversion.weight_average import WeightAverage
from spikesep.training.objective import Objective
from spikesep.training.optimizer import MAX_GRADIENT_NORM
from spikesep.training.precision import autocast
from spikesep.training.timing.budget import Budget, StageClock
from spikesep.training.timing.progress import Progress

CPU = torch.device("cpu")
EPOCHS_APART = 1000
"""Distance between the first epochs of two stages, as numbers that determine fresh examples."""
FIXED_POINT_VALIDATIONS = 15.0
"""Duration of the fixed-point conversion, in validations; measured on debian-2mix."""


class TandemTrainer:
    """The `StageTrainer` of progressive tandem learning.

    Args:
        model: the model to convert, on `device`; the modules of `front` are frozen.
        objective: loss and metric.
        data: training and validation sets.
        config: the settings.
        seed: seed of the order of training examples.
        device: device of the model.
        folder: folder for spikes that do not fit in memory; None to use memory only.
        teacher: analog model whose predictions replace the targets of the loss.
        budget: time budget.
        progress: display of the progress.
    """

    def __init__(
        self,
        model: ConvertibleModel,
        objective: Objective,
        data: ConversionData,
        config: ConversionConfig,
        *,
        seed: int = 0,
        device: torch.device = CPU,
        folder: Path | None = None,
        teacher: ConvertibleModel | None = None,
        budget: Budget | None = None,
        progress: Progress | None = None,
    ):
        self.model = model
        self.objective = objective
        self.data = data
        self.config = config
        self.teacher = teacher
        self.progress = progress or Progress(quiet=True)
        self.batches = Batches(data, config.batch_size, device, seed=seed)
        self.prefix = PrefixCache(model, self.batches, config.cache, folder, self.progress)
        self.calibration = Calibration(
            model, self.batches, self.prefix, config.calibration_examples, self.progress
        )
        self.clock = self._clock(budget or Budget(None))
        self.valid_metric = math.nan
        self.optimizer: torch.optim.Optimizer | None = None
        self.average: WeightAverage | None = None
        for module in model.front():
            module.requires_grad_(False)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step."""
        assert self.optimizer is not None
        return self.optimizer.param_groups[0]["lr"]

    def advance(self, stage: int) -> None:
        """See `StageTrainer`."""
        self.clock.open()
        self.model.eval()
        # Without time to train, or with fresh examples, calibration alone reads these spikes.
        spares = self.clock.is_over or self._draws_fresh(stage)
        n_train = self.config.calibration_examples if spares else None
        self.prefix.advance(stage, self.clock.title(stage), n_train)

    def examples(self) -> Iterator[Example]:
        """See `StageTrainer`."""
        return self.calibration.examples("allotting spikes and pruning")

    def activations(self, index: int) -> Iterator[Tensor]:
        """See `StageTrainer`."""
        return self.calibration.activations(index)

    def begin(self, stage: int) -> None:
        """See `StageTrainer`."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, self.config.learning_rate, fused=True)
        self.average = None
        if self.config.ema_decay:
            self.average = WeightAverage(cast(nn.Module, self.model), self.config.ema_decay)

    def train_epoch(self, stage: int, epoch: int) -> float:
        """See `StageTrainer`."""
        if self.average is not None:
            self.average.begin_epoch()
        self._training_mode(stage)
        total, n = torch.zeros((), dtype=torch.float64, device=self.batches.device), 0
        predictions, n_batches = self._epoch(stage, epoch)
        title = f"{self.clock.title(stage)}, epoch {epoch}"
        self.progress.begin(title, n_batches, left=self.clock.left)
        self.clock.start(stage, epoch)
        for k, (prediction, target, estimate) in enumerate(predictions):
            loss = self.objective.loss(prediction.float(), target)
            loss = loss + self.config.budget.synops_weight * estimate.ratio
            self._step(loss, stage, epoch - 1 + k / n_batches)
            total += loss.detach().double() * len(target)
            n += len(target)
            self.progress.advance()
            if self.clock.step():
                break
        if self.average is not None:
            self.average.end_epoch()
        return float(total) / n

    @torch.no_grad()
    def validate(self, stage: int) -> float:
        """See `StageTrainer`; also sets `valid_metric` to the mean metric."""
        self.model.eval()
        total, metric, n = 0.0, 0.0, self.data.size("valid")
        batches, seconds = self.batches.in_order("valid"), []
        self.progress.begin("validation", len(batches), "batches")
        for indices in batches:
            begun = time.monotonic()
            x, target = self.batches.fetch("valid", indices)
            estimate = SynopsEstimate()
            prefix = partial(self.prefix.signals, "valid", indices, stage=stage)
            prediction = self._predict(x, stage, prefix, estimate)
            loss = task_loss = float(self.objective.loss(prediction, target))
            if self.teacher is not None:
                loss = float(self.objective.loss(prediction, self._taught(x)))
            price = self.config.budget.synops_weight * float(estimate.ratio)
            total += (loss + price) * len(indices)
            metric += self.objective.metric(prediction, target, task_loss) * len(indices)
            seconds.append(time.monotonic() - begun)
            self.progress.advance()
        self.valid_metric = metric / n
        # The median, since the first batch may include compilation.
        self.clock.validation = len(seconds) * median(seconds)
        return total / n

    def to_fixed_point(self) -> None:
        """Convert the spiking network to fixed point on the CPU; print the effect on the loss."""
        bits = self.config.weight_bits
        self.batches.device = CPU
        self.prefix.clear()
        if self.teacher is not None:
            self.teacher.cpu()
        before = self.validate(0)
        with torch.no_grad():
            inputs = (features for features, _ in self.calibration.examples("fixed-point form"))
            to_fixed_point(self.model.network, inputs, bits)
        change = self.validate(0) - before
        print(
            f"fixed-point form, {bits}-bit weights: validation loss {before:.4g} ({change:+.2g})",
            flush=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """See `StageTrainer`."""
        assert self.optimizer is not None
        return {
            "optimizer": self.optimizer.state_dict(),
            "onward": self.average and self.average.trained,
            "clock": self.clock.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `StageTrainer`."""
        assert self.optimizer is not None
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.trained = state.get("onward")
        if "clock" in state:
            self.clock.load_state_dict(state["clock"])

    def _clock(self, budget: Budget) -> StageClock:
        later = len(self.batches.in_order("train"))
        first = later if self.data.fresh is None else len(self.data.fresh)
        later = first if self._draws_fresh(1) else later
        steps = planned_steps(self.config, len(self.model.network), first, later)
        return StageClock(budget, steps, FIXED_POINT_VALIDATIONS if self.config.weight_bits else 0)

    def _training_mode(self, stage: int) -> None:
        """Put into training mode what is trained.

        Norms are trained on fresh examples only: the statistics of fixed ones, fewer and less
        varied, would be worse. In the first stage they are always trained.
        """
        self.model.train()
        layers = self.model.network.layers.values()
        norms = [layer.norm for layer in layers if layer.norm is not None]
        for module in [
            *self.model.front(),
            *([] if stage == 0 or self._draws_fresh(stage) else norms),
        ]:
            module.eval()

    def _step(self, loss: Tensor, stage: int, epochs_done: float) -> None:
        assert self.optimizer is not None
        rate = learning_rate(self.config, stage, epochs_done, self.clock.share_spent)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        # Not all parameters of the model: frozen ones may still hold a gradient.
        nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], MAX_GRADIENT_NORM)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()

    def _epoch(
        self, stage: int, epoch: int
    ) -> tuple[Iterator[tuple[Tensor, Tensor, SynopsEstimate]], int]:
        """Return an iterator over (prediction, target, cost) of an epoch, and its length."""
        fresh = self.data.fresh
        if fresh is not None and self._draws_fresh(stage):
            cast(Any, fresh.batch_sampler).sampler.set_epoch(stage * EPOCHS_APART + epoch)
            prefix = partial(self.model.network.propagate, start=0, stop=stage)
            given = Signal if stage == 0 else prefix
            return (self._forward(x, y, given, stage) for x, y in fresh), len(fresh)
        batches = self.batches.shuffled(stage, epoch)
        predictions = (
            self._forward(
                *self.batches.fetch("train", indices),
                partial(self.prefix.signals, "train", indices, stage=stage),
                stage,
            )
            for indices in batches
        )
        return predictions, len(batches)

    def _draws_fresh(self, stage: int) -> bool:
        """Return whether the examples of a stage differ in each epoch."""
        draws = stage == 0 or self.config.fresh_examples == "all"
        return draws and self.data.fresh is not None

    def _forward(
        self, x: Tensor, target: Tensor, prefix: Callable[[Tensor], Signal | Cut], stage: int
    ) -> tuple[Tensor, Tensor, SynopsEstimate]:
        """Return prediction, target and cost of a training batch."""
        device = self.batches.device
        estimate, x = SynopsEstimate(), x.to(device)
        with autocast(self.config.precision, device):
            target = target.to(device) if self.teacher is None else self._taught(x)
            return self._predict(x, stage, prefix, estimate), target, estimate

    @torch.no_grad()
    def _taught(self, x: Tensor) -> Tensor:
        assert self.teacher is not None
        features, context = self.teacher.encode(x)
        return self.teacher.decode(self.teacher.network(features), context).float()

    def _predict(
        self,
        x: Tensor,
        stage: int,
        prefix: Callable[[Tensor], Signal | Cut],
        estimate: SynopsEstimate,
    ) -> Tensor:
        network = self.model.network
        observe = estimate if self.config.budget.synops_weight else None
        # Without autocast, so that frozen layers fire the same spikes wherever they are run.
        with torch.no_grad(), torch.autocast(self.batches.device.type, enabled=False):
            features, context = self.model.encode(x)
            signals = prefix(features)
        signals = network.propagate(signals, stage, len(network), observe)
        return self.model.decode(network.read(signals, observe), context)
