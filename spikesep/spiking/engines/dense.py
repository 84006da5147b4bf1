"""The dense engine: the synapses of many steps as one matrix product, then one pass over time.

The fixed-point form takes int8 products with int32 sums; spikes that meet are added up before.
Float weights take torch's convolutions, in bfloat16 where autocast asks for it and the layer still
learns.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from spikesep.compilation import compiled
from spikesep.spiking.engines import analog_input, int8_products
from spikesep.spiking.engines.call import LayerCall, RowLayout
from spikesep.spiking.integers import FixedPoint, Plan
from spikesep.spiking.neuron import constant_current_count
from spikesep.spiking.signal import Coding, Signal
from spikesep.spiking.spike_trains import kernels, packed

BLOCK = 8  # steps per product: one word
COMPILED = "cpu"  # where int8 products and compiled loops run; elsewhere torch does the same


def run(call: LayerCall, signals: Sequence[Signal]) -> Tensor | packed.Bursts:
    """Fire a layer's neurons for any signals.

    Returns:
        Words [ceil(N_s / 8), batch, ...] uint8 or, of deferred neurons in fixed-point form, bursts.

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
        return _run_deferred(layout) if layout.deferred else _run_steps(layout)


def _run_floats(call: LayerCall, signals: Sequence[Signal]) -> Tensor | packed.Bursts:
    threshold, coding = float(call.threshold), call.coding
    initial = coding.initial_potential * threshold
    if coding.deferred and any(signal.is_spiking for signal in signals):
        charge = call.charge(signals).float()
        count = constant_current_count(charge, threshold, initial, coding.n_steps)
        return packed.Bursts(count)
    return packed.integrate(
        call.current(signals), threshold, initial, reset=coding.reset, beta=coding.beta
    )


def _run_steps(layout: RowLayout) -> Tensor:
    """Words of neurons that fire on the spot."""
    factors, words = layout.plan.factors.tolist(), []
    for sources, weight, own in layout.blocks():
        synapse = Products(layout, weight, own, int(max(layout.units)))
        scan = Scan(layout.plan, own, len(layout.table), layout.call.coding)
        of_block = []
        for block, begin in enumerate(range(0, layout.n_steps, BLOCK)):
            n = min(BLOCK, layout.n_steps - begin)
            words_of_block = [source[block : block + 1] for source in sources]
            units = packed.drive(words_of_block, factors, n, torch.float32).to(synapse.dtype)
            of_block.append(scan.run(torch.stack([synapse(x) for x in units])))
        words.append(torch.stack(of_block))
    return layout.to_output(words)


def _run_deferred(layout: RowLayout) -> packed.Bursts:
    """Bursts of neurons that fire when the whole window has arrived."""
    plan, n_steps, counts = layout.plan, layout.n_steps, []
    most = int(max(layout.units)) * n_steps
    synapses = [Products(layout, *given, most) for given in layout.weights()]
    units = layout.window_units(synapses[0].dtype)
    for synapse, x in zip(synapses, units.chunk(layout.n_blocks, 1), strict=True):
        own = synapse.own
        initial, threshold = plan.initial[own] + n_steps * plan.bias[own], plan.threshold[own]
        if synapse.int8 is not None and n_steps <= int8_products.MOST_INPUT:
            counts.append(synapse.fire(x, initial, threshold, n_steps))
            continue
        charge = synapse(x) * int(plan.gain) + initial
        counts.append(charge.div(threshold, rounding_mode="floor").clamp_(0, n_steps))
    together = counts[0] if len(counts) == 1 else torch.cat(counts, 1)
    narrow = together.to(torch.uint8) if n_steps <= int8_products.MOST_INPUT else together
    return packed.Bursts(layout.to_output([narrow[None]])[0])


class Products:
    """The synapse of one block of output channels, with exact integer sums.

    On a CPU that has them, int8 products; else products of floats that hold all sums.

    Args:
        layout: the layer.
        weight: of the block, [n_taps, C_in, C_out] int8.
        own: its output channels.
        most: largest input.

    Attributes:
        own: the output channels.
        int8: the weights as int8 products read them; None where these cannot be had.
        dtype: of the inputs.
    """

    def __init__(self, layout: RowLayout, weight: Tensor, own: slice, most: int):
        self.own, self._layout, self._weight = own, layout, weight
        self.int8: int8_products.Int8Weights | None = None
        if weight.device.type == COMPILED:
            instructions = int8_products.instruction_set()
            self.int8 = _fixed(layout).arranged(
                ("int8", own.start, len(weight), most, instructions),
                lambda: int8_products.pack(weight.numpy(), most, instructions),
            )
        products = (_fixed(layout).reaches(), layout.connections.per_tap)
        largest = sum(reach * most * n for reach, n in zip(*products, strict=True))
        floats = torch.float32 if largest < 2**24 else torch.float64
        self.dtype = floats if self.int8 is None else torch.uint8

    def __call__(self, x: Tensor) -> Tensor:
        """What arrives at the neurons for inputs [rows, C_in]: [positions, C_out] int32."""
        if self.int8 is None:
            return self._float_product(x)
        layout, shape = self._layout, (len(self._layout.table), self.int8.n_out)
        out = torch.empty(shape, dtype=torch.int32)
        int8_products.multiply(self.int8, x.numpy(), layout.table, layout.taps, out.numpy())
        return out

    def fire(self, x: Tensor, initial: Tensor, threshold: Tensor, n_steps: int) -> Tensor:
        """Spike counts [positions, C_out] uint8 of deferred neurons for inputs [rows, C_in] uint8.

        Args:
            x: what arrives in the whole window.
            initial: potential before, with the bias of all steps, [C_out] int32.
            threshold: [C_out] int32.
            n_steps: N_s, at most 255.
        """
        assert self.int8 is not None
        layout, shape = self._layout, (len(self._layout.table), self.int8.n_out)
        counts = torch.empty(shape, dtype=torch.uint8)
        neurons = (layout.plan.gain, initial.numpy(), threshold.numpy(), n_steps)
        table = (layout.table, layout.taps)
        int8_products.fire(self.int8, x.numpy(), *table, *neurons, counts.numpy())
        return counts

    def _float_product(self, x: Tensor) -> Tensor:
        layout, device, n_out = self._layout, x.device, self._weight.shape[2]
        taps = torch.from_numpy(layout.taps).long().to(device)
        key = ("matrix", self.own.start, len(layout.taps), self.dtype)
        matrix = _fixed(layout).arranged(
            key, lambda: self._weight[taps].reshape(-1, n_out).to(self.dtype)
        )
        entries = torch.from_numpy(layout.table).long().to(device)
        entries = torch.where(entries < 0, len(x), entries).flatten()  # padding: a row of zeros
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
        gathered = padded.index_select(0, entries).view(len(layout.table), len(matrix))
        return torch.mm(gathered, matrix).round().to(torch.int32)


def _fixed(layout: RowLayout) -> FixedPoint:
    assert layout.call.fixed is not None
    return layout.call.fixed


def _run_analog_input(call: LayerCall, fixed: FixedPoint, values: list[Tensor]) -> Tensor:
    """The first layer: the same current in every step, or all of it in the first."""
    connectivity, n_steps = call.connectivity, call.coding.n_steps
    rows = analog_input.arriving(call, fixed, values)
    flat = rows.flatten(0, -2)[None]
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
    return out if connectivity.out_channels_last else out.movedim(-1, 2)


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
            rows = arriving[:1] if arriving.stride(0) == 0 else arriving
            given = (rows.numpy(), len(arriving), *neuron, *arrays)
            kernels.run(_scan, len(words), *given, grain=64)
            return words
        for t, z in enumerate(arriving):
            if self.shift:
                self.potential -= self.potential >> self.shift
            self.potential += z * int(self.gain) + self.bias
            spikes = self.potential >= self.threshold
            self.potential -= spikes * (self.potential if self.to_zero else self.threshold)
            words |= spikes.to(torch.uint8) << t
        return words


@compiled
def _scan(start, stop, arriving, n_steps, gain, shift, to_zero, bias, threshold, potential, words):
    """Integrate and fire; neurons that leak or reset to zero have a loop of their own.

    What arrives in one step alone arrives in all.
    """
    is_plain = shift == 0 and not to_zero
    for p in range(start, stop):
        line, word = potential[p], words[p]
        for t in range(n_steps):
            mask, z = np.uint8(1 << t), arriving[min(t, arriving.shape[0] - 1), p]
            if is_plain:
                for j in range(len(line)):
                    line[j] += z[j] * gain + bias[j]
                    fires = line[j] >= threshold[j]
                    line[j] -= threshold[j] if fires else np.int32(0)
                    word[j] |= mask if fires else np.uint8(0)
                continue
            for j in range(len(line)):
                v = line[j]
                if shift:
                    v -= v >> np.int32(shift)
                v += z[j] * gain + bias[j]
                fires = v >= threshold[j]
                rest = np.int32(0) if to_zero else v - threshold[j]
                line[j] = rest if fires else v
                word[j] |= mask if fires else np.uint8(0)
