"""Levels in all layers of a network: their first steps, and what conversion takes of them."""

import copy
from typing import Any

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.spike_budget import scale_channels
from spikesep.spiking.conversion.threshold import choose_threshold
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.levels.activation import Kind, Levels
from spikesep.spiking.network import SpikingNetwork, require_stack
from spikesep.spiking.signal import Coding


def add_levels(
    network: SpikingNetwork,
    n_steps: int,
    kind: Kind = "qcfs",
    per: str = "layer",
    shift: float = 0.5,
) -> None:
    """Let all layers, which are analog, round to levels from now on. Steps are set or loaded next.

    Raises:
        SpikeSepError: there are several synapses or identity paths, and steps per channel.
    """
    if per == "channel":
        _require_scalable(network)
    for layer in network.layers.values():
        n_channels = layer.connectivity.out_channels if per == "channel" else 1
        last = layer.connectivity.out_channels_last
        levels = Levels(n_steps, kind, n_channels, shift, channels_last=last)
        set_levels(layer, levels.to(layer.synapse.weight))


def set_levels(layer: SpikingLayer, levels: Levels) -> None:
    """Let an analog layer round to levels from now on.

    Raises:
        ValueError: the levels have steps of another number of channels.
    """
    n_steps, n_channels = len(levels.learned), layer.connectivity.out_channels
    if n_steps not in (1, n_channels):
        raise ValueError(f"has steps of {n_steps} channels, the layer has {n_channels}")
    layer.levels = levels
    layer.coding = Coding(levels.n_steps, initial_potential=levels.shift)
    layer.mode = "discrete"


def remove_levels(network: SpikingNetwork) -> None:
    """Make the layers analog again."""
    for layer in network.layers.values():
        if layer.levels is not None:
            layer.levels, layer.mode = None, "analog"


def begin_levels(network: SpikingNetwork, x: Tensor, **options: Any) -> None:
    """Add levels whose first steps suit the activations: least error of clipping and rounding.

    Args:
        network: all layers analog.
        x: analog input of the network, [batch, ...].
        **options: see `add_levels`.

    Raises:
        SpikeSepError: a layer is silent, or see `add_levels`.
    """
    add_levels(network, **options)
    probe = copy.deepcopy(network)
    probe.train(len(x) > 1)  # new norms have no statistics yet
    with torch.no_grad():
        for index, (name, layer) in enumerate(network.layers.items()):
            own, signals = probe[index], probe.propagate(x, 0, index)
            values = (signal.value for signal in probe.arriving(signals, index))
            try:
                choice = choose_threshold([own.activation(*values)], "auto", own.coding)
            except SpikeSepError as error:
                raise SpikeSepError(f"layer {name}: {error}") from error
            for levels in (own.levels, layer.levels):
                assert levels is not None
                levels.set_step(choice.upper_bound / levels.n_steps)


def settle_levels(network: SpikingNetwork, coding: Coding) -> None:
    """Replace levels by thresholds at which layers round and conversion begins.

    The layers put out the same as before if `coding` has the number of steps and the initial
    potential that they learned with; otherwise they keep their upper bounds. Steps per channel
    become one threshold per layer: channels are scaled, and norms folded for that.

    Raises:
        SpikeSepError: there are steps per channel, and the layers do not stand in a row.
    """
    if any(len(layer.levels.learned) > 1 for layer in network.layers.values() if layer.levels):
        _share_steps(network)
    for layer in network.layers.values():
        if layer.levels is not None:
            bound = float(layer.levels.step.detach()) * layer.levels.n_steps
            layer.levels = None
            layer.discretize(bound / coding.n_steps, coding, "clipped")


def levels_settings(network: SpikingNetwork) -> dict[str, Any]:
    """Plain values for JSON with which `add_levels` makes the same levels; empty without levels."""
    levels = network[0].levels
    return {} if levels is None else levels.settings()


def _require_scalable(network: SpikingNetwork) -> None:
    require_stack(network, "steps per channel (train.levels.per)")
    if any(layer.identity for layer in network.layers.values()):
        raise SpikeSepError(
            "steps per channel (train.levels.per): need a network without identity paths, or with "
            "folded ones; set it to layer"
        )


def _share_steps(network: SpikingNetwork) -> None:
    _require_scalable(network)
    for part in network.parts:
        part.fold()
    for part, following in zip(network.layers.values(), network.parts[1:], strict=True):
        if part.levels is None or len(part.levels.learned) == 1:
            continue
        step = part.levels.step.detach()
        common = step.log().mean().exp()
        scale_channels(part, following, step / common)
        part.levels.learned = torch.nn.Parameter(part.levels.learned.detach()[:1].clone())
        part.levels.set_step(common)
