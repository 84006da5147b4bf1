"""SpikeSep's conversion with progressive tandem learning; calibration alone is `convert`."""

import contextlib
import copy
import io
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.converters.simulation import Outcome
from benchmarks.converters.tasks import BATCH, Task
from spikesep.spiking import (
    CostMeter,
    SpikingNetwork,
    from_module,
)
from spikesep.training.config import ConversionConfig
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.convert import convert
from spikesep.training.records.history import History


def fine_tuned(
    task: Task, *, n_steps: int, deferred: bool, epochs: int, learning_rate: float, n_train: int
) -> SpikingNetwork:
    """Convert after `epochs` epochs in which all layers learn to round; later stages train none.

    Args:
        task: network, data and loss.
        n_steps: N_s.
        deferred: whether neurons wait for the whole window before they fire.
        epochs: number of epochs.
        learning_rate: learning rate at the start of the half cosine.
        n_train: number of training examples.
    """
    model = _Model(task)
    config = ConversionConfig(
        n_steps=n_steps,
        deferred=deferred,
        gradient="clipped",
        first_stage_epochs=epochs,
        first_stage_learning_rate=learning_rate,
        max_epochs=0,
        batch_size=BATCH,
        calibration_examples=512,
        weight_bits=0,
        precision="float32",
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        convert(
            model,
            task.loss,
            TensorDataset(*(tensor[:n_train] for tensor in task.train.tensors)),
            TensorDataset(*(tensor[n_train : n_train + 512] for tensor in task.train.tensors)),
            config,
            Path(folder),
            history=History(Path(folder) / "history.csv"),
            metric=lambda prediction, target, loss: -loss,
        )
    return model.network


@torch.inference_mode()
def run(network: SpikingNetwork, features: Tensor, outcome: Outcome) -> None:
    """Run a converted network on features [n, ...], and add an entry to the outcome."""
    batches, meter = features.split(BATCH), CostMeter()
    network(batches[0])  # compiles
    begun = time.perf_counter()
    outcome.outputs.append(torch.cat([network(x) for x in batches]))
    outcome.seconds.append(time.perf_counter() - begun)
    for x in batches:
        network(x, observe=meter)
    outcome.spikes.append(sum(meter.cost.spikes) / len(features))


class _Model(ConvertibleModel):
    """The task's network between its features and its decoder."""

    def __init__(self, task: Task):
        super().__init__()
        network = copy.deepcopy(task.network).requires_grad_(True)
        self.network = from_module(network, task.train.tensors[0][:1])
        self._decode = task.decode

    def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        return x, x

    def decode(self, potential: Tensor, context: Tensor, /) -> Tensor:
        return self._decode(potential, context)

    def front(self) -> list[nn.Module]:
        return []
