"""Compiled loops over bit words, each one pass over memory.

Arrays are flat: words are [n_words, n] uint8, currents and drives [N_s, n]. Floating-point arrays
come as their bits, uint32 for float32 and uint16 for bfloat16 (which numpy lacks), so that one loop
serves both.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from threading import Lock

import numpy as np
import torch
from numba import njit

from spikesep.compilation import compiled

CHUNK = 4096  # neurons at a time: their buffers stay in the first-level cache

PARTS = 4  # parts per thread

_pool: ThreadPoolExecutor | None = None


def run(kernel: Callable[..., None], n: int, *arguments, grain: int = CHUNK) -> None:
    """Call kernel(start, stop, *arguments) over 0..n on as many threads as torch uses.

    Each thread takes one part after another, of at least `grain`, so that none waits for a thread
    that started late or lost its core.
    """
    global _pool
    n_threads = max(1, min(torch.get_num_threads(), n // grain))
    if n_threads == 1:
        kernel(0, n, *arguments)
        return
    if _pool is None or _pool._max_workers < n_threads - 1:
        _pool = ThreadPoolExecutor(n_threads - 1, thread_name_prefix="spikesep")
    n_parts = min(n_threads * PARTS, n // grain)
    parts = pairwise(n * k // n_parts for k in range(n_parts + 1))
    lock = Lock()

    def work() -> None:
        while True:
            with lock:
                part = next(parts, None)
            if part is None:
                return
            kernel(*part, *arguments)

    others = [_pool.submit(work) for _ in range(n_threads - 1)]
    try:
        work()
    finally:
        begun = [other for other in others if not other.cancel()]  # the rest came too late
        wait(begun)
    for other in begun:
        other.result()


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_forget_pool)


@compiled
def integrate(
    start, stop, current, shift, threshold, initial_potential, beta, to_zero, n_steps, words
):
    """Integrate-and-fire (eqs. 3-5) from currents to words.

    A current of one row is the same in every step. `shift` turns its bits into those of a float32:
    0 for float32, 16 for bfloat16. Neurons that leak or reset to zero have a loop of their own.
    """
    is_plain = beta == np.float32(1) and not to_zero
    potential = np.empty(CHUNK, np.float32)
    bits = np.empty(CHUNK, np.uint32)
    z = bits.view(np.float32)
    word = np.empty(CHUNK, np.uint8)
    for low in range(start, stop, CHUNK):
        n = min(CHUNK, stop - low)
        potential[:n] = initial_potential
        for t in range(n_steps):
            row = min(t, current.shape[0] - 1)
            if t % 8 == 0:
                word[:n] = 0
            for i in range(n):
                bits[i] = np.uint32(current[row, low + i]) << shift
            mask = np.uint8(1 << (t % 8))
            if is_plain:
                for i in range(n):
                    v = potential[i] + z[i]
                    fires = v >= threshold
                    potential[i] = v - threshold if fires else v
                    word[i] |= mask if fires else np.uint8(0)
            else:
                for i in range(n):
                    v = beta * potential[i] + z[i]
                    fires = v >= threshold
                    rest = np.float32(0) if to_zero else v - threshold
                    potential[i] = rest if fires else v
                    word[i] |= mask if fires else np.uint8(0)
            if t % 8 == 7 or t == n_steps - 1:
                words[t // 8, low : low + n] = word[:n]


@compiled
def drive(start, stop, words, thresholds, out):
    """out[t] = sum over sources of threshold * spike, as bits of float32 or bfloat16.

    `words` is [n_sources, n_words, n].
    """
    total = np.empty(CHUNK, np.float32)
    bits = total.view(np.uint32)
    half = out.itemsize == 2
    for low in range(start, stop, CHUNK):
        n = min(CHUNK, stop - low)
        for t in range(out.shape[0]):
            mask = np.uint8(1 << (t % 8))
            total[:n] = 0
            for source in range(words.shape[0]):
                threshold = thresholds[source]
                word = words[source, t // 8, low : low + n]
                for i in range(n):
                    total[i] += threshold if word[i] & mask else np.float32(0)
            if half:  # to the nearest, ties to even
                for i in range(n):
                    out[t, low + i] = (
                        bits[i] + np.uint32(0x7FFF) + ((bits[i] >> 16) & np.uint32(1))
                    ) >> 16
            else:
                for i in range(n):
                    out[t, low + i] = bits[i]


@njit(inline="always")
def ones_of_bytes(bits):
    """Number of ones in each byte of a uint64, in place."""
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + (
        (bits >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    return (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)


@compiled
def collect(start, stop, words, factors, out):
    """out = sum over sources of factor * spikes of each neuron, in the number format of `out`.

    `words` is [n_sources, n_words, n].
    """
    eights = np.zeros(CHUNK // 8, np.uint64)
    ones = eights.view(np.uint8)
    for low in range(start, stop, CHUNK):
        n = min(CHUNK, stop - low)
        total = out[low : low + n]
        for i in range(n):
            total[i] = 0
        for source in range(words.shape[0]):
            factor = factors[source]
            for w in range(words.shape[1]):
                word = words[source, w, low : low + n]
                for i in range(n):
                    ones[i] = word[i]
                for k in range(len(eights)):
                    eights[k] = ones_of_bytes(eights[k])
                for i in range(n):
                    total[i] += factor * ones[i]


@compiled
def count_rows(start, stop, words, totals):
    """totals = spikes of all neurons of a row; `words` is [n_words, rows, neurons / 8] uint64."""
    for row in range(start, stop):
        n = np.uint64(0)
        for w in range(words.shape[0]):
            for k in range(words.shape[2]):
                ones = ones_of_bytes(words[w, row, k])  # LLVM knows this way of counting
                n += (ones * np.uint64(0x0101010101010101)) >> np.uint64(56)
        totals[row] = n


@njit(inline="always")
def active_bytes(bits):
    """A one in each byte of a uint64 that is not zero."""
    low = np.uint64(0x7F7F7F7F7F7F7F7F)
    return ((((bits & low) + low) | bits) >> np.uint64(7)) & np.uint64(0x0101010101010101)


@compiled
def count_channels(start, stop, words, kinds, spikes, active):
    """Add up the spikes and the active neurons of each channel, for each kind of row.

    `words` is [n_words, rows, channels / 8] uint64 with at most 31 words per neuron, and `kinds` is
    [rows]. `spikes` and `active` are [n_kinds, channels] int64. `start` and `stop` count eights of
    channels, so that no two threads write to the same place.
    """
    n_words, n_rows, width = words.shape[0], words.shape[1], stop - start
    most = 255 // (8 * n_words)  # rows whose counts fit into a byte
    sums, actives = np.zeros(width, np.uint64), np.zeros(width, np.uint64)
    union, first, begin = np.zeros(width, np.uint64), 8 * start, 0
    while begin < n_rows:
        kind, end = kinds[begin], begin + 1
        while end < min(begin + most, n_rows) and kinds[end] == kind:
            end += 1
        sums[:] = 0
        actives[:] = 0
        for row in range(begin, end):
            union[:] = 0
            for w in range(n_words):
                line = words[w, row, start:stop]
                for k in range(width):
                    union[k] |= line[k]
                    sums[k] += ones_of_bytes(line[k])
            for k in range(width):
                actives[k] += active_bytes(union[k])
        total, n_active = spikes[kind, first:], active[kind, first:]
        low, high = sums.view(np.uint8), actives.view(np.uint8)
        for c in range(8 * width):
            total[c] += low[c]
            n_active[c] += high[c]
        begin = end


@compiled
def burst(start, stop, counts, n_steps, words):
    """Words [n_words, n] of neurons that fire `counts` [n] times from the first step on."""
    for low in range(start, stop, CHUNK):
        high = min(low + CHUNK, stop)
        for w in range(words.shape[0]):
            most = min(8, n_steps - 8 * w)
            own, line = counts[low:high], words[w, low:high]
            for i in range(len(own)):
                n = min(max(np.int32(own[i]) - np.int32(8 * w), np.int32(0)), np.int32(most))
                line[i] = np.uint8((np.int32(1) << n) - np.int32(1))


@compiled
def sum_rows(start, stop, counts, totals):
    """totals = sum of each row of `counts`, [rows, C] uint8."""
    for row in range(start, stop):
        n = np.uint32(0)
        for c in range(counts.shape[1]):
            n += np.uint32(counts[row, c])
        totals[row] = n


@compiled
def sum_channels(start, stop, counts, kinds, spikes, active):
    """Add up the spikes and the active neurons of each channel, for each kind of row.

    `counts` is [rows, C] uint8 and `kinds` [rows]. `spikes` and `active` are [n_kinds, C] int64.
    `start` and `stop` count channels.
    """
    width, begin = stop - start, 0
    sums, actives = np.zeros(width, np.uint16), np.zeros(width, np.uint16)
    while begin < counts.shape[0]:
        kind, end = kinds[begin], begin + 1
        while end < min(begin + 257, counts.shape[0]) and kinds[end] == kind:
            end += 1  # 257 * 255 fits 16 bits
        sums[:] = 0
        actives[:] = 0
        for row in range(begin, end):
            line = counts[row, start:stop]
            for c in range(width):
                sums[c] += line[c]
                actives[c] += np.uint16(line[c] > 0)
        for c in range(width):
            spikes[kind, start + c] += sums[c]
            active[kind, start + c] += actives[c]
        begin = end


@compiled
def count_nonzero(start, stop, bits, starts, kinds, active):
    """Count the values that are not zero in each channel, for each kind of position.

    `bits` is [batch, channels, positions] uint32, the bits of float32. Positions from `starts[k]`
    to `starts[k + 1]` are of kind `kinds[k]`. `active` is [n_kinds, channels] int64. `start` and
    `stop` count channels.
    """
    for example in range(bits.shape[0]):
        for c in range(start, stop):
            for k in range(len(kinds)):
                line, n = bits[example, c, starts[k] : starts[k + 1]], np.uint32(0)
                for i in range(len(line)):
                    n += np.uint32((line[i] & np.uint32(0x7FFFFFFF)) != 0)  # the rest is the sign
                active[kinds[k], c] += n
