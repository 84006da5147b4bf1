"""Deferred layers laid out once, for spikes that arrive in the same shape again and again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spikesep.spiking.engines.call import LayerCall, RowLayout
from spikesep.spiking.engines.dense import COMPILED, Products
from spikesep.spiking.engines.int8_products import MOST_INPUT
from spikesep.spiking.signal import Signal, SpikeTrains
from spikesep.spiking.spike_trains.packed import Bursts


class PreparedLayer:
    """A layer of deferred neurons in fixed-point form, ready for signals of one shape.

    It fires the spikes of `dense.run`. In a stream, which calls each layer with a few frames at a
    time, laying the layer out would take longer than its product.

    Args:
        layout: the layer, with signals of the shape and the sources that will arrive.
        products: its synapse.
    """

    def __init__(self, layout: RowLayout, products: Products):
        plan, self._n_steps = layout.plan, layout.n_steps
        self._layout, self._products = layout, products
        self._initial = plan.initial + self._n_steps * plan.bias
        self._factors = plan.factors.tolist()

    @classmethod
    def of(cls, call: LayerCall, signals: Sequence[Signal]) -> "PreparedLayer | None":
        """Lay out a layer; None if it needs more than one int8 product of counts."""
        is_plain = len(signals) == 1 and signals[0].is_spiking
        if not is_plain or call.fixed is None or not call.coding.deferred:
            return None
        if call.threshold.device.type != COMPILED:
            return None
        layout = RowLayout.of(call, signals)
        most = int(max(layout.units)) * layout.n_steps
        if layout.n_blocks > 1 or most > MOST_INPUT:
            return None
        ((weight, own),) = layout.weights()
        products = Products(layout, weight, own, most)
        return None if products.int8 is None else cls(layout, products)

    def __call__(self, signal: Signal) -> Bursts:
        """Fire the neurons for a signal."""
        layout, connectivity = self._layout, self._layout.call.connectivity
        rows = [connectivity.to_rows(_counts(trains)[None])[0] for trains in signal.trains]
        x = rows[0] if self._factors[0] == 1 else rows[0] * self._factors[0]
        for own, factor in zip(rows[1:], self._factors[1:], strict=True):
            x = torch.add(x, own, alpha=factor)
        fired = self._products.fire(x, self._initial, layout.plan.threshold, self._n_steps)
        return Bursts(layout.to_output([fired[None]])[0])


def _counts(trains: SpikeTrains) -> Tensor:
    return trains.count.to(torch.uint8) if trains.bursts is None else trains.bursts
