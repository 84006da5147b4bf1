"""Progressive tandem learning (section 4 and Algorithm 1).

Convert one layer, fine-tune it together with all analog layers behind it until validation stops
improving, restore the best weights, freeze the layer, and go on to the next. The algorithm is here;
batches, gradients, devices and files belong to the `StageTrainer` it is given.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.pruning import Pruning, prune
from spikesep.spiking.conversion.schedule import AdaptiveSchedule
from spikesep.spiking.conversion.spike_budget import Example, allocate
from spikesep.spiking.conversion.threshold import ThresholdChoice, choose_threshold
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.layer import Gradient
from spikesep.spiking.levels.network import settle_levels
from spikesep.spiking.network import SpikingNetwork, require_stack
from spikesep.spiking.signal import Coding

SPENT_AT_FIRST = 1.5
"""Factor on the spike budget while connections are valued: pruning them makes room."""


class StageTrainer(Protocol):
    """What the algorithm needs of a training loop. Stage k, from 0, converts layer k."""

    def advance(self, stage: int) -> None:
        """The layers before `stage` are frozen: a constant function of the input from now on."""

    def examples(self) -> Iterable[Example]:
        """Calibration data: inputs of the network, and the function from readout to predictions."""
        ...

    def activations(self, index: int) -> Iterable[Tensor]:
        """ReLU output of layer `index`, not converted yet, over the calibration data."""
        ...

    def begin(self, stage: int) -> None:
        """Layer `stage` has become tandem: make a new optimizer."""

    def train_epoch(self, stage: int, epoch: int) -> float:
        """Train for one pass over the data; return the mean loss."""
        ...

    def validate(self, stage: int) -> float:
        """Loss of the network as it stands, in inference."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State that an unbroken run carries into the next epoch, such as the optimizer's."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore such a state."""


@dataclass
class StageEpoch:
    """Report of one epoch; epoch 0 is the converted layer before training.

    Attributes:
        stage: from 0.
        epoch: from 0.
        train_loss, valid_loss: mean losses; training is NaN in epoch 0.
        improved: whether the epoch is the best of its stage so far.
        cut_at: the stage's largest number of epochs, if time ended it with this one; else 0.
    """

    stage: int
    epoch: int
    train_loss: float
    valid_loss: float
    improved: bool
    cut_at: int = 0


class ProgressiveTandemLearning:
    """Algorithm 1, resumable after every epoch.

    Args:
        model: all that is trained: `network` and what surrounds it.
        network: the stack to convert, a part of `model`; steps that it has learned become its
            thresholds.
        trainer: the training loop.
        coding: N_s, encoding, initial potential.
        percentile: for Threshold LayerNorm, or "auto".
        discretize: let layers not yet converted round to the levels of spikes (eq. 10) from the
            first stage on. All layers then learn together what rounding does, and later stages
            learn what the timing of their spikes adds; they keep the thresholds learned with.
            False leaves them analog, as in the paper.
        gradient: of layers that round or spike.
        limits: hardware limits, imposed on each layer at its stage, and on the readout at the last.
        pruning: how inputs beyond the fan-in limit are dropped: by `magnitude`, the weakest at a
            layer's stage; or `refit`, in all layers before the first stage, those that affect the
            potential least (see `spikesep.spiking.conversion.pruning`).
        synops_budget: synaptic operations per MAC. Before the first stage and at its end, spikes
            are allocated to channels (see `spikesep.spiking.conversion.spike_budget`); with
            `refit`, connections not worth their spikes are dropped. 0 disables it. Layers must
            round.
        patience: T_p.
        max_epochs: largest number of epochs of a stage; 0 converts without fine-tuning.
        first_stage_epochs: the same for the first stage, in which all layers learn; None for
            `max_epochs`.
        on_epoch: called with a `StageEpoch` after each epoch, when `state_dict` is up to date.
        on_stage: called with the number of a stage when its layer is frozen.
        cuts_short: called after each epoch with the stage and whether its schedule ends it; returns
            whether time ends the stage.
    """

    def __init__(
        self,
        model: nn.Module,
        network: SpikingNetwork,
        trainer: StageTrainer,
        coding: Coding,
        *,
        percentile: float | str = "auto",
        discretize: bool = True,
        gradient: Gradient = "relu",
        limits: HardwareLimits | None = None,
        pruning: Pruning = "magnitude",
        synops_budget: float = 0.0,
        patience: int = 3,
        max_epochs: int = 100,
        first_stage_epochs: int | None = None,
        on_epoch: Callable[[StageEpoch], None] = lambda progress: None,
        on_stage: Callable[[int], None] = lambda stage: None,
        cuts_short: Callable[[int, bool], bool] = lambda stage, finished: False,
    ):
        self.model = model
        self.network = network
        self.trainer = trainer
        self.coding = coding
        self.percentile = percentile
        self.discretize = discretize
        self.gradient: Gradient = gradient
        self.limits = limits or HardwareLimits()
        self.refits = pruning == "refit" and self.limits.fan_in > 0
        self.synops_budget = synops_budget
        if self.limits:
            require_stack(network, "convert.fan_in and convert.qat_bits")
        if synops_budget:
            require_stack(network, "convert.budget.synops")
        if gradient == "surrogate":
            require_stack(network, "convert.method surrogate")
        self.patience = patience
        self.max_epochs = max_epochs
        self.first_stage_epochs = max_epochs if first_stage_epochs is None else first_stage_epochs
        self.on_epoch = on_epoch
        self.on_stage = on_stage
        self.cuts_short = cuts_short
        settle_levels(network, coding)
        self.choices: list[ThresholdChoice] = []
        self._schedule: AdaptiveSchedule | None = None
        self._best: dict[str, Tensor] = {}

    @property
    def stage(self) -> int:
        """The stage in progress or next to begin; the number of layers once all are done."""
        return sum(layer.mode == "spiking" for layer in self.network.layers.values())

    def run(self) -> None:
        """Convert all layers that are not frozen yet.

        Raises:
            SpikeSepError: a layer is silent, or activations or a loss are not finite.
        """
        while self.stage < len(self.network):
            stage = self.stage
            if self._schedule is None:
                self._begin(stage)
            self._train(stage)
            self.model.load_state_dict(self._best)
            if stage == 0 and self.synops_budget:  # learning may have changed the rates
                allocate(self.network, self.trainer.examples(), self.synops_budget)
            self._freeze(stage)
            self._schedule = None
            self.on_stage(stage)

    def _begin(self, stage: int) -> None:
        self.trainer.advance(stage)
        if stage == 0 and (self.refits or self.synops_budget):
            self._economize()
        choice = self._choose(stage)
        self.choices.append(choice)
        pruned = self.network[stage].limiter is not None
        self._convert(stage, choice)
        if self.limits.fan_in and not pruned:  # the inputs left have another upper bound
            choice = choose_threshold(self.trainer.activations(stage), self.percentile, self.coding)
            self.choices[-1] = choice
            self.network[stage].threshold.fill_(choice.upper_bound / self.coding.n_steps)
        if self.discretize and stage == 0:
            for later in range(1, len(self.network)):
                self._discretize(later, self._choose(later).upper_bound)
        self._open(stage)

    def _economize(self) -> None:
        """Allocate spikes and prune inputs in all layers, each given what rounding makes of earlier
        ones.
        """
        network, budget, values = self.network, self.synops_budget, None
        if self.discretize:
            for index in range(len(network)):
                self._discretize(index, self._choose(index).upper_bound)
        prunes = self.refits and network[0].limiter is None
        if budget:
            for module in network.parts:
                module.fold()
            values = allocate(
                network, self.trainer.examples(), budget * (SPENT_AT_FIRST if prunes else 1.0)
            )
        if prunes:
            features, fan_in = (
                (features for features, _ in self.trainer.examples()),
                self.limits.fan_in,
            )
            for module, kept in zip(
                network.parts, prune(network, features, fan_in, values), strict=True
            ):
                module.prune(kept, fan_in)
            if budget:
                allocate(network, self.trainer.examples(), budget)

    def _open(self, stage: int) -> None:
        self.trainer.begin(stage)
        self._schedule = AdaptiveSchedule(
            self.patience, self.max_epochs if stage else self.first_stage_epochs
        )
        loss = self._validate(stage, 0)
        self._schedule.start(loss)
        self._best = _copy(self.model)
        self._tell(stage, math.nan, loss, True)

    def _convert(self, index: int, choice: ThresholdChoice) -> None:
        threshold = choice.upper_bound / self.coding.n_steps
        layer = self.network[index]
        layer.convert(threshold, self.coding, self.gradient, limits=self.limits)
        if self.limits and index == len(self.network) - 1:
            self.network.readout.impose(self.limits)

    def _discretize(self, index: int, upper_bound: float) -> None:
        self.network[index].discretize(
            upper_bound / self.coding.n_steps, self.coding, self.gradient
        )

    def _freeze(self, stage: int) -> None:
        self.network[stage].freeze()
        if self.limits and stage == len(self.network) - 1:
            self.network.readout.freeze()

    def _choose(self, index: int) -> ThresholdChoice:
        layer = self.network[index]
        settled = float(layer.threshold) * self.coding.n_steps if layer.mode == "discrete" else None
        try:
            return choose_threshold(
                self.trainer.activations(index), self.percentile, self.coding, settled
            )
        except SpikeSepError as error:
            raise SpikeSepError(f"layer {self.network.names[index]}: {error}") from error

    def _train(self, stage: int) -> None:
        schedule = self._in_progress()
        while not schedule.finished:
            epoch = schedule.epoch + 1
            train_loss = self.trainer.train_epoch(stage, epoch)
            _require_number(train_loss, "training", stage, epoch)
            loss = self._validate(stage, epoch)
            improved = schedule.update(loss)
            if improved:
                self._best = _copy(self.model)
            self._tell(stage, train_loss, loss, improved)

    def _tell(self, stage: int, train_loss: float, loss: float, improved: bool) -> None:
        schedule = self._in_progress()
        schedule.cut_short = self.cuts_short(stage, schedule.finished)
        cut_at = schedule.max_epochs if schedule.cut_short else 0
        self.on_epoch(StageEpoch(stage, schedule.epoch, train_loss, loss, improved, cut_at))

    def _in_progress(self) -> AdaptiveSchedule:
        assert self._schedule is not None, "no stage is in progress"
        return self._schedule

    def _validate(self, stage: int, epoch: int) -> float:
        loss = self.trainer.validate(stage)
        _require_number(loss, "validation", stage, epoch)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State to resume from, in tensors and plain values."""
        return {
            "stage": self.stage,
            "model": _copy(self.model),
            "best": self._best,
            "schedule": asdict(self._schedule) if self._schedule else None,
            "choices": [asdict(choice) for choice in self.choices],
            "trainer": self.trainer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume a stopped run; the model must be the analog one that it began with."""
        self.choices = [ThresholdChoice(**choice) for choice in state["choices"]]
        if self.choices and (self.refits or self.synops_budget):
            for module in self.network.parts:
                module.fold()
                if self.refits and module.limiter is None:
                    kept = torch.ones_like(module.synapse.weight, dtype=torch.bool)
                    module.prune(kept, self.limits.fan_in)
        for stage, choice in enumerate(self.choices):
            self._convert(stage, choice)
            if stage < state["stage"]:
                self._freeze(stage)
        if self.discretize and self.choices:
            for later in range(len(self.choices), len(self.network)):
                self._discretize(later, 1.0)  # the true threshold is among the tensors
        self.model.load_state_dict(state["model"])
        self._best = state["best"]
        self._schedule = AdaptiveSchedule(**state["schedule"]) if state["schedule"] else None
        if self._schedule is not None:
            self.trainer.advance(state["stage"])
            self.trainer.begin(state["stage"])
            self.trainer.load_state_dict(state["trainer"])


def _require_number(loss: float, what: str, stage: int, epoch: int) -> None:
    if not math.isfinite(loss):
        raise SpikeSepError(
            f"stage {stage + 1}, epoch {epoch}: the {what} loss is {loss}; look for NaN in the "
            "data and the loss, or lower the learning rate"
        )


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())
