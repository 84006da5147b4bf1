"""What an analog input sends to the first layer in fixed-point form: integers of up to 12 bits.

Where the processor has int8 products, an integer is split into two of 6 bits for them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spikesep.compilation import compiled
from spikesep.spiking.engines import int8_products
from spikesep.spiking.engines.call import LayerCall
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.spike_trains import kernels

HALF_BITS, HALF = 6, 2**6
MIDDLE = HALF * HALF // 2
"""Added to an integer, so that both of its halves are within 0..63."""


def arriving(call: LayerCall, fixed: FixedPoint, values: Sequence[Tensor]) -> Tensor:
    """Sums of weighted inputs, as rows [batch, ..., C_out] int32.

    Args:
        call: the layer.
        fixed: its integers.
        values: the input of each synapse, [batch, ...].
    """
    weights = _halved(call, fixed, values)
    if weights is not None:
        return _of_halves(call, fixed, values[0], *weights)
    levels = int(fixed.input_levels)
    total = torch.zeros((), dtype=torch.int32, device=values[0].device)
    given = zip(call.projections, values, fixed.weights, fixed.shifts, strict=True)
    for projection, value, weight, shift in given:
        units = (value.double() / fixed.input_unit).round().clamp(-levels, levels)
        of_part = projection.connectivity
        if of_part.before is not None:  # a sum of units, not their mean
            units = (of_part.pool(units) * float(of_part.divisor)).round()
        products = of_part.project(units, weight.double(), units.new_zeros(len(weight)))
        total = total + (products.round().to(torch.int32) << shift)  # exact in float64
    return total if call.connectivity.out_channels_last else total.movedim(1, -1)


def _halved(
    call: LayerCall, fixed: FixedPoint, values: Sequence[Tensor]
) -> tuple[int8_products.Int8Weights, np.ndarray] | None:
    """Weights for halves of integers, and what `MIDDLE` adds to each sum.

    None where int8 products cannot be had, or where padding would need a `MIDDLE` of its own.
    """
    connectivity, value = call.connectivity, values[0]
    if (
        len(values) > 1
        or connectivity.groups > 1
        or connectivity.before is not None
        or not connectivity.has_table
        or value.device.type != "cpu"
        or value.dtype != torch.float32
        or int(fixed.input_levels) >= MIDDLE
    ):
        return None
    table = connectivity.table(value.shape[1:])
    if table.table.min(initial=0) < 0 or len(table.taps) != table.n_taps:
        return None
    instructions = int8_products.instruction_set()

    def arrange() -> tuple[int8_products.Int8Weights | None, np.ndarray]:
        taps = connectivity.tap_matrices(fixed.weight, table.n_taps).contiguous().numpy()
        offsets = MIDDLE * taps.sum((0, 1), dtype=np.int64)
        return int8_products.pack(taps, HALF - 1, instructions), offsets.astype(np.int32)

    weights, offsets = fixed.arranged(("halves", table.n_taps, instructions), arrange)
    return None if weights is None else (weights, offsets)


def _of_halves(
    call: LayerCall,
    fixed: FixedPoint,
    value: Tensor,
    weights: int8_products.Int8Weights,
    offsets: np.ndarray,
) -> Tensor:
    connectivity = call.connectivity
    connections = connectivity.table(value.shape[1:])
    rows = connectivity.to_rows(value[None])[0].contiguous().numpy()
    low, high = (np.empty(rows.shape, np.uint8) for _ in range(2))
    unit, levels = float(fixed.input_unit), float(fixed.input_levels)
    kernels.run(_halve, len(rows), rows, unit, levels, low, high, grain=64)
    table = connections.rows(len(value))
    sums = [np.empty((len(table), weights.n_out), np.int32) for _ in range(2)]
    for half, out in zip((low, high), sums, strict=True):
        int8_products.multiply(weights, half, table, connections.taps, out)
    kernels.run(_join, len(table), *sums, offsets, grain=64)
    return torch.from_numpy(sums[0]).view(len(value), *connections.shape, weights.n_out)


@compiled
def _halve(start, stop, rows, unit, levels, low, high):
    """The halves of inputs [rows, C], rounded to integers as torch does, ties to even."""
    for p in range(start, stop):
        for c in range(rows.shape[1]):
            n = np.rint(np.float64(rows[p, c]) / unit)
            whole = np.int32(min(max(n, -levels), levels)) + np.int32(MIDDLE)
            low[p, c] = np.uint8(whole & np.int32(HALF - 1))
            high[p, c] = np.uint8(whole >> np.int32(HALF_BITS))


@compiled
def _join(start, stop, low, high, offsets):
    """Sums of whole integers from those of their halves, in place of `low`, [positions, C_out]."""
    for p in range(start, stop):
        for j in range(low.shape[1]):
            low[p, j] += (high[p, j] << np.int32(HALF_BITS)) - offsets[j]
