"""Separators with random weights and mixtures of noise, for benchmarks that need no training."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator import Separator
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.signal import Coding

SAMPLE_RATE = 8000


def separator(
    n_layers: int, n_channels: int, seed: int = 0, *, n_dilations: int = 10, causal: bool = False
) -> Separator:
    """Build the paper's stack: a bottleneck and `n_layers` - 1 dilated convolutions.

    It has no identity paths, and its encoder has `n_channels` filters. Norms have the statistics of
    noise, so that no layer is silent. Dilations double, and begin anew after `n_dilations` layers.
    """
    torch.manual_seed(seed)
    sizes = {"n_filters": n_channels, "n_channels": n_channels, "causal": causal}
    dilations = [2 ** (k % n_dilations) for k in range(n_layers - 1)]
    model = Separator(SeparatorConfig(**sizes, dilations=dilations))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(crops(4, 0.5, seed).tensors[0])
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def converted(model: Separator, n_steps: int) -> Separator:
    """Convert a separator into deferred neurons in fixed-point form, calibrated on noise.

    A layer represents activations up to four times their root mean square.
    """
    features = model.encode(crops(1, 2.0).tensors[0])[0]
    for name, layer in model.network.layers.items():
        activations = []
        with torch.no_grad():
            model.network(
                features,
                lambda at, _l, _i, out, name=name, found=activations: (
                    found.append(out.value) if at == name else None
                ),
            )
        peak = 4 * float(activations[0].square().mean().sqrt())
        layer.convert(peak / n_steps, Coding(n_steps, deferred=True))
        layer.freeze()
    to_fixed_point(model.network, [features])
    return model


def crops(n: int, seconds: float, seed: int = 0) -> TensorDataset:
    """Make `n` mixtures [T] of two sources [2, T]: white noise with slowly changing levels."""
    generator = torch.Generator().manual_seed(seed)
    n_samples = round(seconds * SAMPLE_RATE)
    time = torch.arange(n_samples) / SAMPLE_RATE
    pace, phase = torch.rand(2, n, 2, 1, generator=generator)
    loudness = 0.1 + torch.sin(2 * torch.pi * (1 + 3 * pace) * time + 2 * torch.pi * phase).square()
    sources = 0.1 * loudness * torch.randn(n, 2, n_samples, generator=generator)
    return TensorDataset(sources.sum(1), sources)
