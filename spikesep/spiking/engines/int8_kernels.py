"""Compiled loops over products of uint8 inputs and int8 weights, in LLVM: sums stay in registers.

VNNI multiplies four neighboring inputs by their weights and adds them to an int32. AVX2 adds two
products into an int16, which saturates; sums of as many products as can never leave 16 bits, by the
weights at hand, are then widened.
"""
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportReturnType=false
# An intrinsic is called without its typing context, which numba supplies; llvmlite has no types.

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from spikesep.compilation import compiled
from spikesep.spiking.engines.event_lists import spread

INDEX, WORD, BYTE = (ir.IntType(bits) for bits in (64, 32, 8))
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


class _Product:
    """Writer of the loops of `_multiply` for one tile of output channels."""

    def __init__(self, context, builder: ir.IRBuilder, signature, arguments):
        self.builder = builder
        arrays = [
            context.make_array(kind)(context, builder, value)
            if isinstance(kind, types.Array)
            else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        self.x, self.silence, self.table, self.taps, self.tiles = arrays[:5]
        self.tile, self.first, self.last, self.run, self.sums = arrays[5:]
        self.has_vnni = signature.args[4].dtype == types.int32
        self.shape = VNNI if self.has_vnni else AVX2
        lanes = self.shape.lanes
        self.total = ir.VectorType(WORD, lanes)
        self.bytes = ir.VectorType(BYTE, FOUR * lanes)
        self.halves = ir.VectorType(ir.IntType(16), 2 * lanes)
        self.n_vectors = self.shape.width // lanes
        self.places = [(r, v) for r in range(self.shape.rows) for v in range(self.n_vectors)]
        _, self.n_taps, self.n_fours, *_ = cgutils.unpack_tuple(builder, self.tiles.shape)

    def write(self) -> None:
        """Sums over all entries of the table, from zero."""
        builder = self.builder
        for r, v in self.places:
            builder.store(ir.Constant(self.total, None), self.out(r, v), align=4)
        n_entries = cgutils.unpack_tuple(builder, self.table.shape)[1]
        positions = []
        for r in range(self.shape.rows):
            p = builder.add(self.first, INDEX(r))
            is_there = builder.icmp_signed("<", p, self.last)
            positions.append(builder.select(is_there, p, self.last))
        with self.loop(n_entries) as e:
            rows = [self.row(builder.add(builder.mul(p, n_entries), e)) for p in positions]
            weights = self.weights_of(e)
            if self.has_vnni:
                self.write_vnni(rows, weights)
            else:
                self.write_avx2(rows, weights)

    def write_vnni(self, rows: list[ir.Value], weights: ir.Value) -> None:
        """Add the products of one entry to the sums."""
        add = self.function("llvm.x86.avx512.vpdpbusd.512", self.total, *[self.total] * 3)
        before = [self.builder.load(self.out(*place), align=4) for place in self.places]

        def added(*given: ir.Value) -> ir.Value:
            return self.builder.call(add, given)

        after = self.fours(INDEX(0), self.n_fours, before, rows, weights, added)
        for place, value in zip(self.places, after, strict=True):
            self.builder.store(value, self.out(*place), align=4)

    def write_avx2(self, rows: list[ir.Value], weights: ir.Value) -> None:
        """Add the products of one entry to the sums, run by run."""
        builder, total, halves = self.builder, self.total, self.halves
        multiply = self.function("llvm.x86.avx2.pmadd.ub.sw", halves, self.bytes, self.bytes)
        widen = self.function("llvm.x86.avx2.pmadd.wd", total, halves, halves)
        ones = ir.Constant(halves, [1] * halves.count)
        nothing = [ir.Constant(halves, None)] * len(self.places)

        def add(before: ir.Value, x: ir.Value, weight: ir.Value) -> ir.Value:
            those = [builder.bitcast(each, self.bytes) for each in (x, weight)]
            return builder.add(before, builder.call(multiply, those))

        with self.loop(self.n_fours, self.run) as begin:
            stop = builder.add(begin, self.run)
            is_whole = builder.icmp_signed("<", stop, self.n_fours)
            stop = builder.select(is_whole, stop, self.n_fours)
            after = self.fours(begin, stop, nothing, rows, weights, add)
            for place, value in zip(self.places, after, strict=True):
                at = self.out(*place)
                wide = builder.call(widen, [value, ones])
                builder.store(builder.add(builder.load(at, align=4), wide), at, align=4)

    def fours(self, begin, stop, starts, rows, weights, add) -> list[ir.Value]:
        """Sums over fours begin..stop, one for each place, in registers.

        Args:
            begin, stop: numbers of fours.
            starts: the sums before.
            rows: where the inputs of each row are.
            weights: where the weights of the first four are.
            add: the sum behind another, an input in all lanes, and weights.
        """
        builder, entry = self.builder, self.builder.block
        with self.loop(builder.sub(stop, begin)) as k:
            with builder.goto_block(k.parent):
                builder.position_at_start(k.parent)
                sums = [builder.phi(start.type) for start in starts]
            at = builder.add(begin, k)
            vectors = [self.weight(weights, at, v) for v in range(self.n_vectors)]
            after = []
            for r, row in enumerate(rows):
                x = self.input(row, at)
                own = zip(sums[r * self.n_vectors :], vectors, strict=False)
                after += [add(before, x, vector) for before, vector in own]
            for phi, start, value in zip(sums, starts, after, strict=True):
                phi.add_incoming(start, entry)
                phi.add_incoming(value, builder.block)
        return sums

    @contextmanager
    def loop(self, stop: ir.Value, step: ir.Value | None = None) -> Iterator[ir.Value]:
        """A loop over 0, step, ... below stop; yields its number."""
        builder, entry = self.builder, self.builder.block
        head, body, end = (builder.append_basic_block(name) for name in ("head", "body", "end"))
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(INDEX)
        i.add_incoming(INDEX(0), entry)
        builder.cbranch(builder.icmp_signed("<", i, stop), body, end)
        builder.position_at_end(body)
        yield i
        i.add_incoming(builder.add(i, INDEX(1) if step is None else step), builder.block)
        builder.branch(head)
        builder.position_at_end(end)

    def row(self, entry: ir.Value) -> ir.Value:
        """Where the inputs of an entry of the table are; silence for -1."""
        builder = self.builder
        q = builder.sext(builder.load(builder.gep(self.table.data, [entry])), INDEX)
        row_bytes = cgutils.unpack_tuple(builder, self.x.shape)[1]
        there = builder.gep(self.x.data, [builder.mul(q, row_bytes)])
        is_silent = builder.icmp_signed("<", q, INDEX(0))
        return builder.select(is_silent, self.silence.data, there)

    def weights_of(self, entry: ir.Value) -> ir.Value:
        """Where the weights of an entry of the table are."""
        builder = self.builder
        tap = builder.sext(builder.load(builder.gep(self.taps.data, [entry])), INDEX)
        number = builder.add(builder.mul(self.tile, self.n_taps), tap)
        offset = builder.mul(number, builder.mul(self.n_fours, INDEX(FOUR * self.shape.width)))
        return builder.gep(builder.bitcast(self.tiles.data, BYTE.as_pointer()), [offset])

    def input(self, row: ir.Value, k: ir.Value) -> ir.Value:
        """Four inputs of a row, in all lanes."""
        builder = self.builder
        at = builder.gep(row, [builder.mul(k, INDEX(FOUR))])
        four = builder.load(builder.bitcast(at, WORD.as_pointer()), align=1)
        return spread(builder, four, self.shape.lanes)

    def weight(self, weights: ir.Value, k: ir.Value, v: int) -> ir.Value:
        """The weights of four inputs, for one vector of output channels."""
        builder, width = self.builder, self.shape.width
        offset = builder.mul(k, INDEX(FOUR * width))
        at = builder.gep(weights, [builder.add(offset, INDEX(v * FOUR * self.shape.lanes))])
        return builder.load(builder.bitcast(at, self.total.as_pointer()), align=1)

    def out(self, r: int, v: int) -> ir.Value:
        """Where the sums of a row and a vector of output channels are."""
        at = INDEX(r * self.shape.width + v * self.shape.lanes)
        return self.builder.bitcast(self.builder.gep(self.sums.data, [at]), self.total.as_pointer())

    def function(self, name: str, result: ir.Type, *given: ir.Type) -> ir.Function:
        """An instruction, by its name in LLVM."""
        kind = ir.FunctionType(result, given)
        return cgutils.get_or_insert_function(self.builder.module, kind, name)


@intrinsic
def _multiply(typing_context, x, silence, table, taps, tiles, tile, first, last, run, sums):
    """sums[r] = sum over entries e of x[table[p, e]] @ weights[taps[e]], p = min(first + r, last).

    For one tile of output channels. `x` is [rows, n] uint8 with n a multiple of 4, `silence` the
    row that stands for -1 in the table; `sums` is [rows of the shape, width] int32.
    """

    def generate(context, builder, signature, arguments):
        _Product(context, builder, signature, arguments).write()
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
