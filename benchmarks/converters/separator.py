"""A small separator of two synthetic voices, as a regression task that needs no recordings.

Each voice is a harmonic tone with vibrato whose loudness changes as in syllables; one is low, the
other high. The network is the mask network of a small Conv-TasNet.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.converters.tasks import Task, folded, train
from spikesep.separation.objective import NegativeSiSdr

SAMPLE_RATE = 8000
PITCHES = ((90.0, 150.0), (180.0, 300.0))  # Hz, of the two voices
N_HARMONICS = 12
DILATIONS = (1, 2, 4)


class TinySeparator(nn.Module):
    """Learned filters, a stack of convolutions that estimates two masks, and learned filters back.

    Args:
        n_filters: number of filters, and of channels of the stack.
    """

    def __init__(self, n_filters: int):
        super().__init__()
        self.n_filters = n_filters
        self.encoder = nn.Conv1d(1, n_filters, 16, stride=8, bias=False)
        self.decoder = nn.ConvTranspose1d(n_filters, 1, 16, stride=8, bias=False)
        layers: list[nn.Module] = [*_layer(n_filters, kernel=1, dilation=1)]
        for dilation in DILATIONS:
            layers += _layer(n_filters, kernel=3, dilation=dilation)
        self.network = nn.Sequential(*layers, nn.Conv1d(n_filters, 2 * n_filters, 1))

    def forward(self, mixtures: Tensor) -> Tensor:
        """Separate mixtures [B, T] into estimates [B, 2, T]."""
        features = self.encode(mixtures)
        return self.decode(self.network(features), features)

    def encode(self, mixtures: Tensor) -> Tensor:
        """Return the features [B, N, K] of mixtures [B, T]."""
        return self.encoder(mixtures[:, None]).relu()

    def decode(self, output: Tensor, features: Tensor) -> Tensor:
        """Return estimates [B, 2, T] for the network's output [B, 2 N, K]."""
        masks = output.unflatten(1, (2, self.n_filters)).sigmoid()
        masked = (masks * features[:, None]).flatten(0, 1)  # [B 2, N, K]
        return self.decoder(masked).unflatten(0, (-1, 2)).squeeze(2)


def separator(quick: bool, data: Path) -> Task:
    """Train the separator on generated mixtures; `data` is not used."""
    n_train, n_test, seconds = (128, 16, 0.1) if quick else (2000, 128, 0.257)
    sources = voices(n_train + n_test, int(seconds * SAMPLE_RATE) // 8 * 8)
    mixtures, loss = sources.sum(1), NegativeSiSdr()
    model = TinySeparator(8 if quick else 64)
    examples = TensorDataset(mixtures[:n_train], sources[:n_train])
    train(model, examples, loss, epochs=3 if quick else 15, learning_rate=3e-3)
    model.requires_grad_(False)
    features, unprocessed = model.encode(mixtures), mixtures[n_train:, None].expand(-1, 2, -1)
    before = -loss(unprocessed, sources[n_train:])
    return Task(
        "1-D separator",
        folded(model.network),
        TensorDataset(features[:n_train], sources[:n_train]),
        TensorDataset(features[n_train:], sources[n_train:]),
        decode=model.decode,
        loss=loss,
        metric="SI-SDR improvement, dB",
        score=lambda estimates, sources: -loss(estimates, sources) - before,
    )


def voices(n: int, n_samples: int) -> Tensor:
    """Make `n` pairs of voices, [n, 2, n_samples], each of unit power."""
    time = torch.arange(n_samples) / SAMPLE_RATE
    low, high = torch.tensor(PITCHES).T[..., None]
    pitch = low + (high - low) * torch.rand(n, 2, 1)
    vibrato = 0.03 * torch.sin(2 * math.pi * (4 + 3 * torch.rand(n, 2, 1)) * time)
    phase = 2 * math.pi * (pitch * (1 + vibrato) / SAMPLE_RATE).cumsum(-1)
    voice = torch.zeros(n, 2, n_samples)
    for k in range(1, N_HARMONICS + 1):
        level = torch.rand(n, 2, 1) / k**0.5
        voice += level * torch.sin(k * phase + 2 * math.pi * torch.rand(n, 2, 1))
    pace, start = 3 + 5 * torch.rand(n, 2, 1), torch.rand(n, 2, 1)
    voice *= 0.05 + torch.sin(math.pi * (pace * time + start)).square()
    return voice / voice.square().mean(-1, keepdim=True).sqrt()


def _layer(n_channels: int, kernel: int, dilation: int) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv1d(
        n_channels, n_channels, kernel, padding=padding, dilation=dilation, bias=False
    )
    return [convolution, nn.BatchNorm1d(n_channels), nn.ReLU()]
