"""Ways to run a spiking layer, all with the same spikes in fixed-point form: which one, and why.

dense   all steps in one product: int8 in fixed-point form, else floating point; also on accelerators
event   numba on lists of spikes: work in proportion to activity; CPU only
auto    in fixed-point form event where spikes are few, else dense; with float weights, whose sums every engine rounds
        in its own order, dense
"""

from torch import Tensor, nn

from spikesep.spiking.engines import dense, event
from spikesep.spiking.signal import Signal

ENGINES = ("auto", "dense", "event")
DENSE_RATE = 0.3
"""Spikes a place and product from which `auto` takes dense: an estimate, right only about. A product is that of a step,
or of the whole window where neurons defer."""


def fire(layer: nn.Module, signal: Signal) -> tuple[Tensor, str]:
    """Words of the layer's neurons, and which engine made them and why.

    Raises:
        NotImplementedError: the layer's `engine` cannot run it.
    """
    name, why = choose(layer, signal)
    return (event if name == "event" else dense).fire(layer, signal), f"{name}: {why}"


def choose(layer: nn.Module, signal: Signal) -> tuple[str, str]:
    """The engine for a layer whose `engine` may be auto, and the reason."""
    if not signal.is_spiking:
        return "dense", "the input is analog"
    if layer.engine == "dense":
        return "dense", "as asked for"
    words = signal.trains[0].words
    if words.device.type != "cpu":
        return "dense", f"event runs on the CPU alone, this is {words.device.type}"
    if max(layer.synapse.weight.shape[:2]) > event.MOST_CHANNELS:
        return "dense", "too many channels for lists"
    if layer.engine == "event":
        return "event", "as asked for"
    if layer.fixed is None:
        return "dense", "float weights"
    n_products = 1 if layer.coding.deferred else layer.coding.n_steps
    rate = float(signal.count.float().mean()) / n_products
    return (
        "event" if rate < DENSE_RATE else "dense",
        f"{rate:.3f} spikes a place and product, dense from {DENSE_RATE:g}",
    )
