"""Ways to run a spiking layer, all with the same spikes in fixed-point form: which one, and why.

dense   all steps in one product: int8 in fixed-point form, else floating point; on any device
event   numba on lists of spikes: work in proportion to activity; CPU only
gpu     one Triton kernel a layer; accelerators only
auto    on an accelerator gpu. On a CPU, in fixed-point form, event where spikes are few, else dense

Float sums are rounded in the order of their additions, which each engine has of its own, and a spike more or less
travels on. With float weights `auto` therefore looks at the layer alone, never at the spikes: on a CPU it is dense, in
training, validation, cache and inference.
"""

import os
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.connections import has_table
from spikesep.spiking.engines import dense, event
from spikesep.spiking.signal import Signal

ENGINES = ("auto", "dense", "event", "gpu")
DENSE_RATE, DENSE_RATE_DEFERRED = 0.8, 0.25
"""Spikes a place and product from which `auto` takes dense; right only about. A product is that of a step, or of the
whole window where neurons defer, which dense then fires in one pass (`python -m benchmarks --only crossing`)."""


def fire(layer: nn.Module, signal: Signal) -> tuple[Tensor, str]:
    """Words of the layer's neurons, and which engine made them and why.

    Raises:
        NotImplementedError: the layer's `engine` cannot run it.
        SpikeSepError: `engine` is gpu, and the signal is not on an accelerator.
    """
    name, why = choose(layer, signal)
    if name == "gpu":
        from spikesep.spiking.engines import gpu  # imports Triton

        return gpu.fire(layer, signal), f"{name}: {why}"
    return (event if name == "event" else dense).fire(layer, signal), f"{name}: {why}"


def choose(layer: nn.Module, signal: Signal) -> tuple[str, str]:
    """The engine for a layer whose `engine` may be auto, and the reason."""
    if not signal.is_spiking:
        return "dense", "the input is analog"
    if layer.engine == "dense":
        return "dense", "as asked for"
    device = signal.trains[0].words.device
    if layer.engine == "gpu":
        require_gpu(device)
        return "gpu", "as asked for"
    if device.type != "cpu":
        missing = no_gpu(device)
        return ("dense", missing) if missing else _on_accelerator(layer, device)
    if max(layer.synapse.weight.shape[:2]) > event.MOST_CHANNELS:
        return "dense", "too many channels for lists"
    if layer.engine == "event":
        return "event", "as asked for"
    if layer.fixed is None:
        return "dense", "float weights, added up in one order"
    n_products, most = (
        (1, DENSE_RATE_DEFERRED) if layer.coding.deferred else (layer.coding.n_steps, DENSE_RATE)
    )
    n_spikes = sum(trains.n_spikes for trains in signal.trains)
    rate = n_spikes / (signal.shape.numel() * n_products)
    return (
        "event" if rate < most else "dense",
        f"{rate:.3f} spikes a place and product, dense from {most:g}",
    )


def no_gpu(device: torch.device) -> str:
    """Why the gpu engine cannot run there; empty where it can."""
    if find_spec("triton") is None:
        return "the gpu engine needs triton, which is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the gpu engine needs an accelerator, this is {device.type}"
    return ""


def require_gpu(device: torch.device) -> None:
    """See that the gpu engine can run.

    Raises:
        SpikeSepError: it cannot.
    """
    if missing := no_gpu(device):
        remedy = "give a device with one (cuda), or engine auto, dense or event"
        raise SpikeSepError(f"engine gpu: {missing}; {remedy}")


def _on_accelerator(layer: nn.Module, device: torch.device) -> tuple[str, str]:
    """gpu, or dense for layers with float weights that are not made for it; the spikes have no say."""
    if layer.fixed is None and not has_table(layer):
        return "dense", "the geometry has no table of connections"
    if layer.fixed is None and layer.mode != "spiking" and torch.is_autocast_enabled(device.type):
        return "dense", "it learns in the numbers of autocast"
    return "gpu", f"on an accelerator ({device.type})"
