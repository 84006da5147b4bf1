"""Larger separators that start from the weights of a smaller one."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spikesep.separation.audio.resampling import resample
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator import Separator

GROWING = ("n_speakers", "sample_rate", "n_filters", "kernel_size")
"""Settings in which the larger separator may differ."""


def can_grow(small: SeparatorConfig, large: SeparatorConfig) -> bool:
    """Return whether `grow` can make a separator of these settings from the smaller one."""
    rate, remainder = divmod(large.sample_rate, small.sample_rate)
    kept = {name: getattr(small, name) for name in GROWING}
    return (
        not remainder
        and large.kernel_size == rate * small.kernel_size
        and large.n_filters >= small.n_filters
        and large.n_speakers >= small.n_speakers
        and replace(large, **kept) == small
    )


def grow(small: Separator, config: SeparatorConfig) -> Separator:
    """Carry an analog separator over to more speakers, more filters or a multiple of its rate.

    The frame rate stays. Filters are interpolated, so that the larger separator does to the band of
    the smaller one what the smaller one did. What is new starts at random; new filters are not
    connected to the mask network yet.

    Args:
        small: the trained separator.
        config: settings for which `can_grow` holds.
    """
    large = Separator(config)
    own, theirs = large.state_dict(), small.state_dict()
    n, n_speakers, rate = (
        small.config.n_filters,
        small.config.n_speakers,
        config.sample_rate // small.config.sample_rate,
    )
    grown = dict(theirs)
    for name, gain in (("encoder", 1 / rate), ("decoder", 1.0)):
        key = f"{name}.filterbank._filters"
        grown[key] = _first(own[key], gain * _interpolate(theirs[key], rate))
    for key in ("norm.gain", "norm.bias"):
        grown[key] = _first(own[key], theirs[key])
    key = "network.layers.bottleneck.synapse.weight"
    grown[key] = torch.zeros_like(own[key])
    grown[key][:, :n] = theirs[key]
    for part in ("weight", "bias"):
        key = f"network.readout.synapse.{part}"
        masks = own[key].unflatten(0, (config.n_speakers, -1)).clone()
        masks[:n_speakers, :n] = theirs[key].unflatten(0, (n_speakers, -1))
        grown[key] = masks.flatten(0, 1)
    large.load_state_dict(grown)
    return large


def _first(whole: Tensor, part: Tensor) -> Tensor:
    """Return a copy of `whole` whose first rows are `part`."""
    return torch.cat([part, whole[len(part) :]])


def _interpolate(filters: Tensor, rate: int) -> Tensor:
    """Interpolate filters [N, 1, L] to [N, 1, rate * L]."""
    samples = np.ascontiguousarray(filters.numpy(), dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(resample(samples, 1, rate)))
