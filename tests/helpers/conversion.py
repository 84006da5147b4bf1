"""A small model to convert, its examples, and a clock that tests move."""

from types import SimpleNamespace

import torch
from torch import nn

from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.training import convert as convert_module
from spikesep.training.config import CacheConfig, ConversionConfig, SynopsConfig
from spikesep.training.conversion import tandem_trainer
from spikesep.training.records.history import History
from spikesep.training.timing import budget


class Model(nn.Module):
    """A linear front, three layers, and a decoder that adds the input."""

    def __init__(self, identity=True):
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Linear(6, 6)
        synapses = [nn.Conv1d(6, 6, 3, padding=1) for _ in range(3)]
        layers = [
            SpikingLayer(s, nn.BatchNorm1d(6), identity=identity and k > 0)
            for k, s in enumerate(synapses)
        ]
        self.network = SpikingNetwork(layers, Readout(nn.Conv1d(6, 2, 1)))

    def encode(self, x):
        return self.scale(x.mT).mT, x

    def decode(self, potential, x):
        return potential + x[:, :2]

    def forward(self, x, observe=None):
        features, context = self.encode(x)
        return self.decode(self.network(features, observe), context)

    def front(self):
        return [self.scale]


class Examples(torch.utils.data.Dataset):
    """Random waves [6, 10] and, as targets, their sum and first channel."""

    def __init__(self, n, seed):
        x = torch.rand(n, 6, 10, generator=torch.Generator().manual_seed(seed))
        self.pairs = [(v, torch.stack([v.sum(0), v[0]])) for v in x]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def trained(**options):
    """A model whose norms have statistics, in inference mode."""
    model, data = Model(**options), Examples(64, 1)
    for _ in range(5):
        model(torch.stack([x for x, _ in data.pairs]))
    return model.eval()


def mean_square(prediction, target):
    return (prediction - target).square().mean()


def settings_of(*, synops=0.0, synops_weight=0.0, memory_gib=4.0, disk_gib=0.0, **settings):
    """The settings of a short conversion."""
    given = {
        "max_epochs": 2,
        "patience": 2,
        "learning_rate": 3e-3,
        "batch_size": 7,
        "weight_bits": 0,
        "budget": SynopsConfig(synops, synops_weight),
        "cache": CacheConfig(memory_gib, disk_gib),
    }
    return ConversionConfig(**given | settings)


def convert(folder, model=None, loss=mean_square, fresh=None, teacher=None, began=None, **settings):
    """Convert the model; return it, the choices of thresholds and the history."""
    model = model or trained(identity="synops" not in settings)
    history = History(folder / "history.csv")
    choices = convert_module.convert(
        model,
        loss,
        Examples(40, 2),
        Examples(17, 3),
        settings_of(**settings),
        folder / "snn",
        history=history,
        metric=lambda prediction, target, value: -value,
        seed=5,
        fresh=fresh,
        teacher=teacher,
        began=began,
    )
    return model, choices, history.read()


def same(one, other):
    return all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def without_time(history):
    return [(r.stage, r.epoch, r.valid_loss) for r in history]


def stopped_clock(monkeypatch):
    """A clock that stands still until a test adds to its `seconds`."""
    now = SimpleNamespace(seconds=1000.0)
    for module in (budget, convert_module, tandem_trainer):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def passing(clock, seconds=4.0):
    """A loss each call of which takes some seconds of the clock."""

    def loss(prediction, target):
        clock.seconds += seconds
        return mean_square(prediction, target)

    return loss
