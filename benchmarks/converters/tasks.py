"""A trained analog network with its data: what every converter receives."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils.data import DataLoader, TensorDataset

BATCH = 64
Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A trained network, its examples and its measure.

    Attributes:
        name: name in tables.
        network: Linear or Conv layers with ReLU, average pooling and flattening, norms folded.
        train: features [n, ...] and targets, for calibration and fine-tuning.
        test: features [n, ...] and targets.
        decode: predictions from the network's output and its features.
        loss: scalar loss of predictions and targets.
        metric: name and unit of the score.
        score: scalar score of predictions and targets.
        higher_is_better: direction of the score.
    """

    name: str
    network: nn.Sequential
    train: TensorDataset
    test: TensorDataset
    decode: Function
    loss: Function
    metric: str
    score: Function
    higher_is_better: bool = True

    def calibration(self, n_examples: int = 512) -> list[Tensor]:
        """Return batches of the first training features, the same for every converter."""
        return list(self.train.tensors[0][:n_examples].split(BATCH))

    def score_of(self, output: Tensor) -> float:
        """Score the network's output [n_test, ...] on the test set."""
        features, targets = self.test.tensors
        return float(self.score(self.decode(output, features), targets))


@torch.inference_mode()
def outputs(network: nn.Module, features: Tensor) -> Tensor:
    """Return the output of an analog network for features [n, ...], in batches."""
    return torch.cat([network(batch) for batch in features.split(BATCH)])


def train(
    model: nn.Module,
    examples: TensorDataset,
    loss: Function,
    *,
    epochs: int,
    learning_rate: float,
) -> nn.Module:
    """Train by Adam with one cycle of the learning rate; leave the model in inference mode."""
    loader = DataLoader(examples, BATCH, shuffle=True, drop_last=len(examples) > BATCH)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * len(loader)
    )
    model.train()
    for _ in range(epochs):
        for x, target in loader:
            optimizer.zero_grad()
            loss(model(x), target).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def folded(network: nn.Sequential) -> nn.Sequential:
    """Fold each batch norm into the layer before it; SpikingJelly folds none behind Linear."""
    modules: list[nn.Module] = []
    for module in network.eval():
        if isinstance(module, nn.BatchNorm1d) and isinstance(modules[-1], nn.Linear):
            modules[-1] = fuse_linear_bn_eval(modules[-1], module)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            modules[-1] = fuse_conv_bn_eval(modules[-1], module)
        else:
            modules.append(module)
    return nn.Sequential(*modules).requires_grad_(False).eval()
