"""The event engine: work in proportion to spikes.

Words become lists of the channels that fire, one for each position and step; a neuron's current in a step is the sum of
the weight rows of the channels in the lists it is connected to, and it fires on the spot. In the fixed-point form all
of it is integer addition, int16 where no sum can leave its range. A silent place costs a look at its word, no more.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from spikesep.spiking import kernels
from spikesep.spiking.engines.job import Job
from spikesep.spiking.kernels import BITS
from spikesep.spiking.signal import Signal

TILE = 128  # output channels at a time: a tile of weights stays in the second-level cache
SLACK = 8  # entries that may be written past the end of a list
PLACES = np.array([[i for i in range(8) if m >> i & 1] + [0] * (8 - m.bit_count()) for m in range(256)], np.uint16)


def fire(layer: nn.Module, signal: Signal) -> Tensor:
    """Words of the layer's neurons, [ceil(N_s / 8), batch, ...] uint8, for a signal that spikes.

    Behind float weights, what the order of additions rounds differs from the dense engine's.

    Raises:
        NotImplementedError: a geometry without a table of connections, or more than 65536 channels.
    """
    job = Job.of(layer, signal)
    out = []
    for sources, weight, own in job.groups():
        lists = [_lists(source.numpy(), job.n_steps) for source in sources]
        out.append(_integrate(job, lists, weight, own))
    return job.words(out)


def _lists(words: np.ndarray, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Words [n_words, rows, C] -> offsets [rows, N_s + 1] into a list of channels, in order of row, step, channel."""
    n_words, n_rows, n_channels = words.shape
    if n_channels > 65536:
        raise NotImplementedError("more than 65536 channels")
    padded = np.zeros((n_words, n_rows, -(-n_channels // 8) * 8), np.uint8)
    padded[:, :, :n_channels] = words
    totals = np.empty(n_rows, np.int64)
    kernels.run(_count_rows, n_rows, padded, totals, grain=64)
    begin = np.concatenate([[0], np.cumsum(totals + SLACK)])
    offsets, channels = np.empty((n_rows, n_steps + 1), np.int64), np.empty(begin[-1], np.uint16)
    kernels.run(_list_rows, n_rows, padded.view(np.uint64), n_steps, begin, offsets, channels, grain=64)
    return offsets, channels


def _integrate(job: Job, lists: list[tuple[np.ndarray, np.ndarray]], weight: Tensor, own: slice) -> Tensor:
    """Words [ceil(N_s / 8), positions, C_out] of one group of output channels."""
    n_taps, n_in, n_out = weight.shape
    n_tiles = -(-n_out // TILE)
    tiles = torch.zeros(n_taps, n_in, n_tiles * TILE, dtype=weight.dtype)
    tiles[:, :, :n_out] = weight
    tiles = tiles.unflatten(2, (n_tiles, TILE)).permute(2, 0, 1, 3).contiguous().numpy()
    begin = np.cumsum([0, *(len(channels) for _, channels in lists)])
    offsets = np.stack([own_offsets + start for (own_offsets, _), start in zip(lists, begin[:-1], strict=True)])
    channels = lists[0][1] if len(lists) == 1 else np.concatenate([channels for _, channels in lists])
    plan, n_positions = job.plan, len(job.table)
    out = np.empty((-(-job.n_steps // 8), n_positions, n_out), np.uint8)
    neurons = [tensor[own].numpy() for tensor in (plan.bias, plan.threshold, plan.initial)]
    arguments = (job.table, job.taps, offsets, channels, tiles, plan.factors, plan.gain, *neurons, out)
    kernels.run(_integrate_rows, n_positions, *arguments, grain=8)
    return torch.from_numpy(out)


@njit(nogil=True, cache=True)
def _count_rows(start, stop, words, totals):
    for row in range(start, stop):
        n = 0
        for w in range(words.shape[0]):
            for c in range(words.shape[2]):
                n += BITS[words[w, row, c]]
        totals[row] = n


@njit(nogil=True, cache=True)
def _list_rows(start, stop, words, n_steps, begin, offsets, channels):
    """Eight words at a time (`words` is [n_words, rows, C / 8] uint64): their bits of a step are a key to PLACES."""
    ones, gather = np.uint64(0x0101010101010101), np.uint64(0x0102040810204080)
    for row in range(start, stop):
        n = begin[row]
        for t in range(n_steps):
            offsets[row, t] = n
            eights, step = words[t // 8, row], np.uint64(t % 8)
            for k in range(eights.shape[0]):
                mask = (((eights[k] >> step) & ones) * gather) >> np.uint64(56)
                first = np.uint16(8 * k)
                for i in range(8):
                    channels[n + i] = first + PLACES[mask, i]
                n += BITS[mask]
        offsets[row, n_steps] = n


@njit(nogil=True, cache=True)
def _integrate_rows(
    start, stop, table, taps, offsets, channels, weight, factors, gain, bias, threshold, initial, words
):
    """Add up, integrate, fire; `offsets` is [sources, rows, N_s + 1], `weight` [tiles, taps, C_in, TILE]."""
    n_steps = offsets.shape[2] - 1
    current = np.empty(TILE, weight.dtype)
    charge = np.empty(TILE, bias.dtype)
    potential = np.empty(TILE, bias.dtype)
    theta = np.empty(TILE, bias.dtype)
    drift = np.empty(TILE, bias.dtype)
    word = np.empty(TILE, np.uint8)
    for tile in range(weight.shape[0]):
        first = tile * TILE
        n_out = min(TILE, bias.shape[0] - first)
        theta[:n_out] = threshold[first : first + n_out]
        drift[:n_out] = bias[first : first + n_out]
        for p in range(start, stop):
            potential[:n_out] = initial[first : first + n_out]
            for t in range(n_steps):
                if t % 8 == 0:
                    word[:] = 0
                charge[:n_out] = drift[:n_out]
                for source in range(offsets.shape[0]):
                    current[:] = 0
                    for e in range(table.shape[1]):
                        q = table[p, e]
                        if q < 0:
                            continue
                        rows = weight[tile, taps[e]]
                        i, stop_at = offsets[source, q, t], offsets[source, q, t + 1]
                        while i + 3 < stop_at:
                            a, b = rows[channels[i]], rows[channels[i + 1]]
                            c, d = rows[channels[i + 2]], rows[channels[i + 3]]
                            for j in range(TILE):
                                current[j] += (a[j] + b[j]) + (c[j] + d[j])
                            i += 4
                        while i < stop_at:
                            a = rows[channels[i]]
                            for j in range(TILE):
                                current[j] += a[j]
                            i += 1
                    factor = factors[source] * gain
                    for j in range(n_out):
                        charge[j] += factor * current[j]
                mask = np.uint8(1 << (t % 8))
                for j in range(n_out):
                    potential[j] += charge[j]
                    fires = potential[j] >= theta[j]
                    if fires:
                        potential[j] -= theta[j]
                    word[j] |= mask if fires else np.uint8(0)
                if t % 8 == 7 or t == n_steps - 1:
                    words[t // 8, p, first : first + n_out] = word[:n_out]
