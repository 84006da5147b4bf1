"""The gpu engine: one Triton kernel per layer, with potentials and sums in registers throughout.

A program holds some positions times some output channels through the whole window. In each step it
gathers the words that reach them, multiplies the step's bits with the weights on the tensor cores,
integrates and fires. The only memory traffic is words and weights. In fixed-point form, products
are of int8 with int32 sums: inputs above 7 bits are split into digits of 7 bits. Float weights are
multiplied in full float32.

With TRITON_INTERPRET=1 set before import, the kernel runs on the CPU, very slowly: for tests.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# Triton turns arguments into constexpr, and static_range into a loop.

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikesep.spiking.engines.call import LayerCall, RowLayout
from spikesep.spiking.signal import Signal
from spikesep.spiking.synapses.table import ConnectionTable, JoinedTable

DIGIT = 7  # bits of an input that go into one int8 product
MANY = 2**20  # neurons from which programs of 64 positions still occupy every processor


def run(call: LayerCall, signals: Sequence[Signal]) -> Tensor:
    """Fire a layer's neurons for signals that spike: words [ceil(N_s / 8), batch, ...] uint8.

    With float weights, the order of additions differs from that of the other engines, and so does
    what it rounds.

    Raises:
        NotImplementedError: the synapse has no connection table.
    """
    layout = RowLayout.of(call, signals)
    first, *others = layout.sources
    sources = torch.stack(layout.sources) if others else first.contiguous()[None]
    device, plan, fixed = sources.device, layout.plan, call.fixed
    table, taps = _on_device(layout.connections, layout.batch, device)

    def arrange() -> Tensor:
        return layout.weight.permute(0, 2, 3, 1).contiguous()

    weight = arrange() if fixed is None else fixed.arranged("gpu", arrange)
    _, n_blocks, n_out, n_in = weight.shape
    n_positions, n_neurons = len(table), len(table) * n_blocks * n_out
    shape = (-(-layout.n_steps // 8), n_positions, n_blocks * n_out)
    out = torch.empty(shape, dtype=torch.uint8, device=device)
    most = int(max(layout.units)) * (layout.n_steps if layout.deferred else 1)
    rows_per_program, columns = 64 if n_neurons > MANY else 16, 64 if n_out > 32 else 32
    grid = (-(-n_positions // rows_per_program), -(-n_out // columns), n_blocks)
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
        len(layout.taps),
        n_in,
        n_out,
        len(sources),
        layout.n_steps,
        call.coding.beta,
        n_digits=0 if fixed is None else -(-most.bit_length() // DIGIT),
        leak_shift=0 if fixed is None else call.coding.leak_shift,
        leaks=call.coding.beta < 1,
        to_zero=call.coding.reset == "zero",
        deferred=layout.deferred,
        rows_at_once=rows_per_program,
        out_at_once=columns,
        in_at_once=64 if n_in > 32 else 32,
    )
    return layout.to_output([out])


@lru_cache(maxsize=64)
def _on_device(
    connections: ConnectionTable | JoinedTable, batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Table of a batch and taps on a device, copied once so that layers do not wait for it."""
    rows, taps = torch.from_numpy(connections.rows(batch)), torch.from_numpy(connections.taps)
    return rows.to(device), taps.to(device)


# Without this, the compiler would make a constant of a count of one.
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
    n_entries: tl.constexpr,  # loop bounds are compile-time constants
    n_in: tl.constexpr,
    n_out: tl.constexpr,
    n_sources: tl.constexpr,
    n_steps: tl.constexpr,
    beta,  # share of the potential that is kept, in floating point
    n_digits: tl.constexpr,  # of inputs in fixed-point form; 0: floating point
    leak_shift: tl.constexpr,  # of the leak in fixed-point form
    leaks: tl.constexpr,
    to_zero: tl.constexpr,  # whether a spike resets to zero
    deferred: tl.constexpr,
    rows_at_once: tl.constexpr,  # positions per program; then output and input channels at a time
    out_at_once: tl.constexpr,
    in_at_once: tl.constexpr,
):
    number = bias.dtype.element_ty
    n_words: tl.constexpr = (n_steps + 7) // 8
    group, n_groups = tl.program_id(2), tl.num_programs(2)
    p, c = (
        tl.program_id(0) * rows_at_once + tl.arange(0, rows_at_once),
        tl.program_id(1) * out_at_once + tl.arange(0, out_at_once),
    )
    neuron, here = group * n_out + c, c < n_out
    theta = tl.load(threshold + neuron, mask=here, other=1)[None, :]
    drift = tl.load(bias + neuron, mask=here, other=0)[None, :]
    potential = (
        tl.full((rows_at_once, out_at_once), 0, number)
        + tl.load(initial + neuron, mask=here, other=0)[None, :]
    )
    word = tl.full((rows_at_once, out_at_once), 0, tl.int32)
    size, out_size = (
        n_rows.to(tl.int64) * n_groups * n_in,
        n_positions.to(tl.int64) * n_groups * n_out,
    )
    for t in range(n_steps):
        if leaks:
            leaked = potential * beta if n_digits == 0 else potential - (potential >> leak_shift)
            potential = leaked
        if (not deferred) or t == 0:
            total = tl.full((rows_at_once, out_at_once), 0, number)
            for e in range(n_entries):
                row = tl.load(table + p * n_entries + e, mask=p < n_positions, other=-1).to(
                    tl.int64
                )
                tap = tl.load(taps + e)
                for first in range(0, n_in, in_at_once):
                    k = first + tl.arange(0, in_at_once)
                    valid = (row >= 0)[:, None] & (k < n_in)[None, :]
                    at = row[:, None] * (n_groups * n_in) + (group * n_in + k)[None, :]
                    units = tl.full((rows_at_once, in_at_once), 0, number)
                    for source in range(n_sources):
                        arrived = tl.full((rows_at_once, in_at_once), 0, tl.int32)
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
        if to_zero:
            potential = tl.where(fires, 0, potential)
        else:
            potential = tl.where(fires, potential - theta, potential)
        word = tl.where(t % 8 == 0, 0, word) | (fires.to(tl.int32) << (t % 8))
        if (t % 8 == 7) | (t == n_steps - 1):
            out_at = (
                t // 8 * out_size + p[:, None].to(tl.int64) * (n_groups * n_out) + neuron[None, :]
            )
            tl.store(
                out + out_at, word.to(tl.uint8), mask=(p < n_positions)[:, None] & here[None, :]
            )
