"""The gpu engine: a layer is one Triton kernel, in which potentials and sums never leave the registers.

A program holds some positions times some output channels through the whole window. In each step it gathers the words
that reach them, takes the step's bits times the weights on the tensor cores, integrates and fires; the only memory
traffic is words and weights. In the fixed-point form products are of int8 with int32 sums, whatever arrives: what does
not fit 7 bits comes in digits of 7 bits. Float weights are multiplied in full float32.

With TRITON_INTERPRET=1 in the environment before this is imported, the kernel runs on the CPU, very slowly: for tests.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from spikesep.spiking.connections import Connections
from spikesep.spiking.engines.call import Job
from spikesep.spiking.signal import Signal

DIGIT = 7  # bits of what arrives that go into one int8 product
MANY = 2**20  # neurons from which programs of many positions still give every processor work


def fire(layer: nn.Module, signal: Signal) -> Tensor:
    """Words of the layer's neurons, [ceil(N_s / 8), batch, ...] uint8, for a signal that spikes.

    Behind float weights, what the order of additions rounds differs from the other engines'.

    Raises:
        NotImplementedError: a geometry without a table of connections.
    """
    job = Job.of(layer, signal)
    sources = (
        torch.stack(job.sources) if len(job.sources) > 1 else job.sources[0].contiguous()[None]
    )
    device, plan, fixed = sources.device, job.plan, layer.fixed
    table, taps = _on_device(job.connections, job.batch, device)

    def arrange():
        return job.weight.permute(0, 2, 3, 1).contiguous()

    weight = arrange() if fixed is None else fixed.arranged("gpu", arrange)
    _, n_groups, n_out, n_in = weight.shape
    n_positions = len(table)
    out = torch.empty(
        -(-job.n_steps // 8), n_positions, n_groups * n_out, dtype=torch.uint8, device=device
    )
    most = int(plan.factors.sum()) * (job.n_steps if job.deferred else 1)
    rows_a_program, columns = (
        64 if n_positions * n_groups * n_out > MANY else 16,
        64 if n_out > 32 else 32,
    )
    grid = (-(-n_positions // rows_a_program), -(-n_out // columns), n_groups)
    _layer[grid](
        sources,
        table,
        taps,
        weight,
        torch.from_numpy(plan.factors).to(device),
        plan.bias,
        plan.threshold,
        plan.initial,
        out,
        n_positions,
        sources.shape[2],
        int(plan.gain) if fixed is not None else 1.0,
        len(job.taps),
        n_in,
        n_out,
        len(sources),
        job.n_steps,
        n_digits=0 if fixed is None else -(-most.bit_length() // DIGIT),
        deferred=job.deferred,
        at_once=rows_a_program,
        out_at_once=columns,
        in_at_once=64 if n_in > 32 else 32,
    )
    return job.words([out])


@lru_cache(maxsize=64)
def _on_device(connections: Connections, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows that reach each output position of a batch, and their taps: copied once, so that layers need not wait."""
    return tuple(
        torch.from_numpy(array).to(device) for array in (connections.rows(batch), connections.taps)
    )


# A count of one, which the compiler would take for a constant, stays a number like others.
@triton.jit(do_not_specialize=["n_positions", "n_rows"])
def _layer(
    words,  # [n_sources, n_words, n_rows, n_groups * n_in] uint8
    table,  # [n_positions, n_entries] int32
    taps,  # [n_entries] int32
    weight,  # [n_taps, n_groups, n_out, n_in] int8 or float32
    factors,  # [n_sources] int32 or float32
    bias,  # and threshold, initial: [n_groups * n_out]
    threshold,
    initial,
    out,  # [n_words, n_positions, n_groups * n_out] uint8
    n_positions,
    n_rows,
    gain,
    n_entries: tl.constexpr,  # what loops run over is known to the compiler
    n_in: tl.constexpr,
    n_out: tl.constexpr,
    n_sources: tl.constexpr,
    n_steps: tl.constexpr,
    n_digits: tl.constexpr,  # of what arrives in fixed-point form; 0: floating point
    deferred: tl.constexpr,
    at_once: tl.constexpr,  # positions of a program; output and input channels at a time
    out_at_once: tl.constexpr,
    in_at_once: tl.constexpr,
):
    number = bias.dtype.element_ty
    n_words: tl.constexpr = (n_steps + 7) // 8
    group, n_groups = tl.program_id(2), tl.num_programs(2)
    p, c = (
        tl.program_id(0) * at_once + tl.arange(0, at_once),
        tl.program_id(1) * out_at_once + tl.arange(0, out_at_once),
    )
    neuron, here = group * n_out + c, c < n_out
    theta = tl.load(threshold + neuron, mask=here, other=1)[None, :]
    drift = tl.load(bias + neuron, mask=here, other=0)[None, :]
    potential = (
        tl.full((at_once, out_at_once), 0, number)
        + tl.load(initial + neuron, mask=here, other=0)[None, :]
    )
    word = tl.full((at_once, out_at_once), 0, tl.int32)
    size, out_size = (
        n_rows.to(tl.int64) * n_groups * n_in,
        n_positions.to(tl.int64) * n_groups * n_out,
    )
    for t in range(n_steps):
        if (not deferred) or t == 0:
            total = tl.full((at_once, out_at_once), 0, number)
            for e in range(n_entries):
                row = tl.load(table + p * n_entries + e, mask=p < n_positions, other=-1).to(
                    tl.int64
                )
                tap = tl.load(taps + e)
                for first in range(0, n_in, in_at_once):
                    k = first + tl.arange(0, in_at_once)
                    valid = (row >= 0)[:, None] & (k < n_in)[None, :]
                    at = row[:, None] * (n_groups * n_in) + (group * n_in + k)[None, :]
                    units = tl.full((at_once, in_at_once), 0, number)
                    for source in range(n_sources):
                        arrived = tl.full((at_once, in_at_once), 0, tl.int32)
                        plane = source * n_words * size
                        if deferred:
                            for w in range(n_words):
                                bits = tl.load(
                                    words + plane + w * size + at, mask=valid, other=0
                                ).to(tl.int32)
                                bits = bits - ((bits >> 1) & 0x55)  # counts the ones of a byte
                                bits = (bits & 0x33) + ((bits >> 2) & 0x33)
                                arrived += (bits + (bits >> 4)) & 0x0F
                        else:
                            bits = tl.load(
                                words + plane + (t // 8) * size + at, mask=valid, other=0
                            ).to(tl.int32)
                            arrived += (bits >> (t % 8)) & 1
                        units += arrived.to(number) * tl.load(factors + source)
                    matrix_at = (
                        (tap * n_groups + group) * n_out * n_in + c[None, :] * n_in + k[:, None]
                    )
                    matrix = tl.load(
                        weight + matrix_at, mask=here[None, :] & (k < n_in)[:, None], other=0
                    )
                    if n_digits == 0:
                        total = tl.dot(units, matrix, total, input_precision="ieee")
                    else:
                        for d in tl.static_range(n_digits):
                            digit = ((units >> (7 * d)) & 127).to(tl.int8)
                            total += tl.dot(digit, matrix) << (7 * d)
            potential += total * gain + (drift * n_steps if deferred else drift)
        fires = potential >= theta
        potential = tl.where(fires, potential - theta, potential)
        word = tl.where(t % 8 == 0, 0, word) | (fires.to(tl.int32) << (t % 8))
        if (t % 8 == 7) | (t == n_steps - 1):
            out_at = (
                t // 8 * out_size + p[:, None].to(tl.int64) * (n_groups * n_out) + neuron[None, :]
            )
            tl.store(
                out + out_at, word.to(tl.uint8), mask=(p < n_positions)[:, None] & here[None, :]
            )
