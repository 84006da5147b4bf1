"""Tiny embedders with random weights, and made-up stretches."""

import numpy as np
import torch

from spikesep.separation.tracks.embedder import EmbedderConfig, SpeakerEmbedder
from spikesep.separation.tracks.stretches import Stretch
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.signal import Coding

TINY = EmbedderConfig(
    n_filters=8, n_lags=4, n_channels=8, dilations=[1], n_potentials=6, n_dimensions=5
)


def tiny_embedder(spiking: bool = False, seed: int = 0) -> SpeakerEmbedder:
    """Build an embedder in inference mode, analog or in fixed point."""
    torch.manual_seed(seed)
    embedder = SpeakerEmbedder(TINY)
    embedder.filters.normal_()
    embedder.eval()
    if spiking:
        for layer in embedder.network.layers.values():
            layer.convert(0.2, Coding(8, deferred=True))
            layer.freeze()
        to_fixed_point(embedder.network, [embedder.features(torch.randn(1, 8000))])
    return embedder


def conversation(
    maps: np.ndarray, active: np.ndarray, noise: float = 0.1, seed: int = 0
) -> list[Stretch]:
    """Make stretches of one second whose outputs have the voices that `maps` says.

    Args:
        maps: speaker of each output, [T, S].
        active: whether each output is active, [T, S].
        noise: standard deviation of each component of an embedding.
        seed: seed of the noise.
    """
    rng = np.random.default_rng(seed)
    n_outputs = maps.shape[1]
    voices = np.eye(n_outputs, 8)
    embeddings = voices[maps] + rng.normal(0, noise, (*maps.shape, 8))
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return [
        Stretch(50 * t, 50 * t + 50, active[t].astype(float), embeddings[t] * active[t][:, None])
        for t in range(len(maps))
    ]
