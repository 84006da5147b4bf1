"""The dense engine: the synapses of many steps as one matrix product, the scan over time as one pass behind it.

The fixed-point form takes int8 products with int32 sums; spikes that meet are added up before. Float weights take
torch's convolutions, in bfloat16 where autocast asks for it and the layer still learns.
"""

from contextlib import nullcontext
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from spikesep.spiking.connections import divisor
from spikesep.spiking.engines.call import Job
from spikesep.spiking.integers import Plan
from spikesep.spiking.neuron import constant_current_count
from spikesep.spiking.signal import Signal
from spikesep.spiking.spike_trains import kernels, packed

BLOCK = 8  # steps a product: one word
COMPILED = "cpu"  # where there are int8 products and numba's scan; elsewhere torch's operations do the same


def fire(layer: nn.Module, signal: Signal) -> Tensor:
    """Words of the layer's neurons, [ceil(N_s / 8), batch, ...] uint8, for any signal.

    Raises:
        NotImplementedError: a geometry without a table of connections, in fixed-point form.
    """
    final = layer.mode == "spiking" or layer.fixed is not None
    with torch.autocast(layer.threshold.device.type, enabled=False) if final else nullcontext():
        if layer.fixed is None:
            return _fire_floats(
                layer, signal if signal.is_spiking or not final else Signal(signal.value.float())
            )
        if not signal.is_spiking:
            return _fire_analog(layer, signal.value)
        job = Job.of(layer, signal)
        return job.words([_fire_group(job, *group) for group in job.groups()])


def _fire_floats(layer: nn.Module, signal: Signal) -> Tensor:
    threshold, coding = float(layer.threshold), layer.coding
    initial = coding.initial_potential * threshold
    if coding.deferred and signal.is_spiking:
        count = constant_current_count(
            layer.charge(signal).float(), threshold, initial, coding.n_steps
        )
        return packed.burst(count, coding.n_steps)
    return packed.fire(layer.current(signal), threshold, initial)


def _fire_group(job: Job, sources: list[Tensor], weight: Tensor, own: slice) -> Tensor:
    """Words [ceil(N_s / 8), positions, C_out] of one group of output channels."""
    device, (_, n_in, n_out) = weight.device, weight.shape
    taps = torch.from_numpy(job.taps).long().to(device)
    product, dtype = _product(job, device)
    key = ("matrix", own.start, len(job.taps), dtype)
    matrix = job.layer.fixed.arranged(key, lambda: weight[taps].reshape(-1, n_out).to(dtype))
    entries = torch.from_numpy(job.table).long().to(device)
    entries = torch.where(
        entries < 0, sources[0].shape[1], entries
    ).flatten()  # padding is a row of zeros
    n_positions = len(job.table)

    def arriving(units: Tensor) -> Tensor:
        x = torch.zeros(len(units), units.shape[1] + 1, n_in, dtype=dtype, device=device)
        x[:, :-1] = units
        x = x.index_select(1, entries).view(len(units) * n_positions, -1)
        return product(x, matrix).view(len(units), n_positions, n_out)

    if job.deferred:
        units = packed.collect(sources, job.plan.factors.tolist(), dtype)
        return _fire_deferred(job, own, arriving(units[None])[0])
    scan = Scan(job.plan, own, n_positions)
    words = []
    for block, begin in enumerate(range(0, job.n_steps, BLOCK)):
        n = min(BLOCK, job.n_steps - begin)
        units = packed.drive(
            [s[block : block + 1] for s in sources], job.plan.factors.tolist(), n, torch.float32
        )
        words.append(scan.fire(arriving(units)))
    return torch.stack(words)


def _fire_deferred(job: Job, own: slice, arriving: Tensor) -> Tensor:
    """Words of neurons that have collected what arrives in the whole window, [positions, C] int32."""
    plan = job.plan
    initial, threshold = plan.initial[own] + job.n_steps * plan.bias[own], plan.threshold[own]
    if arriving.device.type != COMPILED:
        charge = arriving * int(plan.gain) + initial
        return packed.burst(charge.div(threshold, rounding_mode="floor"), job.n_steps)
    words = torch.empty(-(-job.n_steps // 8), *arriving.shape, dtype=torch.uint8)
    arrays = [tensor.numpy() for tensor in (initial, threshold, words)]
    kernels.run(_burst, len(arriving), arriving.numpy(), plan.gain, job.n_steps, *arrays, grain=64)
    return words


def _product(job: Job, device: torch.device):
    """A matrix product that is exact for these integers, and the number format it takes."""
    units = int(job.plan.factors.sum()) * (job.n_steps if job.deferred else 1)
    if units <= 127 and device.type == COMPILED and int8_products_are_exact():
        return torch._int_mm, torch.int8
    return (
        _rounded_product,
        torch.float32 if job.layer.fixed.reach() * units * job.sharing < 2** 24 else torch.float64,
    )


@cache
def int8_products_are_exact() -> bool:
    """Whether torch's int8 products are exact here. Without VNNI, oneDNN's saturate (and are slow); so they do where it
    was told to leave VNNI alone (ONEDNN_MAX_CPU_ISA).
    """
    most = torch.full((64, 64), 127, dtype=torch.int8)
    return torch.cpu._is_vnni_supported() and bool((torch._int_mm(most, most) == 64 * 127**2).all())


def _rounded_product(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.mm(x, matrix).round().to(torch.int32)


def _fire_analog(layer: nn.Module, value: Tensor) -> Tensor:
    """The first layer: the same current in every step, or all of it in the first. Integers are exact in float64."""
    fixed, n_steps, levels = layer.fixed, layer.coding.n_steps, int(layer.fixed.input_levels)
    units = (value.double() / fixed.input_unit).round().clamp(-levels, levels)
    if layer.before is not None:  # a sum of units, not their mean
        units = (layer.before(units) * divisor(layer)).round()
    synapse = {"weight": fixed.weight.double(), "bias": units.new_zeros(len(fixed.weight))}
    arriving = functional_call(layer.synapse, synapse, (units,)).round().to(torch.int32)
    rows = arriving if isinstance(layer.synapse, nn.Linear) else arriving.movedim(1, -1)
    flat = rows.reshape(1, -1, rows.shape[-1])
    if layer.coding.encoding == "impulse":
        flat = torch.cat([flat, flat.new_zeros(n_steps - 1, *flat.shape[1:])])
    scan = Scan(fixed.plan([]), slice(None), flat.shape[1])
    words = []
    for begin in range(0, n_steps, BLOCK):
        n = min(BLOCK, n_steps - begin)
        words.append(
            scan.fire(flat.expand(n, -1, -1) if len(flat) == 1 else flat[begin : begin + n])
        )
    out = torch.stack(words).view(len(words), *rows.shape)
    return out if isinstance(layer.synapse, nn.Linear) else out.movedim(-1, 2).contiguous()


class Scan:
    """Integrate-and-fire in int32, a block of steps at a time; the potential stays for the next.

    Args:
        plan: thresholds and biases.
        own: the channels.
        n_positions: of each.
    """

    def __init__(self, plan: Plan, own: slice, n_positions: int):
        self.gain = plan.gain
        self.bias, self.threshold = plan.bias[own], plan.threshold[own]
        self.potential = plan.initial[own].repeat(n_positions, 1)

    def fire(self, arriving: Tensor) -> Tensor:
        """The word of each neuron, [positions, C] uint8, for what arrives, [n_steps <= 8, positions, C] int32."""
        words = torch.zeros(arriving.shape[1:], dtype=torch.uint8, device=arriving.device)
        if arriving.device.type == COMPILED:
            arrays = [
                tensor.numpy() for tensor in (self.bias, self.threshold, self.potential, words)
            ]
            kernels.run(_scan, len(words), arriving.numpy(), self.gain, *arrays, grain=64)
            return words
        for t, z in enumerate(arriving):
            self.potential += z * int(self.gain) + self.bias
            spikes = self.potential >= self.threshold
            self.potential -= spikes * self.threshold
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
def _scan(start, stop, arriving, gain, bias, threshold, potential, words):
    for p in range(start, stop):
        for t in range(arriving.shape[0]):
            mask = np.uint8(1 << t)
            for j in range(potential.shape[1]):
                potential[p, j] += arriving[t, p, j] * gain + bias[j]
                if potential[p, j] >= threshold[j]:
                    potential[p, j] -= threshold[j]
                    words[p, j] |= mask
