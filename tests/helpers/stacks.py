"""Random converted networks of every geometry, for tests of the engines."""

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import nn

from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding


@st.composite
def codings(draw, most_steps, betas=(1.0, 0.5, 0.875, 1 - 2**-8)):
    """Codings of every neuron model; the leaks are exact in integers."""
    coding = Coding(
        draw(st.integers(1, most_steps)),
        draw(st.sampled_from(["constant", "impulse"])),
        draw(st.sampled_from([0.0, 0.3, 0.5])),
        draw(st.booleans()),
    )
    if coding.deferred:
        return coding
    reset, beta = draw(st.sampled_from(["subtract", "zero"])), draw(st.sampled_from(betas))
    return replace(coding, reset=reset, beta=beta)


def converted(layers, readout, coding, thresholds):
    network = SpikingNetwork(layers, readout).eval()
    for layer, threshold in zip(layers, thresholds, strict=True):
        layer.convert(threshold, coding)
        layer.freeze()
    return network


@st.composite
def stacks_1d(draw, most_steps=20, n_frames=24):
    """An analog-fed layer, then dilated, strided, grouped or pooled ones, with or without paths
    around them.
    """
    torch.manual_seed(draw(st.integers(0, 1000)))
    width = draw(st.sampled_from([3, 4, 8, 12]))
    layers = [SpikingLayer(nn.Conv1d(5, width, 1))]
    for _ in range(draw(st.integers(1, 3))):
        kernel, dilation = draw(st.sampled_from([1, 3])), draw(st.integers(1, 3))
        if draw(st.booleans()):
            synapse = nn.Conv1d(
                width, width, kernel, padding=dilation * (kernel // 2), dilation=dilation
            )
            path = draw(st.sampled_from(["identity", "residual"]))
            layers.append(SpikingLayer(synapse, nn.BatchNorm1d(width), **{path: True}))
        else:
            groups = draw(st.sampled_from([g for g in (1, 2, width) if width % g == 0]))
            stride = draw(st.integers(1, 2))
            synapse = nn.Conv1d(width, width, kernel, stride, 1, 1, groups)
            if draw(st.booleans()):
                behind = stride - 1
                synapse = nn.ConvTranspose1d(width, width, 4, stride, 1, behind, groups)
            layers.append(
                SpikingLayer(synapse, before=draw(st.sampled_from([None, nn.AvgPool1d(2)])))
            )
    coding = draw(codings(most_steps))
    thresholds = [draw(st.floats(0.02, 1)) for _ in layers]
    return converted(layers, Readout(nn.Conv1d(width, 2, 1)), coding, thresholds), torch.randn(
        2, 5, n_frames
    )


@st.composite
def classifiers(draw, most_steps=20):
    torch.manual_seed(draw(st.integers(0, 1000)))
    layers = [
        SpikingLayer(nn.Conv2d(2, 4, 3, padding=1)),
        SpikingLayer(
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            before=draw(st.sampled_from([None, nn.Dropout()])),
        ),
        SpikingLayer(nn.Conv2d(6, 6, (1, 3), padding=(0, 2), dilation=(1, 2)), nn.BatchNorm2d(6)),
        SpikingLayer(nn.Linear(6 * 2 * 2, 9), before=nn.Sequential(nn.AvgPool2d(2), nn.Flatten())),
        SpikingLayer(nn.Linear(9, 130)),
    ]
    thresholds = [draw(st.floats(0.02, 1)) for _ in layers]
    return converted(
        layers, Readout(nn.Linear(130, 3)), draw(codings(most_steps)), thresholds
    ), torch.rand(3, 2, 8, 8)


def run(network, x, engine):
    """The signal behind each layer."""
    outputs = {}
    network.use_engine(engine)
    with torch.no_grad():
        network(x, observe=lambda name, layer, signal, out: outputs.setdefault(name, out))
    return outputs


def same_spikes(one, other):
    return all(
        torch.equal(a.trains[0].words, other[name].trains[0].words)
        for name, a in one.items()
        if a.trains
    )


def signal_before(network, x, index):
    """The signal that reaches the first synapse of a layer, or of the readout."""
    return network.arriving(network.propagate(x, 0, index), index)[0]
