"""The dense engine: the synapses of many steps as one matrix product, then one pass over time.

The fixed-point form takes int8 products with int32 sums; spikes that meet are added up before.
Float weights take torch's convolutions, in bfloat16 where autocast asks for it and the layer still
learns.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache

import numpy as np
import torch
from torch import Tensor

from spikesep.spiking.engines.call import LayerCall, RowLayout
from spikesep.spiking.integers import FixedPoint, Plan
from spikesep.spiking.neuron import constant_current_count
from spikesep.spiking.signal import Coding, Signal
from spikesep.spiking.spike_trains import kernels, packed

BLOCK = 8  # steps per product: one word
COMPILED = "cpu"  # where int8 products and compiled loops run; elsewhere torch does the same

Product = Callable[[Tensor, Tensor], Tensor]


def run(call: LayerCall, signals: Sequence[Signal]) -> Tensor:
    """Fire a layer's neurons for any signals: words [ceil(N_s / 8), batch, ...] uint8.

    Raises:
        NotImplementedError: in fixed-point form, the synapse has no connection table.
    """
    final = not call.learns or call.fixed is not None
    with torch.autocast(call.threshold.device.type, enabled=False) if final else nullcontext():
        if call.fixed is None:
            exact = [signal.is_spiking or not final for signal in signals]
            return _run_floats(
                call,
                [
                    signal if is_exact else Signal(signal.value.float())
                    for signal, is_exact in zip(signals, exact, strict=True)
                ],
            )
        if not signals[0].is_spiking:
            return _run_analog_input(call, call.fixed, [signal.value for signal in signals])
        layout = RowLayout.of(call, signals)
        return layout.to_output([_run_block(layout, *block) for block in layout.blocks()])


def _run_floats(call: LayerCall, signals: Sequence[Signal]) -> Tensor:
    threshold, coding = float(call.threshold), call.coding
    initial = coding.initial_potential * threshold
    if coding.deferred and any(signal.is_spiking for signal in signals):
        charge = call.charge(signals).float()
        count = constant_current_count(charge, threshold, initial, coding.n_steps)
        return packed.burst(count, coding.n_steps)
    return packed.integrate(
        call.current(signals), threshold, initial, reset=coding.reset, beta=coding.beta
    )


def _run_block(layout: RowLayout, sources: list[Tensor], weight: Tensor, own: slice) -> Tensor:
    """Words [ceil(N_s / 8), positions, C_out] of one block of output channels."""
    device, (_, n_in, n_out) = weight.device, weight.shape
    taps = torch.from_numpy(layout.taps).long().to(device)
    product, dtype = _product(layout, device)
    key = ("matrix", own.start, len(layout.taps), dtype)
    matrix = _fixed(layout).arranged(key, lambda: weight[taps].reshape(-1, n_out).to(dtype))
    entries = torch.from_numpy(layout.table).long().to(device)
    n_rows = sources[0].shape[1]
    entries = torch.where(entries < 0, n_rows, entries).flatten()  # padding is a row of zeros
    n_positions = len(layout.table)

    def arriving(units: Tensor) -> Tensor:
        x = torch.zeros(len(units), units.shape[1] + 1, n_in, dtype=dtype, device=device)
        x[:, :-1] = units
        x = x.index_select(1, entries).view(len(units) * n_positions, -1)
        return product(x, matrix).view(len(units), n_positions, n_out)

    factors = layout.plan.factors.tolist()
    if layout.deferred:
        units = packed.collect(sources, factors, dtype)
        return _run_deferred(layout, own, arriving(units[None])[0])
    scan = Scan(layout.plan, own, n_positions, layout.call.coding)
    words = []
    for block, begin in enumerate(range(0, layout.n_steps, BLOCK)):
        n = min(BLOCK, layout.n_steps - begin)
        words_of_block = [source[block : block + 1] for source in sources]
        words.append(scan.run(arriving(packed.drive(words_of_block, factors, n, torch.float32))))
    return torch.stack(words)


def _run_deferred(layout: RowLayout, own: slice, arriving: Tensor) -> Tensor:
    """Words of neurons for what arrives in the whole window, [positions, C] int32."""
    plan, n_steps = layout.plan, layout.n_steps
    initial, threshold = plan.initial[own] + n_steps * plan.bias[own], plan.threshold[own]
    if arriving.device.type != COMPILED:
        charge = arriving * int(plan.gain) + initial
        return packed.burst(charge.div(threshold, rounding_mode="floor"), n_steps)
    words = torch.empty(-(-n_steps // 8), *arriving.shape, dtype=torch.uint8)
    arrays = [tensor.numpy() for tensor in (initial, threshold, words)]
    kernels.run(_burst, len(arriving), arriving.numpy(), plan.gain, n_steps, *arrays, grain=64)
    return words


def _fixed(layout: RowLayout) -> FixedPoint:
    assert layout.call.fixed is not None
    return layout.call.fixed


def _product(layout: RowLayout, device: torch.device) -> tuple[Product, torch.dtype]:
    """A matrix product that is exact for these integers, and the number format it takes."""
    times = layout.n_steps if layout.deferred else 1
    if max(layout.units) * times <= 127 and device.type == COMPILED and int8_products_are_exact():
        return torch._int_mm, torch.int8
    products = (_fixed(layout).reaches(), layout.units, layout.connections.per_tap)
    largest = sum(reach * units * n for reach, units, n in zip(*products, strict=True)) * times
    return _rounded_product, torch.float32 if largest < 2**24 else torch.float64


@cache
def int8_products_are_exact() -> bool:
    """Whether torch's int8 products are exact on this processor.

    Without VNNI, those of oneDNN saturate (and are slow); so they do where oneDNN is told not to
    use VNNI (ONEDNN_MAX_CPU_ISA).
    """
    most = torch.full((64, 64), 127, dtype=torch.int8)
    return torch.cpu._is_vnni_supported() and bool((torch._int_mm(most, most) == 64 * 127**2).all())


def _rounded_product(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.mm(x, matrix).round().to(torch.int32)


def _run_analog_input(call: LayerCall, fixed: FixedPoint, values: list[Tensor]) -> Tensor:
    """The first layer: the same current in every step, or all of it in the first.

    Integers are exact in float64.
    """
    connectivity, n_steps, levels = call.connectivity, call.coding.n_steps, int(fixed.input_levels)
    arriving = torch.zeros((), dtype=torch.int32, device=values[0].device)
    given = zip(call.projections, values, fixed.weights, fixed.shifts, strict=True)
    for projection, value, weight, shift in given:
        units = (value.double() / fixed.input_unit).round().clamp(-levels, levels)
        of_part = projection.connectivity
        if of_part.before is not None:  # a sum of units, not their mean
            units = (of_part.pool(units) * float(of_part.divisor)).round()
        products = of_part.project(units, weight.double(), units.new_zeros(len(weight)))
        arriving = arriving + (products.round().to(torch.int32) << shift)
    rows = arriving if connectivity.out_channels_last else arriving.movedim(1, -1)
    flat = rows.reshape(1, -1, rows.shape[-1])
    if call.coding.encoding == "impulse":
        flat = torch.cat([flat, flat.new_zeros(n_steps - 1, *flat.shape[1:])])
    scan = Scan(fixed.plan([]), slice(None), flat.shape[1], call.coding)
    words = []
    for begin in range(0, n_steps, BLOCK):
        n = min(BLOCK, n_steps - begin)
        words.append(
            scan.run(flat.expand(n, -1, -1) if len(flat) == 1 else flat[begin : begin + n])
        )
    out = torch.stack(words).view(len(words), *rows.shape)
    return out if connectivity.out_channels_last else out.movedim(-1, 2).contiguous()


class Scan:
    """Integrate-and-fire in int32, block of steps by block; potentials carry over to the next
    block.

    Args:
        plan: thresholds and biases.
        own: the output channels.
        n_positions: positions of each channel.
        coding: leak and reset of the neurons.
    """

    def __init__(self, plan: Plan, own: slice, n_positions: int, coding: Coding):
        self.gain = plan.gain
        self.shift, self.to_zero = coding.leak_shift, coding.reset == "zero"
        self.bias, self.threshold = plan.bias[own], plan.threshold[own]
        self.potential = plan.initial[own].repeat(n_positions, 1)

    def run(self, arriving: Tensor) -> Tensor:
        """Fire the neurons for the next steps.

        Args:
            arriving: [n_steps <= 8, positions, C] int32.

        Returns:
            The word of each neuron, [positions, C] uint8.
        """
        words = torch.zeros(arriving.shape[1:], dtype=torch.uint8, device=arriving.device)
        if arriving.device.type == COMPILED:
            tensors = (self.bias, self.threshold, self.potential, words)
            arrays = [tensor.numpy() for tensor in tensors]
            neuron = (self.gain, self.shift, self.to_zero)
            kernels.run(_scan, len(words), arriving.numpy(), *neuron, *arrays, grain=64)
            return words
        for t, z in enumerate(arriving):
            if self.shift:
                self.potential -= self.potential >> self.shift
            self.potential += z * int(self.gain) + self.bias
            spikes = self.potential >= self.threshold
            self.potential -= spikes * (self.potential if self.to_zero else self.threshold)
            words |= spikes.to(torch.uint8) << t
        return words


@kernels.compiled
def _burst(start, stop, arriving, gain, n_steps, initial, threshold, words):
    potential = np.empty_like(initial)
    for p in range(start, stop):
        for j in range(len(potential)):
            potential[j] = arriving[p, j] * gain + initial[j]
        for t in range(n_steps):
            mask, word = np.uint8(1 << (t % 8)), words[t // 8, p]
            if t % 8 == 0:
                word[:] = 0
            for j in range(len(potential)):
                fires = potential[j] >= threshold[j]
                potential[j] -= threshold[j] if fires else np.int32(0)
                word[j] |= mask if fires else np.uint8(0)


@kernels.compiled
def _scan(start, stop, arriving, gain, shift, to_zero, bias, threshold, potential, words):
    """Integrate and fire; neurons that leak or reset to zero have a loop of their own."""
    is_plain = shift == 0 and not to_zero
    for p in range(start, stop):
        for t in range(arriving.shape[0]):
            mask = np.uint8(1 << t)
            if is_plain:
                for j in range(potential.shape[1]):
                    potential[p, j] += arriving[t, p, j] * gain + bias[j]
                    if potential[p, j] >= threshold[j]:
                        potential[p, j] -= threshold[j]
                        words[p, j] |= mask
                continue
            for j in range(potential.shape[1]):
                v = potential[p, j]
                if shift:
                    v -= v >> np.int32(shift)
                v += arriving[t, p, j] * gain + bias[j]
                fires = v >= threshold[j]
                rest = np.int32(0) if to_zero else v - threshold[j]
                potential[p, j] = rest if fires else v
                words[p, j] |= mask if fires else np.uint8(0)
