import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikesep.spiking.synapses.kinds import as_synapse, connectivity_of
from spikesep.spiking.synapses.modules import ConvTranspose

KINDS = {
    "vectors": (nn.Linear(5, 7), None, (5,)),
    "vectors at several positions": (nn.Linear(5, 7), None, (3, 5)),
    "flattened map": (nn.Linear(12, 7), nn.Flatten(), (3, 4)),
    "pooled and flattened": (
        nn.Linear(12, 7),
        nn.Sequential(nn.AvgPool2d(2), nn.Flatten()),
        (3, 4, 4),
    ),
    "strided": (nn.Conv1d(4, 6, 3, stride=2, padding=1), None, (4, 9)),
    "dilated and pooled": (nn.Conv1d(4, 6, 3, dilation=2), nn.AvgPool1d(2), (4, 14)),
    "depthwise": (nn.Conv1d(6, 6, 3, padding=1, groups=6), None, (6, 9)),
    "grouped": (nn.Conv1d(6, 4, 3, groups=2), None, (6, 9)),
    "same length with an even kernel": (nn.Conv1d(4, 6, 4, padding="same"), None, (4, 9)),
    "2-D": (nn.Conv2d(3, 4, (1, 3), stride=(2, 1), padding=(0, 2)), None, (3, 6, 5)),
    "transposed": (nn.ConvTranspose1d(4, 6, 4, 2, 1), None, (4, 5)),
    "transposed, grouped, dilated": (
        nn.ConvTranspose1d(4, 6, 5, 3, 2, 1, 2, dilation=2),
        None,
        (4, 5),
    ),
}
kinds = pytest.mark.parametrize(("module", "before", "shape"), KINDS.values(), ids=KINDS)


@kinds
def test_the_table_says_what_the_module_computes(module, before, shape):
    """Rows of inputs times tap matrices, summed over the entries of the table, in plain loops."""
    synapse = as_synapse(module).double()
    connectivity = connectivity_of(synapse, before)
    x = torch.randn(2, *shape, dtype=torch.float64)
    expected = synapse(connectivity.pool(x)) - synapse(torch.zeros_like(connectivity.pool(x)))
    table = connectivity.table(shape)
    rows = connectivity.to_rows(x[None])[0]
    weight = connectivity.tap_matrices(synapse.weight.detach(), table.n_taps)
    n_out = connectivity.out_channels // connectivity.groups
    potential = torch.zeros(len(table.rows(2)), connectivity.out_channels, dtype=torch.float64)
    for p, entries in enumerate(table.rows(2)):
        for row, tap in zip(entries, table.taps, strict=True):
            for group, x_group in enumerate(rows[row].chunk(connectivity.groups)):
                own = slice(group * n_out, (group + 1) * n_out)
                if row >= 0:
                    potential[p, own] += x_group @ weight[tap, :, own]
    found = connectivity.from_rows(potential[None], 2, table.shape)[0] / connectivity.divisor
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@kinds
def test_transmission_is_that_of_the_module(module, before, shape):
    synapse = as_synapse(module).float()
    connectivity = connectivity_of(synapse, before)
    x = torch.randn(2, *shape)
    out = connectivity.transmit(x, synapse.weight, synapse.bias)
    assert torch.equal(out, synapse(connectivity.pool(x)))
    bare = tuple(connectivity.pool(x).shape[1:])
    assert connectivity.without_map().output_shape(bare) == tuple(out.shape[1:])


@kinds
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_counts_of_synapses_are_those_of_a_loop(module, before, shape, share):
    """Send one spike from each input through weights of one, and count where it arrives."""
    synapse = as_synapse(module).float()
    connectivity = connectivity_of(synapse, before)
    kept = torch.rand_like(synapse.weight) < share
    count = torch.randint(0, 4, (1, *shape)).float()
    bias = torch.zeros(connectivity.out_channels)
    arriving, macs = 0, 0
    for place in itertools.product(*map(range, count.shape)):
        spike = torch.zeros_like(count)
        spike[place] = 1
        pooled = connectivity.pool(spike) * connectivity.divisor
        arrived = float(connectivity.project(pooled, kept.float(), bias).sum())
        arriving += arrived * int(count[place])
        macs += arrived / connectivity.divisor
    given = kept if share < 1 else None
    assert connectivity.n_arriving(count, given) == pytest.approx(arriving)
    assert connectivity.n_macs(count.shape, given) == pytest.approx(macs)


# Neurons of a group times taps; of the taps, a stride leaves a share.
REACHED = dict(zip(KINDS, (7, 7, 7, 7, 9, 18, 3, 6, 24, 6, 24, 15), strict=True))


@pytest.mark.parametrize(("name", "expected"), REACHED.items(), ids=REACHED)
def test_a_spike_away_from_borders_reaches_as_many_synapses_as_counted_by_hand(name, expected):
    module, before, shape = KINDS[name]
    synapse = as_synapse(module)
    connectivity = connectivity_of(synapse, before)
    n_channels = shape[-1] if connectivity.in_channels_last else shape[0]
    all_kept = torch.ones_like(synapse.weight, dtype=torch.bool)
    assert connectivity.reached(n_channels).tolist() == [expected] * n_channels
    assert connectivity.reached(n_channels, all_kept).tolist() == [expected] * n_channels


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)
)
def test_a_transposed_convolution_is_that_of_torch(groups, size, stride, padding, dilation):
    padding = min(padding, dilation * (size - 1) // 2)
    sizes = (size, stride, padding, stride - 1, groups)
    original = nn.ConvTranspose1d(2 * groups, 3 * groups, *sizes, dilation=dilation).double()
    ours = ConvTranspose(original)
    assert ours.weight.shape == (3 * groups, 2, size)
    x = torch.randn(2, 2 * groups, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), original(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 4),
        nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 4, 3, padding=1),
    ],
    ids=["linear", "conv1d", "conv2d"],
)
def test_a_unit_kernel_returns_the_input(module):
    connectivity = connectivity_of(module)
    assert connectivity.keeps_shape
    x = torch.randn(2, 4, *[7] * (module.weight.ndim - 2))
    bias = torch.zeros(4)
    assert torch.equal(connectivity.project(x, connectivity.unit_kernel(module.weight), bias), x)


def test_values_per_input_channel_are_spread_over_the_weights_they_meet():
    connectivity = connectivity_of(nn.Conv1d(4, 6, 3, groups=2))
    spread = connectivity.spread(torch.tensor([1.0, 2.0, 3.0, 4.0]), 6)
    assert spread.tolist() == [[1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4]]


@pytest.mark.parametrize(
    ("module", "before", "obstacle"),
    [
        (nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"), None, "reflect"),
        (nn.Conv1d(2, 2, 3), nn.AvgPool1d(3, ceil_mode=True), "ceil_mode"),
        (nn.Conv1d(2, 2, 3), nn.MaxPool1d(2), "MaxPool1d before a synapse"),
        (nn.Linear(2, 2), nn.AvgPool1d(2), "pooling before Linear without Flatten"),
    ],
)
def test_what_has_no_table_says_why(module, before, obstacle):
    connectivity = connectivity_of(module, before)
    assert not connectivity.has_table
    with pytest.raises(NotImplementedError, match=obstacle):
        connectivity.table((2, 9))


def test_tables_are_made_once_for_each_shape():
    one, other = (connectivity_of(nn.Conv1d(2, 2, 3)) for _ in range(2))
    assert one.table((2, 9)) is other.table((2, 9))
    assert one.table((2, 8)) is not one.table((2, 9))
    assert np.array_equal(one.table((2, 9)).rows(1), one.table((2, 9)).table)
