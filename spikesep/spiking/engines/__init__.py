"""Ways to run a spiking layer, all with the same spikes in fixed-point form: which one, and why.

dense   all steps in one product: int8 in fixed-point form, else floating point; also on accelerators
event   numba on lists of spikes: work in proportion to activity; CPU only
auto    event where it can and where spikes are few enough, else dense
"""

from torch import Tensor, nn

from spikesep.spiking.engines import dense, event
from spikesep.spiking.signal import Signal

ENGINES = ("auto", "dense", "event")
DENSE_RATE = {True: 0.3, False: 0.2}  # spikes a place and step from which dense is faster, in integers and in floats


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
    if layer.engine != "auto":
        return layer.engine, "as asked for"
    if signal.trains[0].words.device.type != "cpu":
        return "dense", "on an accelerator"
    rate = float(signal.count.float().mean()) / layer.coding.n_steps
    limit = DENSE_RATE[layer.fixed is not None]
    name = "event" if rate < limit else "dense"
    return name, f"{rate:.3f} spikes a place and step, dense from {limit:g}"
