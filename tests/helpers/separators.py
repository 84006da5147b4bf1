"""Tiny separators with random weights, fast enough for tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator import Separator, save_separator
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.signal import Coding

TINY = SeparatorConfig(n_filters=16, n_channels=8, dilations=[1, 2])

Kind = Literal["ann", "snn", "fixed"]
"""Analog, spiking with float weights, or spiking in fixed-point form."""


def tiny_config(**sizes: Any) -> SeparatorConfig:
    """Return the settings of a tiny separator; `sizes` replace some of them."""
    return replace(TINY, **sizes)


def tiny_separator(
    kind: Kind = "ann",
    *,
    seed: int = 0,
    n_steps: int = 8,
    threshold: float = 0.2,
    has_norm_statistics: bool = False,
    **sizes: Any,
) -> Separator:
    """Build a tiny separator in inference mode.

    Args:
        kind: form of its mask network.
        seed: seed of the weights, and of torch afterwards.
        n_steps: time steps, if it spikes.
        threshold: threshold of all layers, if it spikes.
        has_norm_statistics: run it in training mode first, so that its batch norms have statistics.
        **sizes: fields of `SeparatorConfig`.
    """
    torch.manual_seed(seed)
    separator = Separator(tiny_config(**sizes))
    if has_norm_statistics:
        for _ in range(3):
            separator(torch.randn(2, 800))
    separator.eval()
    if kind != "ann":
        to_spiking(separator, n_steps, threshold)
    if kind == "fixed":
        to_fixed_point(separator.network, [separator.encode(torch.randn(1, 4000))[0]])
    return separator


def to_spiking(
    separator: Separator,
    n_steps: int = 8,
    threshold: float = 0.2,
    n_layers: int | None = None,
    **coding: Any,
) -> Separator:
    """Convert the layers of a separator, or only the first `n_layers`; return the separator."""
    for layer in list(separator.network.layers.values())[:n_layers]:
        layer.convert(threshold, Coding(n_steps, **coding))
        layer.freeze()
    return separator


def save_tiny_experiment(folder: Path, kind: Kind = "fixed", **options: Any) -> Path:
    """Save an analog separator and its conversion as `ann` and `snn`; return the folder."""
    save_separator(tiny_separator("ann", **options), folder / "ann")
    save_separator(tiny_separator(kind, **options), folder / "snn")
    return folder
