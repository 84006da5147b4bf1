"""The mask network of a separator, [B, N, K] -> [B, S * N, K], of one of two kinds of block.

    dense       a dilated convolution
    separable   expand: 1x1 convolution, C -> H; depthwise: dilated convolution of each channel;
                project: 1x1 convolution, H -> C

Every convolution has a norm and neurons. A 1x1 bottleneck, N -> C, comes before, and the readout of
the masks, C -> S * N, behind.
"""

from collections.abc import Iterator

from torch import nn

from spikesep.separation.config import SeparatorConfig
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import READOUT, SpikingNetwork, Wiring
from spikesep.spiking.readout import Readout
from spikesep.spiking.synapses.modules import CausalConv1d
from spikesep.spiking.wiring.wires import total

RESIDUAL_GAIN = 0.5
"""Initial gain of norms beside a residual path, so that a layer adds less than it passes on."""
BOTTLENECK = "bottleneck"


def mask_network(config: SeparatorConfig) -> SpikingNetwork:
    """Build the mask network with random weights."""
    n, c = config.n_filters, config.n_channels
    layers = {BOTTLENECK: SpikingLayer(nn.Conv1d(n, c, 1, bias=False), nn.BatchNorm1d(c))}
    layers |= _dense(config) if config.block == "dense" else _separable(config)
    wiring = None
    if config.block == "separable" and config.identity == "sum":
        wiring = _around_blocks(list(layers))
    return SpikingNetwork(layers, Readout(nn.Conv1d(c, config.n_speakers * n, 1)), wiring)


def _dense(config: SeparatorConfig) -> Iterator[tuple[str, SpikingLayer]]:
    c = config.n_channels
    for i, dilation in enumerate(config.dilations):
        yield f"dilated{i + 1}", _layer(config, c, c, dilation, identity=config.identity == "sum")


def _separable(config: SeparatorConfig) -> Iterator[tuple[str, SpikingLayer]]:
    c, h = config.n_channels, config.hidden_channels or config.n_channels
    for i, dilation in enumerate(config.dilations):
        yield f"expand{i + 1}", _layer(config, c, h)
        yield f"depthwise{i + 1}", _layer(config, h, h, dilation, groups=h)
        yield f"project{i + 1}", _layer(config, h, c)


def _layer(
    config: SeparatorConfig,
    n_in: int,
    n_out: int,
    dilation: int = 0,
    *,
    groups: int = 1,
    identity: bool = False,
) -> SpikingLayer:
    """Return a convolution, 1x1 without a dilation, with norm and neurons.

    Where identity paths are folded, it has one if it keeps the number of channels.
    """
    residual = config.identity == "folded" and n_in == n_out
    size = config.conv_kernel_size if dilation else 1
    if config.causal:
        synapse = CausalConv1d(n_in, n_out, size, dilation=dilation or 1, groups=groups, bias=False)
    else:
        padding = dilation * (size // 2)
        synapse = nn.Conv1d(n_in, n_out, size, 1, padding, dilation or 1, groups=groups, bias=False)
    norm = nn.BatchNorm1d(n_out)
    if residual:
        nn.init.constant_(norm.weight, RESIDUAL_GAIN)
    return SpikingLayer(synapse, norm, identity=identity, residual=residual)


def _around_blocks(names: list[str]) -> Wiring:
    """Wire layers so that each block receives the spikes of all earlier blocks."""
    wiring: Wiring = {}
    ends, previous = [BOTTLENECK], BOTTLENECK
    for name in names:
        if name == BOTTLENECK:
            wiring[name] = (total(("input",)),)
            continue
        wiring[name] = (total(tuple(ends) if name.startswith("expand") else (previous,)),)
        previous = name
        if name.startswith("project"):
            ends.append(name)
    return wiring | {READOUT: (total(tuple(ends)),)}
