"""Progressive tandem learning (paper, section 4 and Algorithm 1): convert one layer, fine-tune it together with all
analog layers after it until validation stops improving, restore the best weights, freeze, go on to the next layer.

The algorithm is here; batches, gradients, devices and files belong to the `StageTrainer` it is given.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.pruning import Pruning, prune
from spikesep.spiking.conversion.spike_budget import Example, allot
from spikesep.spiking.conversion.threshold import ActivationHistogram
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.layer import Gradient, give_up
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Coding

SPENT_AT_FIRST = 1.5
"""Of the budget of spikes, while connections are weighed: what is given up of them makes room."""


class StageTrainer(Protocol):
    """What the algorithm needs of a training loop. Stages count from 0; stage k converts layer k."""

    def advance(self, stage: int) -> None:
        """The layers before `stage` are frozen, and a constant function of the input from now on."""

    def examples(self) -> Iterable[Example]:
        """The calibration data: what the network is given, and what makes predictions of its readout."""

    def activations(self, index: int) -> Iterable[Tensor]:
        """What the ReLU of layer `index`, not yet converted, gives over the calibration data, in inference."""

    def begin(self, stage: int) -> None:
        """Layer `stage` has become tandem: make a new optimizer."""

    def train_epoch(self, stage: int, epoch: int) -> float:
        """One pass over the training data; the mean loss."""

    def validate(self, stage: int) -> float:
        """Loss of the network as it stands, in inference."""

    def state_dict(self) -> dict[str, Any]:
        """State that an unbroken run would carry into the next epoch (optimizer)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up such a state."""


@dataclass
class AdaptiveSchedule:
    """The adaptive training scheduler of Fig. 2(D): a stage ends T_p epochs after its best validation loss.

    Attributes:
        patience: T_p.
        max_epochs: most epochs, whatever validation says.
        epoch: epochs done.
        waited: epochs since the best.
        best_loss: best validation loss of the stage.
        cut_short: there is no time for another epoch.
    """

    patience: int
    max_epochs: int
    epoch: int = 0
    waited: int = 0
    best_loss: float = math.inf
    cut_short: bool = False

    @property
    def finished(self) -> bool:
        """Whether the stage is at its end."""
        return self.cut_short or self.waited >= self.patience or self.epoch >= self.max_epochs

    def start(self, loss: float) -> None:
        """Take the loss right after conversion, before training, as the one to improve on."""
        self.best_loss = loss

    def update(self, loss: float) -> bool:
        """Count an epoch with this validation loss; whether it is the best yet."""
        self.epoch += 1
        improved = loss < self.best_loss
        self.waited = 0 if improved else self.waited + 1
        self.best_loss = min(loss, self.best_loss)
        return improved


@dataclass
class StageEpoch:
    """What a listener is told after each epoch (epoch 0: converted, not yet trained).

    Attributes:
        cut_at: most epochs of the stage, where time ended it with this one; 0 elsewhere.
    """

    stage: int
    epoch: int
    train_loss: float
    valid_loss: float
    improved: bool
    cut_at: int = 0


@dataclass
class ThresholdChoice:
    """How a layer's threshold was set.

    Attributes:
        percentile: the one taken.
        upper_bound: a_u, the activation at it; the threshold is a_u / N_s.
        clipped_share: share of the activations above it.
        histogram: of the activations, see `ActivationHistogram.summary`.
    """

    percentile: float
    upper_bound: float
    clipped_share: float
    histogram: dict = field(default_factory=dict)


def choose_threshold(
    activations: Iterable[Tensor],
    percentile: float | str,
    coding: Coding,
    settled: float | None = None,
) -> ThresholdChoice:
    """Threshold LayerNorm (section 3.3) over streamed activations.

    Args:
        activations: batches of any shape.
        percentile: in 0..100, or "auto" for the one with the least coding error.
        coding: N_s and initial potential.
        settled: the upper bound, where the layer has learned to live with one; the activations are only described.

    Raises:
        SpikeSepError: all activations up to the percentile are zero.
    """
    histogram = ActivationHistogram()
    for batch in activations:
        histogram.update(batch)
    if settled is not None:
        share = histogram.clipped_share(settled)
        return ThresholdChoice(100 * (1 - share), settled, share, histogram.summary())
    best = histogram.best_percentile(coding.n_steps, coding.initial_potential)
    p = best if percentile == "auto" else float(percentile)
    upper_bound = histogram.percentile(p)
    if upper_bound <= 0:
        raise SpikeSepError(
            f"no activation lies above zero at percentile {p:g}: the layer is silent; take a higher percentile "
            "or auto, or train the network anew"
        )
    return ThresholdChoice(
        p, upper_bound, histogram.clipped_share(upper_bound), histogram.summary()
    )


class ProgressiveTandemLearning:
    """Algorithm 1, resumable after every epoch.

    Args:
        model: all that is trained: `network` and what stands around it.
        network: the stack to convert, a part of `model`.
        trainer: the training loop.
        coding: N_s, encoding, initial potential.
        percentile: for Threshold LayerNorm, or "auto".
        discretize: from the first stage on, layers not yet converted round to the levels that spikes will have
            (eq. 10): all layers learn together what rounding does, and each later stage is left with what the timing
            of its spikes adds; they keep the thresholds they learned with. False leaves them analog, as the paper does.
        gradient: of layers that round or spike.
        limits: the hardware's, imposed on each layer at its stage, and on the readout at the last.
        pruning: how inputs past the fan-in's limit are given up: by `magnitude`, at a layer's stage, the weakest; or
            `refit`, in all layers before the first stage, those that are missed least, and the rest are fitted to
            what the analog network has (see `spikesep.spiking.pruning`), so that all layers learn without them.
        synops_budget: synaptic operations a MAC: before the first stage, and at its end, spikes are allotted to
            channels so that predictions change least (see `spikesep.spiking.allotment`), and with `refit` connections
            go before that are not worth their spikes; 0 leaves each channel its scale. Layers must round.
        patience: T_p.
        max_epochs: most epochs of a stage; 0 converts without fine-tuning.
        first_stage_epochs: most epochs of the first stage, in which all layers still learn; None for `max_epochs`.
        on_epoch: called with a `StageEpoch` after each epoch, when `state_dict` is up to date.
        on_stage: called with the stage's number when its layer has been frozen.
        cuts_short: called after each epoch with the stage's number and whether its schedule ends it; says whether time
            ends the stage here, or has ended this epoch early.
    """

    def __init__(
        self,
        model: nn.Module,
        network: SpikingNetwork,
        trainer: StageTrainer,
        coding: Coding,
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
        self.gradient = gradient
        self.limits = limits or HardwareLimits()
        self.refits = pruning == "refit" and self.limits.fan_in > 0
        self.synops_budget = synops_budget
        self.patience = patience
        self.max_epochs = max_epochs
        self.first_stage_epochs = max_epochs if first_stage_epochs is None else first_stage_epochs
        self.on_epoch = on_epoch
        self.on_stage = on_stage
        self.cuts_short = cuts_short
        self.choices: list[ThresholdChoice] = []
        self._schedule: AdaptiveSchedule | None = None
        self._best: dict[str, Tensor] = {}

    @property
    def stage(self) -> int:
        """The stage in progress, or the next one to begin; the number of layers once all are done."""
        return sum(layer.mode == "spiking" for layer in self.network.layers.values())

    def run(self) -> None:
        """Convert all layers that are not yet frozen.

        Raises:
            SpikeSepError: a layer is silent or its activations are not finite, or a loss is not.
        """
        while self.stage < len(self.network):
            stage = self.stage
            if self._schedule is None:
                self._begin(stage)
            self._train(stage)
            self.model.load_state_dict(self._best)
            if stage == 0 and self.synops_budget:  # learning may have taken more
                allot(self.network, self.trainer.examples(), self.synops_budget)
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
        if (
            self.limits.fan_in and not pruned
        ):  # what is left of the inputs reaches other potentials: another bound
            choice = choose_threshold(self.trainer.activations(stage), self.percentile, self.coding)
            self.choices[-1] = choice
            self.network[stage].threshold.fill_(choice.upper_bound / self.coding.n_steps)
        if self.discretize and stage == 0:
            for later in range(1, len(self.network)):
                self._discretize(later, self._choose(later).upper_bound)
        self._open(stage)

    def _economize(self) -> None:
        """Allot spikes and give up inputs, in all layers; each sees what rounding makes of those before it."""
        network, budget, worth = self.network, self.synops_budget, None
        if self.discretize:
            for index in range(len(network)):
                self._discretize(index, self._choose(index).upper_bound)
        prunes = self.refits and network[0].limiter is None
        if budget:
            for module in network.parts:
                module.fold()
            worth = allot(
                network, self.trainer.examples(), budget * (SPENT_AT_FIRST if prunes else 1.0)
            )
        if prunes:
            features, fan_in = (
                (features for features, _ in self.trainer.examples()),
                self.limits.fan_in,
            )
            for module, kept in zip(
                network.parts, prune(network, features, fan_in, worth), strict=True
            ):
                give_up(module, kept, fan_in)
            if budget:
                allot(network, self.trainer.examples(), budget)

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
        self.network[index].convert(threshold, self.coding, self.gradient, self.limits)
        if self.limits and index == len(self.network) - 1:
            self.network.readout.limit(self.limits)

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
        schedule = self._schedule
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
        schedule = self._schedule
        schedule.cut_short = self.cuts_short(stage, schedule.finished)
        cut_at = schedule.max_epochs if schedule.cut_short else 0
        self.on_epoch(StageEpoch(stage, schedule.epoch, train_loss, loss, improved, cut_at))

    def _validate(self, stage: int, epoch: int) -> float:
        loss = self.trainer.validate(stage)
        _require_number(loss, "validation", stage, epoch)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on as if nothing had happened. Tensors and plain values only."""
        return {
            "stage": self.stage,
            "model": _copy(self.model),
            "best": self._best,
            "schedule": asdict(self._schedule) if self._schedule else None,
            "choices": [asdict(choice) for choice in self.choices],
            "trainer": self.trainer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a run that was stopped; the model must be the analog one it began with."""
        self.choices = [ThresholdChoice(**choice) for choice in state["choices"]]
        if self.choices and (self.refits or self.synops_budget):
            for module in self.network.parts:
                module.fold()
                if self.refits and module.limiter is None:
                    give_up(
                        module,
                        torch.ones_like(module.synapse.weight, dtype=torch.bool),
                        self.limits.fan_in,
                    )
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


class AllAtOnce(ProgressiveTandemLearning):
    """What the paper compares with: all layers are converted at once and, if at all, trained together in one stage.

    With the gradient `relu` this is tandem learning from end to end, with `surrogate` learning through time; with no
    epoch it is the conversion that reads firing rates. Norms go on learning and are folded at the end.
    """

    def _begin(self, stage: int) -> None:
        self.trainer.advance(stage)
        self.choices = [self._choose(index) for index in range(len(self.network))]
        for index, choice in enumerate(self.choices):
            self._convert(index, choice)
        self._open(stage)

    def _convert(self, index: int, choice: ThresholdChoice) -> None:
        threshold = choice.upper_bound / self.coding.n_steps
        self.network[index].convert(threshold, self.coding, self.gradient, keep_norm=True)

    def _freeze(self, stage: int) -> None:
        for layer in self.network.layers.values():
            if layer.mode == "tandem":
                layer.freeze()


def _require_number(loss: float, what: str, stage: int, epoch: int) -> None:
    if not math.isfinite(loss):
        raise SpikeSepError(
            f"stage {stage + 1}, epoch {epoch}: the {what} loss is {loss}; look for NaN in the data and the loss, "
            "or take a lower learning rate"
        )


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())
