"""Compiled loops that add up weights, integrate and fire.

Written in LLVM where values must stay in registers, else in numba.
"""
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# An intrinsic is called without its typing context, which numba supplies.

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from spikesep.compilation import compiled
from spikesep.spiking.engines.event_lists import spread

TILE = 128  # output channels at a time: a tile of weights stays in the second-level cache
LANES = 64  # neurons whose potentials are integrated in registers
FEW = 32  # rows below which an unrolled loop, with two branches to predict, is slower


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
    typing_context,
    current,
    at,
    start,
    stop,
    factor,
    drift,
    theta,
    potential,
    word,
    lane,
    leak,
    to_zero,
):
    """Integrate (eq. 3) and fire (eqs. 4 and 5) LANES neurons from `lane` on, for steps
    start..stop.

    The steps belong to one word, which begins where `start` is 0. The currents of step t are
    current[at + t * TILE:][:LANES], times `factor`. `leak` is the share of the potential that is
    kept or, in integers, the shift that gives what leaks, 0 for no leak. Written in LLVM, where
    potentials stay in registers from step to step. Neurons that neither leak nor reset to zero have
    a loop of their own.
    """

    def generate(context, builder, signature, arguments):
        index, byte = ir.IntType(64), ir.IntType(8)

        def pointer(k, offset):
            data = context.make_array(signature.args[k])(context, builder, arguments[k]).data
            lanes = ir.VectorType(context.get_data_type(signature.args[k].dtype), LANES)
            return builder.bitcast(builder.gep(data, [offset]), lanes.as_pointer())

        def load(k, offset):
            return builder.load(pointer(k, offset), align=1)

        at, start, stop, factor, lane, leak, to_zero = (
            arguments[k] for k in (1, 2, 3, 4, 9, 10, 11)
        )
        real = isinstance(signature.args[7].dtype, types.Float)
        add, sub, mul = (
            getattr(builder, ("f" if real else "") + name) for name in ("add", "sub", "mul")
        )
        reaches = builder.fcmp_ordered if real else builder.icmp_signed
        drift, theta, first, factor = (
            load(5, lane),
            load(6, lane),
            load(7, lane),
            spread(builder, factor, LANES),
        )
        nothing, silence = (
            ir.Constant(first.type, None),
            ir.Constant(ir.VectorType(byte, LANES), None),
        )
        begun = builder.select(builder.icmp_signed("==", start, index(0)), silence, load(8, lane))
        none = leak.type(1.0 if real else 0)
        leaks = (builder.fcmp_ordered if real else builder.icmp_signed)("!=", leak, none)
        spread_leak = spread(builder, leak, LANES)
        entry, end = builder.block, builder.append_basic_block("end")

        def kept(v: ir.Value) -> ir.Value:
            """What leaking leaves of potentials."""
            if real:
                return mul(v, spread_leak)
            return builder.select(leaks, sub(v, builder.ashr(v, spread_leak)), v)

        def integrate(is_plain: bool) -> tuple[ir.Block, ir.Value, ir.Value]:
            """A loop from `entry` to `end`; returns its first block, and potentials and words when
            it leaves.
            """
            head, body = (builder.append_basic_block(name) for name in ("head", "body"))
            builder.position_at_end(head)
            t, v, bits = builder.phi(index), builder.phi(first.type), builder.phi(silence.type)
            builder.cbranch(builder.icmp_signed("<", t, stop), body, end)
            builder.position_at_end(body)
            z = load(0, builder.add(at, builder.mul(t, index(TILE))))
            z = z if z.type == v.type else builder.sext(z, v.type)
            charged = add(v if is_plain else kept(v), add(mul(z, factor), drift))
            fires = reaches(">=", charged, theta)
            taken = theta if is_plain else builder.select(to_zero, charged, theta)
            reset = sub(charged, builder.select(fires, taken, nothing))
            mask = spread(builder, builder.shl(byte(1), builder.trunc(t, byte)), LANES)
            marked = builder.or_(bits, builder.select(fires, mask, silence))
            following = builder.add(t, index(1))
            builder.branch(head)
            for phi, begin, after in (
                (t, start, following),
                (v, first, reset),
                (bits, begun, marked),
            ):
                phi.add_incoming(begin, entry)
                phi.add_incoming(after, body)
            return head, v, bits

        ways = [integrate(is_plain) for is_plain in (False, True)]
        builder.position_at_end(entry)
        builder.cbranch(builder.or_(leaks, to_zero), *(head for head, _, _ in ways))
        builder.position_at_end(end)
        v, bits = builder.phi(first.type), builder.phi(silence.type)
        for head, potentials, words in ways:
            v.add_incoming(potentials, head)
            bits.add_incoming(words, head)
        builder.store(v, pointer(7, lane), align=1)
        builder.store(bits, pointer(8, lane), align=1)
        return context.get_dummy_value()

    number = types.int64
    return types.void(
        current,
        number,
        number,
        number,
        potential.dtype,
        drift,
        theta,
        potential,
        word,
        number,
        potential.dtype,
        types.boolean,
    ), generate


@compiled
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
    leak,
    to_zero,
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
                            leak,
                            to_zero,
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
                            leak,
                            to_zero,
                        )
                    if n_now < n:
                        _integrate_and_fire(
                            nothing,
                            0,
                            n_now,
                            n,
                            one,
                            nothing,
                            theta,
                            potential,
                            word,
                            lane,
                            leak,
                            to_zero,
                        )
                for j in range(n_out):
                    words[t // 8, p, first + j] = word[j]
