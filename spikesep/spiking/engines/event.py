"""The event engine: work in proportion to spikes.

Words become lists of the channels that fire, one for each position and step. A neuron's current in
a step is the sum of the weight rows of the channels in the lists that reach it, and it fires on the
spot. In fixed-point form all of it is integer addition, in int16 where no sum can overflow. A
silent position costs one look at its word.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spikesep.spiking.engines import event_lists, event_sums
from spikesep.spiking.engines.call import LayerCall, RowLayout
from spikesep.spiking.signal import Signal
from spikesep.spiking.spike_trains import kernels

MOST_CHANNELS = 65536  # channel numbers in a list are uint16


def run(call: LayerCall, signals: Sequence[Signal]) -> Tensor:
    """Fire a layer's neurons for signals that spike: words [ceil(N_s / 8), batch, ...] uint8.

    With float weights, the order of additions differs from that of the dense engine, and so does
    what it rounds.

    Raises:
        NotImplementedError: the synapse has no connection table.
    """
    layout = RowLayout.of(call, signals)
    out = []
    for sources, weight, own in layout.blocks():
        lists = [_lists(source.numpy(), layout.n_steps) for source in sources]
        out.append(_run_block(layout, lists, weight, own))
    return layout.to_output(out)


def _lists(words: np.ndarray, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The channels that fire, in order of row, step and channel.

    Args:
        words: [n_words, rows, C].
        n_steps: N_s.

    Returns:
        Offsets [rows, N_s + 1] into the list, and the list.
    """
    n_words, n_rows, n_channels = words.shape
    width = 64 if event_lists.COMPRESSES else 8
    list_rows = event_lists.list_rows_by_64 if event_lists.COMPRESSES else event_lists.list_rows
    padded = words
    if n_channels % width:
        padded = np.zeros((n_words, n_rows, -(-n_channels // width) * width), np.uint8)
        padded[:, :, :n_channels] = words
    totals, eights = np.empty(n_rows, np.int64), padded.view(np.uint64)
    kernels.run(kernels.count_rows, n_rows, eights, totals, grain=1024)
    begin = np.concatenate([[0], np.cumsum(totals + 32)])  # 32 may be written behind a row's lists
    offsets, channels = np.empty((n_rows, n_steps + 1), np.int64), np.empty(begin[-1], np.uint16)
    kernels.run(list_rows, n_rows, eights, n_steps, begin, offsets, channels, grain=64)
    return offsets, channels


def _run_block(
    layout: RowLayout, lists: list[tuple[np.ndarray, np.ndarray]], weight: Tensor, own: slice
) -> Tensor:
    """Words [ceil(N_s / 8), positions, C_out] of one block of output channels."""
    n_steps, n_out, fixed = layout.n_steps, weight.shape[2], layout.call.fixed
    sums: type[np.number]
    if fixed is None:
        tiles, sums = _tiles(weight), np.float32
    else:
        tiles = fixed.arranged(("tiles", own.start), lambda: _tiles(weight))
        times = n_steps if layout.deferred else 1
        reached = zip(fixed.reaches(), layout.connections.per_tap, strict=True)
        most = max(reach * per_tap for reach, per_tap in reached)  # a source has one synapse
        sums = np.int16 if most * times < 2**15 else np.int32
    offsets, channels = _joined(lists)
    plan, n_positions, coding = layout.plan, len(layout.table), layout.call.coding
    leak = np.float32(coding.beta) if fixed is None else np.int32(coding.leak_shift)
    bias = plan.bias
    if layout.deferred:  # the lists of a row lie one behind the other: all steps are one
        offsets, bias = offsets[:, :, ::n_steps].copy(), bias * n_steps
    out = np.empty((-(-n_steps // 8), n_positions, n_out), np.uint8)
    neurons = [tensor[own].numpy() for tensor in (bias, plan.threshold, plan.initial)]
    arguments = (
        layout.table,
        layout.taps,
        offsets,
        channels,
        tiles,
        np.empty(0, sums),
        plan.factors,
        plan.gain,
        *neurons,
        leak,
        coding.reset == "zero",
        n_steps,
        out,
    )
    kernels.run(event_sums.integrate_rows, n_positions, *arguments, grain=8)
    return torch.from_numpy(out)


def _joined(lists: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The lists of all sources as one: offsets [sources, rows, N_s + 1], channels."""
    if len(lists) == 1:
        ((offsets, channels),) = lists
        return offsets[None], channels
    begin = np.cumsum([0, *(len(channels) for _, channels in lists)])
    offsets = np.stack(
        [own_offsets + start for (own_offsets, _), start in zip(lists, begin[:-1], strict=True)]
    )
    return offsets, np.concatenate([channels for _, channels in lists])


def _tiles(weight: Tensor) -> np.ndarray:
    """Weight [n_taps, C_in, C_out] as [tiles, n_taps, C_in, TILE]."""
    n_taps, n_in, n_out = weight.shape
    tiles = weight.new_zeros(n_taps, n_in, -(-n_out // event_sums.TILE) * event_sums.TILE)
    tiles[:, :, :n_out] = weight
    return tiles.unflatten(2, (-1, event_sums.TILE)).permute(2, 0, 1, 3).contiguous().numpy()
