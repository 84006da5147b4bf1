"""Compiled loops of the event engine, in numba or, where values must stay in registers, in LLVM."""
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# An intrinsic is called without its typing context, which numba supplies.

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from spikesep.spiking.spike_trains import kernels

BITS = np.array([value.bit_count() for value in range(256)], np.uint8)  # ones of each byte
ONES = np.zeros((256, 8), np.uint16)  # positions of the ones of each byte, packed to the front
for _byte in range(256):
    _bits = [bit for bit in range(8) if _byte >> bit & 1]
    ONES[_byte, : len(_bits)] = _bits
TILE = 128  # output channels at a time: a tile of weights stays in the second-level cache
LANES = 64  # neurons whose potentials are integrated in registers
FEW = 32  # rows below which an unrolled loop, with two branches to predict, is slower
COMPRESSES = kernels.has("avx512vbmi2")  # one instruction lists the ones of 32 flags


def _spread(builder: ir.IRBuilder, value: ir.Value, n: int) -> ir.Value:
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
        every = _spread(builder, arguments[4], 8)
        at = builder.bitcast(builder.gep(channels_at, [arguments[1]]), eight.as_pointer())
        builder.store(builder.add(found, every), at, align=2)
        return context.get_dummy_value()

    return types.void(channels, types.int64, positions, types.int64, types.uint16), generate


@intrinsic
def _add_rows(typing_context, total, at, rows, base, channels, start, stop):
    """total[at : at + TILE] += sum over i in start..stop of rows[base + channels[i]], TILE long
    each.

    Rows may be of narrower integers. Written in LLVM, where the sum is one value that stays in
    registers; a loop over arrays would store and load it for every row. Fewer than FEW rows take a
    loop that is not unrolled: one branch to predict instead of two.
    """

    def generate(context, builder, signature, arguments):
        total_at, rows_at, channels_at = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data
            for k in (0, 2, 4)
        )
        numbers = signature.args[0].dtype, signature.args[2].dtype
        wide, row = (ir.VectorType(context.get_data_type(number), TILE) for number in numbers)
        align, row_align = (number.bitwidth // 8 for number in numbers)
        index = ir.IntType(64)
        add = builder.fadd if isinstance(numbers[0], types.Float) else builder.add
        total_at = builder.bitcast(builder.gep(total_at, [arguments[1]]), wide.as_pointer())
        before = builder.load(total_at, align=align)
        base, start, stop = arguments[3], *arguments[5:]
        entry, end = builder.block, builder.append_basic_block("end")

        def add_all(unrolls: bool) -> tuple[ir.Block, ir.Value]:
            """A loop from `entry` to `end`; returns its first block and the sum when it leaves."""
            head, body = (builder.append_basic_block(name) for name in ("head", "body"))
            builder.position_at_end(head)
            i, value = builder.phi(index), builder.phi(wide)
            builder.cbranch(builder.icmp_signed("<", i, stop), body, end)
            builder.position_at_end(body)
            channel = builder.zext(builder.load(builder.gep(channels_at, [i])), index)
            offset = builder.mul(builder.add(base, channel), index(TILE))
            addend = builder.load(
                builder.bitcast(builder.gep(rows_at, [offset]), row.as_pointer()), align=row_align
            )
            added = add(value, addend if row == wide else builder.sext(addend, wide))
            following = builder.add(i, index(1))
            if not unrolls:  # the empty assembly hides the trip count from LLVM
                following = builder.asm(
                    ir.FunctionType(index, [index]), "", "=r,0", [following], False
                )
            builder.branch(head)
            for phi, first, after in ((i, start, following), (value, before, added)):
                phi.add_incoming(first, entry)
                phi.add_incoming(after, body)
            return head, value

        ways = [add_all(unrolls) for unrolls in (False, True)]
        builder.position_at_end(entry)
        builder.cbranch(
            builder.icmp_signed("<", builder.sub(stop, start), index(FEW)),
            *(head for head, _ in ways),
        )
        builder.position_at_end(end)
        after = builder.phi(wide)
        for head, value in ways:
            after.add_incoming(value, head)
        builder.store(after, total_at, align=align)
        return context.get_dummy_value()

    return types.void(
        total, types.int64, rows, types.int64, channels, types.int64, types.int64
    ), generate


@intrinsic
def _integrate_and_fire(
    typing_context, current, at, start, stop, factor, drift, theta, potential, word, lane
):
    """Integrate (eq. 3) and fire (eqs. 4 and 5) LANES neurons from `lane` on, for steps
    start..stop.

    The steps belong to one word, which begins where `start` is 0. The currents of step t are
    current[at + t * TILE:][:LANES], times `factor`. Written in LLVM, where potentials stay in
    registers from step to step.
    """

    def generate(context, builder, signature, arguments):
        index, byte = ir.IntType(64), ir.IntType(8)

        def pointer(k, offset):
            data = context.make_array(signature.args[k])(context, builder, arguments[k]).data
            lanes = ir.VectorType(context.get_data_type(signature.args[k].dtype), LANES)
            return builder.bitcast(builder.gep(data, [offset]), lanes.as_pointer())

        def load(k, offset):
            return builder.load(pointer(k, offset), align=1)

        at, start, stop, factor, lane = (arguments[k] for k in (1, 2, 3, 4, 9))
        real = isinstance(signature.args[7].dtype, types.Float)
        add, sub, mul = (
            getattr(builder, ("f" if real else "") + name) for name in ("add", "sub", "mul")
        )
        reaches = builder.fcmp_ordered if real else builder.icmp_signed
        drift, theta, first, factor = (
            load(5, lane),
            load(6, lane),
            load(7, lane),
            _spread(builder, factor, LANES),
        )
        nothing, silence = (
            ir.Constant(first.type, None),
            ir.Constant(ir.VectorType(byte, LANES), None),
        )
        begun = builder.select(builder.icmp_signed("==", start, index(0)), silence, load(8, lane))
        entry, head, body, end = (
            builder.block,
            *(builder.append_basic_block(name) for name in ("head", "body", "end")),
        )
        builder.branch(head)
        builder.position_at_end(head)
        t, v, bits = builder.phi(index), builder.phi(first.type), builder.phi(silence.type)
        builder.cbranch(builder.icmp_signed("<", t, stop), body, end)
        builder.position_at_end(body)
        z = load(0, builder.add(at, builder.mul(t, index(TILE))))
        z = z if z.type == v.type else builder.sext(z, v.type)
        charged = add(v, add(mul(z, factor), drift))
        fires = reaches(">=", charged, theta)
        reset = sub(charged, builder.select(fires, theta, nothing))
        mask = _spread(builder, builder.shl(byte(1), builder.trunc(t, byte)), LANES)
        marked = builder.or_(bits, builder.select(fires, mask, silence))
        following = builder.add(t, index(1))
        builder.branch(head)
        for phi, begin, after in ((t, start, following), (v, first, reset), (bits, begun, marked)):
            phi.add_incoming(begin, entry)
            phi.add_incoming(after, body)
        builder.position_at_end(end)
        builder.store(v, pointer(7, lane), align=1)
        builder.store(bits, pointer(8, lane), align=1)
        return context.get_dummy_value()

    number = types.int64
    return types.void(
        current, number, number, number, potential.dtype, drift, theta, potential, word, number
    ), generate


@njit(inline="always")
def _transposed(bits):
    """Transpose the 8 x 8 matrix of bits in a uint64."""
    t = (bits ^ (bits >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    bits = bits ^ t ^ (t << np.uint64(7))
    t = (bits ^ (bits >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    bits = bits ^ t ^ (t << np.uint64(14))
    t = (bits ^ (bits >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    return bits ^ t ^ (t << np.uint64(28))


@kernels.compiled
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
        bit = _spread(builder, builder.shl(byte(1), builder.trunc(step, byte)), 64)
        fires = builder.icmp_unsigned("!=", builder.and_(word, bit), ir.Constant(eights, None))
        fires = builder.bitcast(fires, index)
        first = _spread(builder, builder.trunc(builder.mul(k, index(64)), number), 32)
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


@kernels.compiled
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


@kernels.compiled
def integrate_rows(
    start,
    stop,
    table,
    taps,
    offsets,
    channels,
    weight,
    sums,
    factors,
    gain,
    bias,
    threshold,
    initial,
    n_steps,
    words,
):
    """Add up weights, integrate, fire.

    `offsets` is [sources, rows, n + 1] and `weight` [tiles, taps, C_in, TILE]. Spikes arrive in n
    steps: N_s, or one where neurons are deferred. `sums` has the number format in which the weights
    of a step are added up. The steps of one connection are added one after the other: they share
    the weights of one tap, which stay in the first-level cache.
    """
    n_sources, n_arriving = offsets.shape[0], offsets.shape[2] - 1
    sources = np.empty((n_sources, n_arriving, TILE), sums.dtype)
    current = np.empty((n_arriving, TILE), bias.dtype)
    potential, drift = np.zeros(TILE, bias.dtype), np.zeros(TILE, bias.dtype)
    theta = np.ones(TILE, bias.dtype)
    nothing = np.zeros(8 * TILE, bias.dtype)
    one = theta.dtype.type(1)
    totals, rows, currents = sources.reshape(-1), weight.reshape(-1), current.reshape(-1)
    word = np.empty(TILE, np.uint8)
    for tile in range(weight.shape[0]):
        first = tile * TILE
        n_out = min(TILE, bias.shape[0] - first)
        theta[:n_out] = threshold[first : first + n_out]
        drift[:n_out] = bias[first : first + n_out]
        for p in range(start, stop):
            sources[:] = 0
            for source in range(n_sources):
                for e in range(table.shape[1]):
                    q = table[p, e]
                    base = (tile * weight.shape[1] + taps[e]) * weight.shape[2]
                    for t in range(n_arriving if q >= 0 else 0):
                        at = (source * n_arriving + t) * TILE
                        _add_rows(
                            totals,
                            at,
                            rows,
                            base,
                            channels,
                            offsets[source, q, t],
                            offsets[source, q, t + 1],
                        )
            if n_sources > 1:
                current[:] = 0
                for source in range(n_sources):
                    for t in range(n_arriving):
                        for j in range(TILE):
                            current[t, j] += factors[source] * gain * sources[source, t, j]
            for j in range(
                n_out
            ):  # a loop: assigning a slice takes longer than all that is done with it
                potential[j] = initial[first + j]
            for t in range(0, n_steps, 8):
                n = min(8, n_steps - t)
                n_now = max(0, min(n, n_arriving - t))
                for lane in range(0, TILE, LANES):
                    if n_sources > 1:
                        _integrate_and_fire(
                            currents,
                            t * TILE + lane,
                            0,
                            n_now,
                            one,
                            drift,
                            theta,
                            potential,
                            word,
                            lane,
                        )
                    else:
                        _integrate_and_fire(
                            totals,
                            t * TILE + lane,
                            0,
                            n_now,
                            factors[0] * gain,
                            drift,
                            theta,
                            potential,
                            word,
                            lane,
                        )
                    if n_now < n:
                        _integrate_and_fire(
                            nothing, 0, n_now, n, one, nothing, theta, potential, word, lane
                        )
                for j in range(n_out):
                    words[t // 8, p, first + j] = word[j]
