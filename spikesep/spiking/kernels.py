"""Loops over bit words that torch has no operation for, compiled by numba: each is one pass over memory.

Arrays are flat: words are [n_words, n] uint8, currents and drives [N_s, n]. Floating-point arrays come as their bits,
uint32 for float32 and uint16 for bfloat16 (numpy has no such type), so that one kernel serves both.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from threading import Lock

import numpy as np
import torch
from numba import njit
from numba.core.registry import cpu_target

CHUNK = 4096  # neurons at a time: their buffers stay in the first-level cache

PARTS = 4  # of a thread's share

BITS = np.array([value.bit_count() for value in range(256)], np.uint8)  # of a byte

_pool: ThreadPoolExecutor | None = None


def compiled(function: Callable) -> Callable:
    """`njit` that lets other threads run; kept on disk, but where neither the package nor the home can be written."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


def has(feature: str) -> bool:
    """Whether loops are compiled for a processor with a feature, in LLVM's words ("avx512bw")."""
    return f"+{feature}" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


def run(kernel: Callable[..., None], n: int, *arguments, grain: int = CHUNK) -> None:
    """kernel(start, stop, *arguments) over 0..n, shared out among as many threads as torch uses.

    Each takes part after part, of at least `grain`, so that none waits for one that began late or lost its core.
    """
    global _pool
    n_threads = max(1, min(torch.get_num_threads(), n // grain))
    if n_threads > 1 and (_pool is None or _pool._max_workers < n_threads - 1):
        _pool = ThreadPoolExecutor(n_threads - 1, thread_name_prefix="spikesep")
    n_parts = min(n_threads * PARTS, n // grain) if n_threads > 1 else 1
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
        begun = [other for other in others if not other.cancel()]  # too late to help, where it was to begin yet
        wait(begun)
    for other in begun:
        other.result()


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_forget_pool)


@compiled
def fire(start, stop, current, shift, threshold, initial_potential, n_steps, words):
    """Integrate-and-fire (eqs. 3-5) from currents to words; a current of one row is the same in every step.

    `shift` makes a current's bits those of a float32: 0 for float32, 16 for bfloat16.
    """
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
            for i in range(n):
                v = potential[i] + z[i]
                fires = v >= threshold
                potential[i] = v - threshold if fires else v
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
                    out[t, low + i] = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> 16) & np.uint32(1))) >> 16
            else:
                for i in range(n):
                    out[t, low + i] = bits[i]


@compiled
def count(start, stop, words, out):
    """out = spikes of each neuron."""
    for low in range(start, stop, CHUNK):
        n = min(CHUNK, stop - low)
        out[low : low + n] = 0
        for w in range(words.shape[0]):
            word = words[w, low : low + n]
            for i in range(n):
                out[low + i] += BITS[word[i]]
