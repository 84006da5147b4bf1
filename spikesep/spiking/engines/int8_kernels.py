"""Compiled loops over products of uint8 inputs and int8 weights, in LLVM: sums stay in registers.

VNNI multiplies four neighboring inputs by their weights and adds them to an int32. AVX2 adds two
products into an int16, which saturates; sums of as many products as can never leave 16 bits, by the
weights at hand, are then widened.
"""
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# An intrinsic is called without its typing context, which numba supplies.

from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from spikesep.compilation import compiled
from spikesep.spiking.engines.event_lists import spread

FOUR = 4  # inputs that one instruction multiplies and adds up
CHUNK = 96  # positions whose inputs stay in the second-level cache for all tiles of weights


@dataclass(frozen=True)
class Shape:
    """What one instruction set keeps in registers.

    Attributes:
        rows: positions.
        width: output channels.
        lanes: int32 in a vector.
    """

    rows: int
    width: int
    lanes: int


VNNI, AVX2 = Shape(6, 64, 16), Shape(4, 16, 8)


@intrinsic
def _multiply(typing_context, x, silence, table, taps, tiles, tile, first, last, run, sums):
    """sums[r] = sum over entries e of x[table[p, e]] @ weights[taps[e]], p = min(first + r, last).

    For one tile of output channels. `x` is [rows, n] uint8 with n a multiple of 4, `silence` the
    row that stands for -1 in the table; `sums` is [rows of the shape, width] int32.
    """

    def generate(context, builder, signature, arguments):
        index, word, byte = ir.IntType(64), ir.IntType(32), ir.IntType(8)
        arrays = [
            context.make_array(signature.args[k])(context, builder, arguments[k])
            if isinstance(signature.args[k], types.Array)
            else None
            for k in range(len(arguments))
        ]
        x, silence, table, taps, tiles, _, _, _, _, sums = arrays
        tile, first, last, run = arguments[5:9]
        has_vnni = signature.args[4].dtype == types.int32
        shape = VNNI if has_vnni else AVX2
        n_vectors = shape.width // shape.lanes
        total = ir.VectorType(word, shape.lanes)
        bytes_of = ir.VectorType(byte, FOUR * shape.lanes)
        halves = ir.VectorType(ir.IntType(16), 2 * shape.lanes)
        row_bytes = cgutils.unpack_tuple(builder, x.shape)[1]
        n_entries = cgutils.unpack_tuple(builder, table.shape)[1]
        _, n_taps, n_fours, *_ = cgutils.unpack_tuple(builder, tiles.shape)
        weights = builder.bitcast(tiles.data, byte.as_pointer())
        four_bytes = index(FOUR * shape.width)
        tap_bytes = builder.mul(n_fours, four_bytes)

        def function(name, result, *given):
            kind = ir.FunctionType(result, given)
            return cgutils.get_or_insert_function(builder.module, kind, name)

        if has_vnni:
            multiply_add = function("llvm.x86.avx512.vpdpbusd.512", total, total, total, total)
        else:
            multiply = function("llvm.x86.avx2.pmadd.ub.sw", halves, bytes_of, bytes_of)
            widen = function("llvm.x86.avx2.pmadd.wd", total, halves, halves)

        def out(r, v):
            at = builder.gep(sums.data, [index(r * shape.width + v * shape.lanes)])
            return builder.bitcast(at, total.as_pointer())

        places = [(r, v) for r in range(shape.rows) for v in range(n_vectors)]
        for r, v in places:
            builder.store(ir.Constant(total, None), out(r, v), align=4)

        def loop(name, stop, step=None):
            """Begin a loop; returns its number, its head and what ends it."""
            entry = builder.block
            head, body, end = (builder.append_basic_block(f"{name}.{k}") for k in "hbe")
            builder.branch(head)
            builder.position_at_end(head)
            i = builder.phi(index)
            i.add_incoming(index(0), entry)

            def enter():
                builder.cbranch(builder.icmp_signed("<", i, stop), body, end)
                builder.position_at_end(body)

            def leave():
                i.add_incoming(builder.add(i, step or index(1)), builder.block)
                builder.branch(head)
                builder.position_at_end(end)

            return i, entry, enter, leave

        positions = []
        for r in range(shape.rows):
            p = builder.add(first, index(r))
            positions.append(builder.select(builder.icmp_signed("<", p, last), p, last))
        e, _, enter, leave_entries = loop("entry", n_entries)
        enter()
        rows = []
        for p in positions:
            at = builder.gep(table.data, [builder.add(builder.mul(p, n_entries), e)])
            q = builder.sext(builder.load(at), index)
            there = builder.gep(x.data, [builder.mul(q, row_bytes)])
            is_silent = builder.icmp_signed("<", q, index(0))
            rows.append(builder.select(is_silent, silence.data, there))
        tap = builder.sext(builder.load(builder.gep(taps.data, [e])), index)
        number = builder.add(builder.mul(tile, n_taps), tap)
        base = builder.gep(weights, [builder.mul(number, tap_bytes)])

        def inputs(r, k):
            at = builder.gep(rows[r], [builder.mul(k, index(FOUR))])
            four = builder.load(builder.bitcast(at, word.as_pointer()), align=1)
            return spread(builder, four, shape.lanes)

        def weight(k, v):
            offset = builder.add(builder.mul(k, four_bytes), index(v * FOUR * shape.lanes))
            at = builder.gep(base, [offset])
            return builder.load(builder.bitcast(at, total.as_pointer()), align=1)

        def multiply_fours(begin, stop, kind, starts):
            """Sums over fours begin..stop, in registers."""
            k, entry, enter, leave = loop("four", builder.sub(stop, begin))
            found = [builder.phi(kind) for _ in places]
            for phi, start in zip(found, starts, strict=True):
                phi.add_incoming(start, entry)
            enter()
            at = builder.add(begin, k)
            vectors = [weight(at, v) for v in range(n_vectors)]
            after = []
            for r in range(shape.rows):
                own = inputs(r, at)
                for v in range(n_vectors):
                    before = found[r * n_vectors + v]
                    if has_vnni:
                        after.append(builder.call(multiply_add, [before, own, vectors[v]]))
                    else:
                        those = [builder.bitcast(each, bytes_of) for each in (own, vectors[v])]
                        after.append(builder.add(before, builder.call(multiply, those)))
            for phi, value in zip(found, after, strict=True):
                phi.add_incoming(value, builder.block)
            leave()
            return found

        if has_vnni:
            before = [builder.load(out(r, v), align=4) for r, v in places]
            for (r, v), value in zip(
                places, multiply_fours(index(0), n_fours, total, before), strict=True
            ):
                builder.store(value, out(r, v), align=4)
        else:
            ones = ir.Constant(halves, [1] * 2 * shape.lanes)
            begin, _, enter, leave = loop("run", n_fours, run)
            enter()
            stop = builder.add(begin, run)
            stop = builder.select(builder.icmp_signed("<", stop, n_fours), stop, n_fours)
            silent = [ir.Constant(halves, None)] * len(places)
            for (r, v), value in zip(
                places, multiply_fours(begin, stop, halves, silent), strict=True
            ):
                wide = builder.call(widen, [value, ones])
                builder.store(
                    builder.add(builder.load(out(r, v), align=4), wide), out(r, v), align=4
                )
            leave()
        leave_entries()
        return context.get_dummy_value()

    number = types.int64
    return types.void(
        x, silence, table, taps, tiles, number, number, number, number, sums
    ), generate


@njit(inline="always")
def burst_counts(arriving, gain, initial, threshold, inverse, n_steps, charge, counts):
    """counts[j] = how often the threshold fits into what has arrived, at most N_s.

    The quotient in float32 is off by one at most, because it is at most 255: the rest tells.
    """
    most = np.float32(n_steps)
    for j in range(len(counts)):
        charge[j] = arriving[j] * gain + initial[j]
    for j in range(len(counts)):
        n = np.int32(min(max(np.float32(charge[j]) * inverse[j], np.float32(0)), most))
        rest = np.int32(charge[j] - n * threshold[j])
        n += np.int32(rest >= threshold[j]) - np.int32(rest < 0)
        counts[j] = np.uint8(min(max(n, np.int32(0)), np.int32(n_steps)))


@compiled
def fire_counts(
    start, stop, x, table, taps, tiles, run, n_rows, gain, initial, threshold, n_steps, counts
):
    """Deferred neurons: `counts` [positions, C_out] for the inputs `x` of a whole window."""
    width, n_out = tiles.shape[3], counts.shape[1]
    silence = np.zeros(x.shape[1], np.uint8)
    sums, charge = np.empty((n_rows, width), np.int32), np.empty(width, np.int32)
    inverse = np.float32(1) / threshold.astype(np.float32)
    for low in range(start, stop, CHUNK):
        high = min(low + CHUNK, stop)
        for tile in range(tiles.shape[0]):
            begin = tile * width
            end = min(begin + width, n_out)
            for p in range(low, high, n_rows):
                _multiply(x, silence, table, taps, tiles, tile, p, high - 1, run, sums)
                for r in range(min(n_rows, high - p)):
                    burst_counts(
                        sums[r],
                        gain,
                        initial[begin:end],
                        threshold[begin:end],
                        inverse[begin:end],
                        n_steps,
                        charge,
                        counts[p + r, begin:end],
                    )


@compiled
def product(start, stop, x, table, taps, tiles, run, n_rows, out):
    """`out` [positions, C_out] int32: the sums of the synapse for inputs `x`."""
    width, n_out = tiles.shape[3], out.shape[1]
    silence = np.zeros(x.shape[1], np.uint8)
    sums = np.empty((n_rows, width), np.int32)
    for low in range(start, stop, CHUNK):
        high = min(low + CHUNK, stop)
        for tile in range(tiles.shape[0]):
            begin = tile * width
            n = min(width, n_out - begin)
            for p in range(low, high, n_rows):
                _multiply(x, silence, table, taps, tiles, tile, p, high - 1, run, sums)
                for r in range(min(n_rows, high - p)):
                    for j in range(n):
                        out[p + r, begin + j] = sums[r, j]
