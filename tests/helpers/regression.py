"""A training loop for progressive tandem learning in tests: gradient descent on a regression."""

import copy

import torch

from helpers.stacks import signal_before


class RegressionTrainer:
    """The `StageTrainer` of a small network on 128 fixed examples.

    Args:
        network: maps [n, 6] to [n, 2].
        losses: validation losses to report first, in order.
        steps: steps per epoch.
        train_norms: whether norms are in training mode during an epoch.
    """

    def __init__(self, network, losses=(), *, steps=1, train_norms=True):
        self.network = network
        self.x = torch.rand(128, 6, generator=torch.Generator().manual_seed(1))
        self.y = torch.stack([self.x.sum(1), self.x[:, 0]], 1)
        self.losses = list(losses)
        self.steps = steps
        self.train_norms = train_norms
        self.calls = []

    def advance(self, stage):
        self.calls.append(("advance", stage))
        self.network.eval()

    def examples(self):
        yield self.x, lambda potential: potential

    def activations(self, index):
        self.network.eval()
        with torch.no_grad():
            signal = signal_before(self.network, self.x, index)
            yield self.network[index].activation(signal.value)

    def begin(self, stage):
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, 1e-2)

    def train_epoch(self, stage, epoch):
        self.network.train(self.train_norms)
        for _ in range(self.steps):
            loss = (self.network(self.x) - self.y).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return float(loss.detach())

    def validate(self, stage):
        if self.losses:
            return self.losses.pop(0)
        self.network.eval()
        with torch.no_grad():
            return float((self.network(self.x) - self.y).square().mean())

    def state_dict(self):
        return {"optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state["optimizer"])
