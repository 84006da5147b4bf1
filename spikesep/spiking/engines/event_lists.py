"""Compiled loops that list the channels that fire, from bit words."""
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# An intrinsic is called without its typing context, which numba supplies.

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from spikesep.compilation import compiled, has

BITS = np.array([value.bit_count() for value in range(256)], np.uint8)  # ones of each byte
ONES = np.zeros((256, 8), np.uint16)  # positions of the ones of each byte, packed to the front
for _byte in range(256):
    _bits = [bit for bit in range(8) if _byte >> bit & 1]
    ONES[_byte, : len(_bits)] = _bits
COMPRESSES = has("avx512vbmi2")  # one instruction lists the ones of 32 flags


def spread(builder: ir.IRBuilder, value: ir.Value, n: int) -> ir.Value:
    """A vector of n copies of a number."""
    number = ir.IntType(32)
    one = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, n), ir.Undefined), value, number(0)
    )
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(number, n), [0] * n))


@intrinsic
def _append(typing_context, channels, n, positions, byte, first):
    """channels[n : n + 8] = first + positions[byte], regardless of how many of them are valid."""

    def generate(context, builder, signature, arguments):
        channels_at, positions_at = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data
            for k in (0, 2)
        )
        eight = ir.VectorType(ir.IntType(16), 8)
        row = builder.gep(positions_at, [builder.mul(arguments[3], ir.Constant(ir.IntType(64), 8))])
        found = builder.load(builder.bitcast(row, eight.as_pointer()), align=2)
        every = spread(builder, arguments[4], 8)
        at = builder.bitcast(builder.gep(channels_at, [arguments[1]]), eight.as_pointer())
        builder.store(builder.add(found, every), at, align=2)
        return context.get_dummy_value()

    return types.void(channels, types.int64, positions, types.int64, types.uint16), generate


@njit(inline="always")
def _transposed(bits):
    """Transpose the 8 x 8 matrix of bits in a uint64."""
    t = (bits ^ (bits >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    bits = bits ^ t ^ (t << np.uint64(7))
    t = (bits ^ (bits >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    bits = bits ^ t ^ (t << np.uint64(14))
    t = (bits ^ (bits >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    return bits ^ t ^ (t << np.uint64(28))


@compiled
def list_rows(start, stop, words, n_steps, begin, offsets, channels):
    """List the channels that fire, eight at a time and without branches that depend on spikes.

    `words` is [n_words, rows, C / 8] uint64.
    """
    n_eights = words.shape[2]
    turned = np.empty(n_eights, np.uint64)
    masks = turned.view(np.uint8)  # the channels that fire: eight steps of each eight channels
    for row in range(start, stop):
        n = begin[row]
        for w in range(words.shape[0]):
            for k in range(n_eights):
                turned[k] = _transposed(words[w, row, k])
            for step in range(min(8, n_steps - 8 * w)):
                offsets[row, 8 * w + step] = n
                for k in range(n_eights):
                    mask = masks[8 * k + step]
                    _append(channels, n, ONES, mask, np.uint16(8 * k))
                    n += BITS[mask]
        offsets[row, n_steps] = n


@intrinsic
def _append_64(typing_context, channels, n, words, row, k, step):
    """Append to channels[:n] those of channels 64 k to 64 k + 63 that fire in `step`; return the
    new n.

    Their words are the eight uint64 from words[row + 8 k] on. Up to 32 numbers behind the last may
    be overwritten.
    """

    def generate(context, builder, signature, arguments):
        byte, number, half, index = (ir.IntType(bits) for bits in (8, 16, 32, 64))
        eights, flags, numbers = (
            ir.VectorType(byte, 64),
            ir.VectorType(ir.IntType(1), 32),
            ir.VectorType(number, 32),
        )
        channels_at, words_at = (
            context.make_array(signature.args[i])(context, builder, arguments[i]).data
            for i in (0, 2)
        )
        _, n, _, row, k, step = arguments
        at = builder.gep(words_at, [builder.add(row, builder.mul(k, index(8)))])
        word = builder.load(builder.bitcast(at, eights.as_pointer()), align=1)
        bit = spread(builder, builder.shl(byte(1), builder.trunc(step, byte)), 64)
        fires = builder.icmp_unsigned("!=", builder.and_(word, bit), ir.Constant(eights, None))
        fires = builder.bitcast(fires, index)
        first = spread(builder, builder.trunc(builder.mul(k, index(64)), number), 32)
        compress = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(numbers, [numbers, numbers, flags]),
            "llvm.x86.avx512.mask.compress.v32i16",
        )
        for begin in (0, 32):
            chosen = builder.trunc(builder.lshr(fires, index(begin)), half)
            those = builder.add(first, ir.Constant(numbers, list(range(begin, begin + 32))))
            found = builder.call(
                compress,
                [those, ir.Constant(numbers, ir.Undefined), builder.bitcast(chosen, flags)],
            )
            there = builder.bitcast(builder.gep(channels_at, [n]), numbers.as_pointer())
            builder.store(found, there, align=2)
            n = builder.add(n, builder.zext(builder.ctpop(chosen), index))
        return n

    return types.int64(
        channels, types.int64, words, types.int64, types.int64, types.int64
    ), generate


@compiled
def list_rows_by_64(start, stop, words, n_steps, begin, offsets, channels):
    """`list_rows` for processors that compress vectors; C is a multiple of 64."""
    n_words, n_rows, n_eights = words.shape
    for row in range(start, stop):
        n = begin[row]
        for w in range(n_words):
            at = (w * n_rows + row) * n_eights
            for step in range(min(8, n_steps - 8 * w)):
                offsets[row, 8 * w + step] = n
                for k in range(n_eights // 8):
                    n = _append_64(channels, n, words, at, k, step)
        offsets[row, n_steps] = n
