"""A training loop for progressive tandem learning on batches from a loader."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikesep.spiking.conversion.spike_budget import Example
from spikesep.spiking.network import SpikingNetwork

Batches = Iterable[Sequence[Tensor]]
"""Batches (input, target, ...), the same number of examples in each pass."""
MAX_GRADIENT_NORM = 5.0


class LoaderTrainer:
    """The `StageTrainer` of a network on batches as a `DataLoader` gives them.

    Frozen layers run anew in each step; `spikesep.training.convert` caches their spikes.

    Args:
        network: on its device.
        loss: of predictions and targets.
        train: training batches.
        valid: validation batches.
        calibration: inputs for choosing thresholds.
        learning_rate: of Adam, in all stages.
    """

    def __init__(
        self,
        network: SpikingNetwork,
        loss: Callable[[Tensor, Tensor], Tensor],
        train: Batches,
        valid: Batches,
        calibration: list[Tensor],
        learning_rate: float,
    ):
        self.network = network
        self.loss = loss
        self.train = train
        self.valid = valid
        self.calibration = calibration
        self.rate = learning_rate
        self.optimizer: torch.optim.Optimizer | None = None

    def advance(self, stage: int) -> None:
        """See `StageTrainer`."""
        self.network.eval()

    def examples(self) -> Iterator[Example]:
        """See `StageTrainer`."""
        self.network.eval()
        for x in self.calibration:
            yield x, lambda potential: potential

    @torch.no_grad()
    def activations(self, index: int) -> Iterator[Tensor]:
        """See `StageTrainer`."""
        self.network.eval()
        for x in self.calibration:
            arriving = self.network.arriving(self.network.propagate(x, 0, index), index)
            yield self.network[index].activation(*(signal.value for signal in arriving))

    def begin(self, stage: int) -> None:
        """See `StageTrainer`."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, self.rate)

    def train_epoch(self, stage: int, epoch: int) -> float:
        """See `StageTrainer`."""
        assert self.optimizer is not None
        self.network.train()
        for layer in self.network.layers.values():
            if layer.norm is not None and stage > 0:
                layer.norm.eval()
        total, n = 0.0, 0
        for x, target in self._pairs(self.train):
            loss = self.loss(self.network(x), target)
            self.optimizer.zero_grad()
            loss.backward()
            parameters = self.optimizer.param_groups[0]["params"]
            nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            self.optimizer.step()
            total, n = total + float(loss.detach()) * len(x), n + len(x)
        return total / n if n else math.nan

    @torch.no_grad()
    def validate(self, stage: int) -> float:
        """See `StageTrainer`."""
        self.network.eval()
        total, n = 0.0, 0
        for x, target in self._pairs(self.valid):
            total, n = total + float(self.loss(self.network(x), target)) * len(x), n + len(x)
        return total / n if n else math.nan

    def state_dict(self) -> dict[str, Any]:
        """See `StageTrainer`."""
        assert self.optimizer is not None
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `StageTrainer`."""
        assert self.optimizer is not None
        self.optimizer.load_state_dict(state["optimizer"])

    def _pairs(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        weight = self.network.readout.synapse.weight
        for x, target, *_ in batches:
            yield x.to(weight), target.to(weight.device)
