"""Spike trains as bit words: bit t of a neuron's words is its spike in step t.

With N_s = 8 a neuron takes one byte. Spikes are fired, counted and transmitted as words. On a CPU
the work is done by `spikesep.spiking.spike_trains.kernels`; on other devices torch gives the same
numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spikesep.neuron_options import Reset
from spikesep.spiking.neuron import integrate_and_fire, spike_count
from spikesep.spiking.spike_trains import kernels

EIGHTS = 8
"""Least width of the channels that one thread counts, in eights: a line of the cache."""
BITS_AS = {torch.float32: (torch.int32, np.uint32, 0), torch.bfloat16: (torch.int16, np.uint16, 16)}


def pack(spikes: Tensor) -> Tensor:
    """Pack spikes into words: [N_s, ...] bool -> [ceil(N_s / 8), ...] uint8.

    Bit t % 8 of word t // 8 is the spike in step t.
    """
    n_steps = spikes.shape[0]
    words = torch.zeros(
        -(-n_steps // 8), *spikes.shape[1:], dtype=torch.uint8, device=spikes.device
    )
    for t in range(n_steps):
        words[t // 8] |= spikes[t].to(torch.uint8) << (t % 8)
    return words


def unpack(words: Tensor, n_steps: int) -> Tensor:
    """Inverse of `pack`: [ceil(N_s / 8), ...] uint8 -> [N_s, ...] bool."""
    spikes = torch.empty(n_steps, *words.shape[1:], dtype=torch.uint8, device=words.device)
    for t in range(n_steps):
        torch.bitwise_right_shift(words[t // 8], t % 8, out=spikes[t]).bitwise_and_(1)
    return spikes.view(torch.bool)  # bytes of 0 and 1 are bools already


def integrate(
    current: Tensor,
    threshold: float,
    initial_potential: float,
    *,
    reset: Reset = "subtract",
    beta: float = 1.0,
) -> Tensor:
    """Words of the spikes that `integrate_and_fire` gives.

    Args:
        current: [N_s, ...]; a current that is the same in every step may be an expanded view.
        threshold: firing threshold.
        initial_potential: V[0].
        reset: what a spike does to the potential.
        beta: share of the potential that is kept from one step to the next.

    Returns:
        [ceil(N_s / 8), ...] uint8.
    """
    current = current if current.dtype in BITS_AS else current.float()
    if current.device.type != "cpu":
        spikes, _ = integrate_and_fire(
            current.float(), threshold, initial_potential, reset=reset, beta=beta
        )
        return pack(spikes)
    n_steps, shape = len(current), current.shape[1:]
    rows = current[:1] if current.stride(0) == 0 else current
    words = torch.empty(-(-n_steps // 8), *shape, dtype=torch.uint8)
    bits, shift = _bits(rows.contiguous())
    arguments = (
        bits,
        np.uint32(shift),
        np.float32(threshold),
        np.float32(initial_potential),
        np.float32(beta),
        reset == "zero",
        n_steps,
        _flat(words),
    )
    kernels.run(kernels.integrate, shape.numel(), *arguments)
    return words


@dataclass(frozen=True)
class Bursts:
    """Spikes of neurons that fire in consecutive steps from the first, as deferred neurons do.

    Attributes:
        counts: within 0..N_s, [batch, ...]; in fixed-point form uint8 where N_s allows, else
            int32.
    """

    counts: Tensor


def burst(counts: Tensor, n_steps: int) -> Tensor:
    """Words of neurons that fire `counts` times in consecutive steps from the first.

    Args:
        counts: integers, clamped to 0..N_s, [batch, ...] or any shape.
        n_steps: N_s.

    Returns:
        [ceil(N_s / 8), ...] uint8, in memory in the order of `counts`.
    """
    if counts.device.type != "cpu":
        counts, firsts = counts.to(torch.int32), range(0, n_steps, 8)
        runs = [(counts - first).clamp(0, min(8, n_steps - first)) for first in firsts]
        return torch.stack([((1 << run) - 1).to(torch.uint8) for run in runs])
    last = counts.movedim(1, -1) if counts.ndim > 2 else counts
    is_turned = last.is_contiguous() and not counts.is_contiguous()
    ordered = last if is_turned else counts.contiguous()
    words = torch.empty(-(-n_steps // 8), *ordered.shape, dtype=torch.uint8)
    kernels.run(kernels.burst, counts.numel(), ordered.view(-1).numpy(), n_steps, _flat(words))
    return words.movedim(-1, 2) if is_turned else words


def count(words: Tensor) -> Tensor:
    """Spikes of each neuron (eq. 6): [n_words, ...] uint8 -> [...] int32."""
    return collect([words], [1], torch.int32)


def collect(words: Sequence[Tensor], factors: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Sum of factor * spikes over several sources in the whole window.

    Args:
        words: words of each source, [n_words, ...] uint8.
        factors: one per source.
        dtype: of the result; it must hold all sums.

    Returns:
        [...].
    """
    shape = words[0].shape[1:]
    if words[0].device.type != "cpu":
        total = torch.zeros(shape, dtype=dtype, device=words[0].device)
        for source, factor in zip(words, factors, strict=True):
            total += (spike_count(unpack(source, 8 * len(source))) * factor).to(dtype)
        return total
    out = torch.empty(shape, dtype=dtype)
    flat = out.view(-1).numpy()
    kernels.run(kernels.collect, len(flat), _stacked(words), np.array(factors, flat.dtype), flat)
    return out


def count_positions(words: Tensor) -> Tensor:
    """Spikes of all channels at each position.

    Args:
        words: [n_words, batch, C, ...] uint8.

    Returns:
        [batch, 1, ...] int64.
    """
    if words.device.type != "cpu":
        return count(words).sum(1, keepdim=True)
    rows = contiguous(words.movedim(2, -1)).numpy()
    if rows.shape[-1] % 8:
        totals = np.bitwise_count(rows).sum((0, -1), dtype=np.int64)
    else:
        totals, eights = np.empty(rows.shape[1:-1], np.int64), rows.view(np.uint64)
        kernels.run(
            kernels.count_rows,
            totals.size,
            eights.reshape(len(rows), totals.size, eights.shape[-1]),
            totals.reshape(-1),
            grain=1024,
        )
    return torch.from_numpy(totals)[:, None]


def count_channels(rows: Tensor, kinds: np.ndarray, n_kinds: int) -> tuple[Tensor, Tensor]:
    """Spikes and active neurons, those that spike at least once, by channel and kind of row.

    Args:
        rows: words, [n_words, rows, C] uint8.
        kinds: kind of each row, [rows] int64.
        n_kinds: number of kinds.

    Returns:
        Two tensors [n_kinds, C] int64, on the CPU.
    """
    n_words, _, n_channels = rows.shape
    if rows.device.type != "cpu" or n_channels % 8 or n_words > 31:
        counts, index = count(rows), torch.from_numpy(kinds).to(rows.device)
        return _summed(counts, index, n_kinds), _summed(counts > 0, index, n_kinds)
    spikes, active = (np.zeros((n_kinds, n_channels), np.int64) for _ in range(2))
    eights = contiguous(rows).numpy().view(np.uint64)
    kernels.run(
        kernels.count_channels, n_channels // 8, eights, kinds, spikes, active, grain=EIGHTS
    )
    return torch.from_numpy(spikes), torch.from_numpy(active)


def sum_positions(counts: Tensor) -> Tensor:
    """Sums of spike counts over all channels, [batch, C, ...] -> [batch, 1, ...] int64."""
    if counts.device.type != "cpu" or counts.dtype != torch.uint8:
        return counts.sum(1, keepdim=True, dtype=torch.int64)
    rows = contiguous(counts.movedim(1, -1)).numpy()
    totals = np.empty(rows.shape[:-1], np.int64)
    rows = rows.reshape(totals.size, rows.shape[-1])
    kernels.run(kernels.sum_rows, len(rows), rows, totals.reshape(-1), grain=1024)
    return torch.from_numpy(totals)[:, None]


def sum_channels(rows: Tensor, kinds: np.ndarray, n_kinds: int) -> tuple[Tensor, Tensor]:
    """What `count_channels` gives, for spike counts.

    Args:
        rows: spike counts, [rows, C].
        kinds: kind of each row, [rows] int64.
        n_kinds: number of kinds.

    Returns:
        Spikes and active neurons, [n_kinds, C] int64, on the CPU.
    """
    if rows.device.type != "cpu" or rows.dtype != torch.uint8:
        index = torch.from_numpy(kinds).to(rows.device)
        return _summed(rows, index, n_kinds), _summed(rows > 0, index, n_kinds)
    n_channels = rows.shape[1]
    spikes, active = (np.zeros((n_kinds, n_channels), np.int64) for _ in range(2))
    values = contiguous(rows).numpy()
    kernels.run(kernels.sum_channels, n_channels, values, kinds, spikes, active, grain=8 * EIGHTS)
    return torch.from_numpy(spikes), torch.from_numpy(active)


def _summed(values: Tensor, kinds: Tensor, n_kinds: int) -> Tensor:
    """Sums of rows [rows, C] by kind, [n_kinds, C] int64, on the CPU."""
    totals = torch.zeros(n_kinds, values.shape[1], dtype=torch.int64, device=values.device)
    return totals.index_add_(0, kinds, values.long()).cpu()


def count_nonzero(values: Tensor, kinds: np.ndarray, n_kinds: int) -> Tensor:
    """Values that are not zero, by channel and kind of position.

    Args:
        values: [batch, C, positions], float.
        kinds: kind of each position, [positions] int64.
        n_kinds: number of kinds.

    Returns:
        [n_kinds, C] int64, on the CPU.
    """
    if values.device.type != "cpu" or values.dtype != torch.float32:
        totals = torch.zeros(n_kinds, values.shape[1], dtype=torch.int64, device=values.device)
        index = torch.from_numpy(kinds).to(values.device)
        return totals.index_add_(0, index, (values != 0).sum(0).T).cpu()
    changes = np.flatnonzero(np.diff(kinds)) + 1
    starts = np.concatenate([[0], changes, [len(kinds)]])
    active = np.zeros((n_kinds, values.shape[1]), np.int64)
    bits = values.detach().contiguous().view(torch.int32).numpy().view(np.uint32)
    kernels.run(
        kernels.count_nonzero, values.shape[1], bits, starts, kinds[starts[:-1]], active, grain=32
    )
    return torch.from_numpy(active)


def drive(
    words: Sequence[Tensor], thresholds: Sequence[float], n_steps: int, dtype: torch.dtype
) -> Tensor:
    """Sum of threshold * spike over several sources in each step, added up in float32.

    Args:
        words: words of each source, [ceil(N_s / 8), ...] uint8.
        thresholds: one per source.
        n_steps: N_s.
        dtype: of the result.

    Returns:
        [N_s, ...].

    Raises:
        ValueError: a source has words for another number of steps.
    """
    if any(len(source) != -(-n_steps // 8) for source in words):
        raise ValueError(
            f"sources of at most {[8 * len(w) for w in words]} steps cannot send {n_steps}"
        )
    shape = words[0].shape[1:]
    if words[0].device.type != "cpu" or dtype not in BITS_AS:
        total = torch.zeros(n_steps, *shape, device=words[0].device)
        for source, threshold in zip(words, thresholds, strict=True):
            total.add_(unpack(source, n_steps), alpha=threshold)
        return total.to(dtype)
    out = torch.empty(n_steps, *shape, dtype=dtype)
    kernels.run(
        kernels.drive,
        shape.numel(),
        _stacked(words),
        np.array(thresholds, np.float32),
        _bits(out)[0],
    )
    return out


def contiguous(words: Tensor) -> Tensor:
    """`words.contiguous()`, on a CPU in one thread.

    Torch's threads, once woken, spin for milliseconds on the cores that the next loops need.
    """
    if words.is_contiguous() or words.device.type != "cpu":
        return words.contiguous()
    return torch.from_numpy(np.ascontiguousarray(words.numpy()))


def _stacked(words: Sequence[Tensor]) -> np.ndarray:
    """Words of several sources as one array, [n_sources, n_words, n]."""
    flat = [_flat(contiguous(source)) for source in words]
    return flat[0][None] if len(flat) == 1 else np.stack(flat)


def _flat(words: Tensor) -> np.ndarray:
    return words.view(len(words), words.shape[1:].numel()).numpy()


def _bits(values: Tensor) -> tuple[np.ndarray, int]:
    """The bits of values [N_s, ...] as [N_s, n] unsigned integers, and their shift to float32."""
    signed, unsigned, shift = BITS_AS[values.dtype]
    flat = values.view(signed).view(len(values), values.shape[1:].numel())
    return flat.numpy().view(unsigned), shift
