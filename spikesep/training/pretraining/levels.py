"""Levels of the network that is about to be trained."""

from dataclasses import asdict
from typing import cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from spikesep.spiking.levels.network import begin_levels, levels_settings, remove_levels
from spikesep.spiking.network import SpikingNetwork
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.levels_config import LevelsConfig

N_EXAMPLES = 64
"""Largest number of examples on which the first steps are chosen."""


def prepare_levels(model: nn.Module, config: LevelsConfig, loader: DataLoader) -> None:
    """Give a model the levels that it is to learn with, or take them away.

    Levels that it has learned with before are kept if their settings are the same.

    Args:
        model: if `config` asks for levels, a `ConvertibleModel`.
        config: the settings.
        loader: batches (input, target); the first steps suit the first of them, which is the same
            in all processes.

    Raises:
        SpikeSepError: a layer is silent, or the network cannot have steps per channel.
    """
    if not config.n_steps:
        network = getattr(model, "network", None)
        if isinstance(network, SpikingNetwork):
            remove_levels(network)
        return
    model = cast(ConvertibleModel, model)
    wanted = asdict(config)
    del wanted["spike_price"], wanted["target_rate"]
    if levels_settings(model.network) == wanted:
        return
    remove_levels(model.network)
    x, _ = next(iter(loader))
    weight = model.network[0].synapse.weight
    with torch.no_grad():
        features, _ = model.encode(x[:N_EXAMPLES].to(weight))
    begin_levels(model.network, features, **wanted)
