"""Networks that run on frames as they arrive: spikes and cost of one pass, computed once."""

from itertools import product

import numpy as np
import pytest
import torch
from helpers.separators import tiny_separator, to_spiking
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikesep.spiking import convert
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.cost import CostMeter
from spikesep.spiking.engines.call import RowLayout
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.streaming.frames import part_of
from spikesep.spiking.streaming.reach import reach_of
from spikesep.spiking.streaming.stream import OBSERVED_FRAMES, NetworkStream
from spikesep.spiking.synapses.kinds import connectivity_of
from spikesep.spiking.synapses.modules import CausalConv1d

N_FRAMES = 90


def make_network(kind, causal, identity):
    sizes = {"dilations": [1, 4, 8], "identity": identity, "causal": causal}
    separator = tiny_separator(
        "ann" if kind == "deferred" else kind, has_norm_statistics=True, **sizes
    )
    if kind == "deferred":
        to_spiking(separator, deferred=True)
        to_fixed_point(separator.network, [separator.encode(torch.randn(1, 4000))[0]])
    return separator.network


NETWORKS = {
    key: make_network(*key)
    for key in product(
        ("ann", "snn", "fixed", "deferred"), (False, True), ("none", "sum", "folded")
    )
}


make = RowLayout.of


class Spikes:
    """An observer that keeps the spikes of each layer, and what arrives at it."""

    def __init__(self):
        self.words = {}

    def __call__(self, name, _module, _arriving, out):
        if out.is_spiking:
            self.words.setdefault(name, []).append(out.trains[0].words.clone())

    def joined(self):
        return {name: torch.cat(words, -1) for name, words in self.words.items()}


def in_blocks(network, x, sizes, observe):
    """Push frames in blocks of these sizes, in turn; return the whole potential."""
    stream, pieces, start = NetworkStream(network, observe), [], 0
    while start < x.shape[-1]:
        stop = start + sizes[len(pieces) % len(sizes)]
        pieces.append(stream.push(x[..., start:stop]))
        start = stop
    return torch.cat([*pieces, stream.flush(x)], -1)


@settings(max_examples=40, deadline=None)
@given(
    key=st.sampled_from(sorted(NETWORKS)),
    batch=st.integers(1, 2),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
)
def test_a_stream_fires_the_spikes_of_one_pass_at_the_same_cost(key, batch, sizes):
    network, x = NETWORKS[key], torch.randn(batch, 16, N_FRAMES)
    whole, parts, meter, other = Spikes(), Spikes(), CostMeter(), CostMeter()

    def both(*observers):
        return lambda *seen: [observe(*seen) for observe in observers]

    with torch.inference_mode():
        expected = network(x, both(whole, meter))
    found = in_blocks(network, x, sizes, both(parts, other))
    if key[0] == "ann":
        torch.testing.assert_close(found, expected)
    else:
        assert torch.equal(found, expected)
        for name, words in whole.joined().items():
            assert torch.equal(parts.joined()[name], words)
    assert other.cost == meter.cost


@pytest.mark.parametrize("causal", [False, True])
def test_a_frame_is_computed_once_and_as_soon_as_its_inputs_are_complete(causal):
    network = NETWORKS["fixed", causal, "sum"]
    stream, n = NetworkStream(network), 0
    assert (stream.reach.ahead, stream.reach.back) == ((0, 26) if causal else (13, 13))
    for frame in range(40):
        n += stream.push(torch.randn(1, 16, 1)).shape[-1]
        assert n == max(0, frame + 1 - stream.reach.ahead)


@pytest.mark.parametrize("identity", ["none", "folded"])
def test_blocks_of_one_size_are_laid_out_once(identity, monkeypatch):
    laid_out = []
    monkeypatch.setattr(
        RowLayout, "of", classmethod(lambda cls, *given: laid_out.append(1) or make(*given))
    )
    stream = NetworkStream(NETWORKS["deferred", True, identity])
    for _ in range(7):  # until the longest dilation reads no padding
        stream.push(torch.randn(1, 16, 3))
    once = len(laid_out)
    assert once
    for _ in range(20):
        stream.push(torch.randn(1, 16, 3))
    assert len(laid_out) == once


def test_buffers_do_not_grow():
    stream = NetworkStream(NETWORKS["fixed", True, "sum"], CostMeter())
    for _ in range(8):
        stream.push(torch.randn(1, 16, OBSERVED_FRAMES // 2))
    kept = [buffer.stop - buffer.start for buffer in stream._frames.values()]
    assert max(kept) <= 16 + OBSERVED_FRAMES
    capacities = [buffer._store.shape[-2] for buffer in stream._frames.values()]
    assert max(capacities) <= 4 * (16 + OBSERVED_FRAMES + OBSERVED_FRAMES // 2)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 5),
    dilation=st.integers(1, 9),
    start=st.integers(0, 29),
    n=st.integers(1, 30),
    causal=st.booleans(),
    ended=st.booleans(),
)
def test_a_part_reads_what_a_plain_loop_reads(size, dilation, start, n, causal, ended):
    size, length = (size if causal else 2 * (size // 2) + 1), 80
    n = min(n, length - start)
    span = dilation * (size - 1)
    synapse = (
        CausalConv1d(3, 2, size, dilation=dilation)
        if causal
        else nn.Conv1d(3, 2, size, padding=span // 2, dilation=dilation)
    ).double()
    before = span if causal else span // 2
    if not ended and start + n - 1 + span - before >= length:
        return
    x = torch.randn(1, 3, length, dtype=torch.float64)
    expected = np.zeros((2, n))
    for i in range(n):
        for tap in range(size):
            position = start + i - before + tap * dilation
            if 0 <= position < length:
                weight = synapse.weight[:, :, tap].detach().numpy()
                expected[:, i] += weight @ x[0, :, position].numpy()
    part = part_of(connectivity_of(synapse), start, n, length if ended else None)
    inputs = torch.cat([x[..., first : first + count] for first, count in part.ranges], -1)
    found = part.connectivity.project(inputs, synapse.weight, None)[0].detach()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert torch.equal(part.connectivity.own(inputs), x[..., start : start + n])


@pytest.mark.parametrize(
    ("synapse", "before"),
    [
        (nn.Conv1d(4, 4, 3, padding=1, stride=2), None),
        (nn.Conv1d(4, 4, 3), None),
        (nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), None),
        (nn.Conv1d(4, 4, 1), nn.AvgPool1d(2)),
        (nn.Conv2d(4, 4, 1), None),
        (nn.Linear(4, 4), None),
    ],
)
def test_layers_without_one_output_per_input_are_refused_by_name(synapse, before):
    network = SpikingNetwork({"odd": SpikingLayer(synapse, before=before)}, Readout(synapse))
    with pytest.raises(NotConvertibleError, match=r"layer odd: a stream takes .*; run the network"):
        reach_of(network)


def test_a_flushed_stream_takes_no_frames():
    stream = NetworkStream(NETWORKS["fixed", True, "none"])
    stream.flush(torch.zeros(1, 16, 0))
    with pytest.raises(ValueError, match="flushed"):
        stream.push(torch.zeros(1, 16, 1))


class Joined(nn.Module):
    """Two convolutions and a concatenation between them, along channels or frames."""

    def __init__(self, join, n_channels):
        super().__init__()
        self.first, self.pool = nn.Conv1d(2, 4, 3, padding=1), nn.MaxPool1d(3, 1, 1)
        self.second, self.out = nn.Conv1d(n_channels, 4, 3, padding=1), nn.Conv1d(4, 3, 1)
        self.join = join

    def forward(self, x):
        first = torch.relu(self.first(x))
        return self.out(torch.relu(self.second(self.join(first, self.pool))))


@pytest.mark.parametrize(
    ("join", "n_channels", "streams"),
    [
        (lambda x, pool: torch.cat([x, x], 1), 8, True),
        (lambda x, pool: torch.cat([x, x], -2), 8, True),
        (lambda x, pool: torch.cat([x, x], 2), 4, False),
        (lambda x, pool: torch.cat([x, x], -1), 4, False),
        (lambda x, pool: torch.cat([x, pool(x)], 1), 8, False),
        (lambda x, pool: x + pool(x), 4, False),
    ],
)
def test_wires_that_mix_frames_are_refused(join, n_channels, streams):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 40)
    network = convert(Joined(join, n_channels), x)
    if not streams:
        with pytest.raises(NotConvertibleError, match=r"layer second: a stream takes"):
            NetworkStream(network)
        return
    stream = NetworkStream(network)
    parts = [*map(stream.push, x.split(7, -1)), stream.flush(x)]
    with torch.inference_mode():
        assert torch.equal(torch.cat(parts, -1), network(x))
