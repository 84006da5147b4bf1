"""The event engine: work in proportion to spikes.

Words become lists of the channels that fire, one for each position and step; a neuron's current in a step is the sum of
the weight rows of the channels in the lists it is connected to, and it fires on the spot. In the fixed-point form all
of it is integer addition, int16 where no sum can leave its range. A silent place costs a look at its word, no more.
"""

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor, nn

from spikesep.spiking.engines.call import Job
from spikesep.spiking.signal import Signal
from spikesep.spiking.spike_trains import kernels

BITS = np.array([value.bit_count() for value in range(256)], np.uint8)  # of a byte
MOST_CHANNELS = 65536  # that a list's numbers reach
ONES = np.zeros((256, 8), np.uint16)  # where the ones of a byte are, one behind the other
for _byte in range(256):
    _places = [bit for bit in range(8) if _byte >> bit & 1]
    ONES[_byte, : len(_places)] = _places
TILE = 128  # output channels at a time: a tile of weights stays in the second-level cache
LANES = 64  # neurons whose potentials are integrated in registers
FEW = 32  # rows: for fewer, an unrolled loop, which has two ends to guess, takes longer than a plain one
COMPRESSES = kernels.has("avx512vbmi2")  # one instruction makes the list of 32 flags


def fire(layer: nn.Module, signal: Signal) -> Tensor:
    """Words of the layer's neurons, [ceil(N_s / 8), batch, ...] uint8, for a signal that spikes.

    Behind float weights, what the order of additions rounds differs from the dense engine's.

    Raises:
        NotImplementedError: a geometry without a table of connections.
    """
    job = Job.of(layer, signal)
    out = []
    for sources, weight, own in job.groups():
        lists = [_lists(source.numpy(), job.n_steps) for source in sources]
        out.append(_integrate(job, lists, weight, own))
    return job.words(out)


def _lists(words: np.ndarray, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Words [n_words, rows, C] -> offsets [rows, N_s + 1] into a list of channels, in order of row, step, channel."""
    n_words, n_rows, n_channels = words.shape
    kernel, width = (_list_rows_by_64, 64) if COMPRESSES else (_list_rows, 8)
    padded = words
    if n_channels % width:
        padded = np.zeros((n_words, n_rows, -(-n_channels // width) * width), np.uint8)
        padded[:, :, :n_channels] = words
    totals, eights = np.empty(n_rows, np.int64), padded.view(np.uint64)
    kernels.run(kernels.count_rows, n_rows, eights, totals, grain=1024)
    begin = np.concatenate(
        [[0], np.cumsum(totals + 32)]
    )  # a row's last list may be written over by as many
    offsets, channels = np.empty((n_rows, n_steps + 1), np.int64), np.empty(begin[-1], np.uint16)
    kernels.run(kernel, n_rows, eights, n_steps, begin, offsets, channels, grain=64)
    return offsets, channels


def _integrate(
    job: Job, lists: list[tuple[np.ndarray, np.ndarray]], weight: Tensor, own: slice
) -> Tensor:
    """Words [ceil(N_s / 8), positions, C_out] of one group of output channels."""
    n_out = weight.shape[2]
    fixed = job.layer.fixed
    if fixed is None:
        tiles, sums = _tiles(weight), np.float32
    else:
        tiles = fixed.arranged(("tiles", own.start), lambda: _tiles(weight))
        times = job.sharing * (job.n_steps if job.deferred else 1)
        sums = np.int16 if fixed.reach() * times < 2**15 else np.int32
    offsets, channels = _joined(lists)
    plan, n_positions = job.plan, len(job.table)
    bias = plan.bias
    if job.deferred:  # a row's lists lie one behind the other: all steps are one
        offsets, bias = offsets[:, :, :: job.n_steps].copy(), bias * job.n_steps
    out = np.empty((-(-job.n_steps // 8), n_positions, n_out), np.uint8)
    neurons = [tensor[own].numpy() for tensor in (bias, plan.threshold, plan.initial)]
    arguments = (
        job.table,
        job.taps,
        offsets,
        channels,
        tiles,
        np.empty(0, sums),
        plan.factors,
        plan.gain,
        *neurons,
        job.n_steps,
        out,
    )
    kernels.run(_integrate_rows, n_positions, *arguments, grain=8)
    return torch.from_numpy(out)


def _joined(lists: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The lists of all sources as one: offsets [sources, rows, N_s + 1], channels."""
    if len(lists) == 1:
        ((offsets, channels),) = lists
        return offsets[None], channels
    begin = np.cumsum([0, *(len(channels) for _, channels in lists)])
    offsets = np.stack(
        [own_offsets + start for (own_offsets, _), start in zip(lists, begin[:-1], strict=True)]
    )
    return offsets, np.concatenate([channels for _, channels in lists])


def _tiles(weight: Tensor) -> np.ndarray:
    """Weight [n_taps, C_in, C_out] as [tiles, n_taps, C_in, TILE]."""
    n_taps, n_in, n_out = weight.shape
    tiles = weight.new_zeros(n_taps, n_in, -(-n_out // TILE) * TILE)
    tiles[:, :, :n_out] = weight
    return tiles.unflatten(2, (-1, TILE)).permute(2, 0, 1, 3).contiguous().numpy()


def _spread(builder: ir.IRBuilder, value: ir.Value, n: int) -> ir.Value:
    """A vector of n times a number."""
    number = ir.IntType(32)
    one = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, n), ir.Undefined), value, number(0)
    )
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(number, n), [0] * n))


@intrinsic
def _append(typing_context, channels, n, positions, byte, first):
    """channels[n : n + 8] = first + positions[byte], with no look at how many of them count."""

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
    """total[:TILE] += the sum over i in start..stop of row base + channels[i] of `rows`, which are TILE long each.

    Rows may be of narrower integers. In LLVM's terms, for there the sum is one value and stays in registers; a loop
    over arrays stores and loads it again for every row. Fewer than FEW rows take a loop that is not unrolled: its end
    is one guess of the processor's, not two.
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
            """A loop that leads to `end`: its first block, which comes from `entry` and has the sum when it leaves."""
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
            if not unrolls:  # behind an empty assembly LLVM does not see how often the loop runs
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
def _fire(typing_context, current, at, start, stop, factor, drift, theta, potential, word, lane):
    """Steps start..stop of one word of the LANES neurons from `lane` on: integrate (eq. 3), fire (eqs. 4 and 5).

    Their currents of step t are current[at + t * TILE:][:LANES], times `factor`; they begin the word where `start` is
    0. In LLVM's terms, for there potentials stay in registers from step to step.
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
    """The 8 x 8 matrix of bits in a uint64, bytes for bits."""
    t = (bits ^ (bits >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    bits = bits ^ t ^ (t << np.uint64(7))
    t = (bits ^ (bits >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    bits = bits ^ t ^ (t << np.uint64(14))
    t = (bits ^ (bits >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    return bits ^ t ^ (t << np.uint64(28))


@kernels.compiled
def _list_rows(start, stop, words, n_steps, begin, offsets, channels):
    """Eight channels at a time, without a branch that hangs on spikes: `words` is [n_words, rows, C / 8] uint64."""
    n_eights = words.shape[2]
    turned = np.empty(n_eights, np.uint64)
    masks = turned.view(
        np.uint8
    )  # of the channels that fire: eight steps of eight channels behind each other
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
    """Behind channels[:n], those from 64 k on whose words, eights of words[row] from 8 k on, have a one at `step`; the
    new n. 32 numbers behind the last may be written over."""

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
def _list_rows_by_64(start, stop, words, n_steps, begin, offsets, channels):
    """`_list_rows` where the processor compresses; C is a multiple of 64."""
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
def _integrate_rows(
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
    """Add up, integrate, fire; `offsets` is [sources, rows, n + 1], `weight` [tiles, taps, C_in, TILE].

    Spikes arrive in n steps, N_s or, where neurons defer, one; behind them no more current comes. `sums` is of the
    number format in which the weights of a step are added up. A connection's steps are added one after the other: they
    share the weights of one tap, which so stay in the first-level cache.
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
                        _fire(
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
                        _fire(
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
                        _fire(nothing, 0, n_now, n, one, nothing, theta, potential, word, lane)
                for j in range(n_out):
                    words[t // 8, p, first + j] = word[j]
