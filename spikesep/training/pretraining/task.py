"""Lightning module of pre-training: steps, validation and learning-rate schedule."""

import math

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.levels.rate import SpikeRate
from spikesep.training.config import PretrainConfig
from spikesep.training.objective import Objective
from spikesep.training.optimizer import optimizer_of
from spikesep.training.pretraining.spike_price import SpikePrice
from spikesep.training.processes.distributed import sum_over_processes


class PretrainTask(pl.LightningModule):
    """A model with its objective and learning-rate schedule.

    Args:
        model: maps a batch of inputs to predictions.
        objective: loss and metric.
        config: the settings.
        steps_per_epoch: steps per epoch.
    """

    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
    """Scheduler of the schedule `plateau`."""

    def __init__(
        self, model: nn.Module, objective: Objective, config: PretrainConfig, steps_per_epoch: int
    ):
        super().__init__()
        self.model = model
        self.objective = objective
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.price = SpikePrice(config.levels)
        self.spent_seconds = 0.0
        """Time spent of the budget."""
        self.reserved_seconds = 0.0
        """Time to reserve for a validation."""
        self.finished = self.cut_short = False
        self._plateau_state: dict | None = None
        self._sums: dict[str, Tensor] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the loss of a batch.

        It is weighted such that the mean over the processes is the mean over all examples.
        """
        x, target = batch
        _, loss, rate = self._loss(x, target)
        loss = loss + self.price.cost(rate)
        self._adapt_price(rate)
        self.log("train_loss_step", loss.detach())
        self._accumulate("train", loss, len(x))
        if self.trainer.world_size == 1:
            return loss
        n_examples = sum_over_processes(loss.new_full((), len(x)))
        return loss * (len(x) * self.trainer.world_size / n_examples)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Accumulate loss and metric of a batch."""
        x, target = batch
        prediction, loss, rate = self._loss(x, target)
        metric = self.objective.metric(prediction, target, float(loss))
        loss = loss + self.price.cost(float(rate))
        self._accumulate("valid", loss, len(x), metric, float(rate))

    def _loss(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Return prediction, loss and rate of spikes, 0 for a network with ReLU.

        The loss is in float32: a bf16 loss of 12 dB has steps of 0.06 dB.
        """
        rate = SpikeRate()
        prediction = self.model(x, rate) if self.config.levels.n_steps else self.model(x)
        prediction = prediction.float()
        with torch.autocast(x.device.type, enabled=False):
            return prediction, self.objective.loss(prediction, target), rate.mean

    def _adapt_price(self, rate: Tensor | float) -> None:
        """Adapt the price of spikes, if it has a target, equally in all processes."""
        if self.price.target and isinstance(rate, Tensor):
            shared = rate.detach()
            if self.trainer.world_size > 1:
                shared = sum_over_processes(shared) / self.trainer.world_size
            self.price.adapt(float(shared))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all examples of all processes.

        Lightning would average the processes' means, whose numbers of examples differ.

        Raises:
            SpikeSepError: a loss is not finite.
        """
        for name, sums in self._sums.items():
            total = sums if self.trainer.world_size == 1 else sum_over_processes(sums)
            if not total[0].isfinite():
                kind = {"train": "training", "valid": "validation"}[name]
                raise SpikeSepError(
                    f"epoch {self.current_epoch + 1}: the {kind} loss is {float(total[0])}; lower "
                    "train.learning_rate, or check the examples. The last complete epoch is kept"
                )
            self.log("valid_loss" if name == "valid" else "train_loss_epoch", total[0] / total[1])
            if name == "valid":
                self.log("valid_metric", total[2] / total[1])
                self.log("valid_rate", total[3] / total[1])
        self._sums.clear()

    def _accumulate(
        self, name: str, loss: Tensor, n: int, metric: float = 0.0, rate: float = 0.0
    ) -> None:
        """Add means over n examples to the epoch's sums [loss, n, metric, rate]."""
        counts = [loss.new_full((), v, dtype=torch.float64) for v in (n, n * metric, n * rate)]
        added = torch.stack([n * loss.detach().double(), *counts])
        self._sums[name] = self._sums.get(name, 0) + added

    def configure_optimizers(self):
        """Return the optimizer and, unless the schedule is `plateau`, the scheduler."""
        optimizer = optimizer_of(
            self.config.optimizer,
            self.model.parameters(),
            self.config.learning_rate,
            self.config.weight_decay,
        )
        if self.config.schedule != "plateau":
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate_factor)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }
        # Not returned: Lightning would step it after writing the epoch's checkpoint.
        # `EpochRecord` steps it before.
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=self.config.halve_patience - 1
        )
        if self._plateau_state:
            self.plateau.load_state_dict(self._plateau_state)
        return optimizer

    def optimizer_step(
        self, epoch: int, batch_index: int, optimizer, optimizer_closure=None
    ) -> None:
        """Step the optimizer, with linear learning-rate warm-up."""
        if self.global_step < self.config.warmup_steps:
            rate = self.config.learning_rate * (self.global_step + 1) / self.config.warmup_steps
            for group in optimizer.param_groups:
                group["lr"] = rate
        optimizer.step(closure=optimizer_closure)

    def rate_factor(self, step: int) -> float:
        """Return the factor of the learning rate at a step behind warm-up; not for `plateau`."""
        done = min(1.0, self._progress(step))
        if self.config.schedule == "step":
            return 0.1 if done >= 0.5 else 1.0
        if self.config.schedule == "triangular":
            peak = min(1.0, self.config.warmup_steps / self._n_steps)
            return min(1.0, (1 - done) / (1 - peak)) if peak < 1 else 1.0
        start = self.config.cosine_from
        falling = max(0.0, (done - start) / (1 - start)) if start < 1 else 0.0
        return 0.5 * (1 + math.cos(math.pi * falling))

    @property
    def _n_steps(self) -> int:
        """Number of steps of all epochs."""
        return self.config.epochs * self.steps_per_epoch

    def _progress(self, step: int) -> float:
        """Return the fraction of the run that is done, by steps or time, whichever is further."""
        done = step / self._n_steps
        if self.config.max_minutes:
            seconds = 60 * self.config.max_minutes - self.reserved_seconds
            done = max(done, self.spent_seconds / seconds) if seconds > 0 else 1.0
        return done

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Save the time spent, the price of spikes, the scheduler, and whether training ended."""
        checkpoint["spent_seconds"] = self.spent_seconds
        checkpoint["reserved_seconds"] = self.reserved_seconds
        checkpoint["spike_price"] = self.price.value
        checkpoint["finished"] = self.trainer.should_stop
        checkpoint["plateau"] = self.plateau.state_dict() if self.plateau else None

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restore what `on_save_checkpoint` saved."""
        self.spent_seconds = checkpoint["spent_seconds"]
        self.reserved_seconds = checkpoint.get("reserved_seconds", 0.0)
        self.price.value = checkpoint.get("spike_price", self.price.value)
        self.finished = checkpoint["finished"]
        self._plateau_state = checkpoint["plateau"]
        if self.plateau and self._plateau_state:
            self.plateau.load_state_dict(self._plateau_state)
