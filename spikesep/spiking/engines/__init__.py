"""Engines: several ways to run a spiking layer, all with the same spikes in fixed-point form.

dense   all steps in one product: int8 in fixed-point form, else floating point; on any device
event   numba on lists of spikes: work in proportion to activity; CPU only
gpu     one Triton kernel per layer; accelerators only
auto    on an accelerator, gpu; on a CPU in fixed-point form, event where spikes are few; else dense

`register` adds engines of one's own, which may also run other neurons.

Each engine rounds sums of floats in its own order of addition, and one spike more or less spreads
to the layers behind. With float weights, `auto` therefore looks at the layer alone and never at its
spikes: on a CPU it takes dense in training, validation, cache and inference.
"""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.spiking.engines import dense, event
from spikesep.spiking.engines.call import LayerCall
from spikesep.spiking.engines.prepared import PreparedLayer
from spikesep.spiking.signal import Signal
from spikesep.spiking.spike_trains.packed import Bursts

ENGINES = ("auto", "dense", "event", "gpu")
Engine = Callable[[LayerCall, Sequence[Signal]], Tensor | Bursts]
"""Fires a layer's neurons for a signal for each of its synapses; returns their spikes as bit words,
[ceil(N_s / 8), batch, ...] uint8, or as bursts."""
_registered: dict[str, Engine] = {}
DENSE_RATE, DENSE_RATE_DEFERRED = 0.8, 0.15
"""Spikes per input and product from which `auto` takes dense; approximate. There is one product per
step or, with deferred neurons, one per window (`python -m benchmarks --only crossing`).
"""
FEW_INPUTS = 2**14
"""Inputs up to which counting spikes, and listing them, takes longer than a product."""


def register(name: str, engine: Engine) -> None:
    """Add an engine, or replace one added before, for `SpikingNetwork.use_engine`.

    Args:
        name: its name.
        engine: runs every layer of a network, also the first, whose input is analog.

    Raises:
        ValueError: the name is that of a built-in engine.
    """
    if name in ENGINES:
        raise ValueError(f"{name!r} is built in; give the engine another name")
    _registered[name] = engine


def engine_names() -> tuple[str, ...]:
    """Names of all engines, built in and registered."""
    return (*ENGINES, *_registered)


def run(
    call: LayerCall, signals: Sequence[Signal], engine: str = "auto"
) -> tuple[Tensor | Bursts, str]:
    """Fire a layer's neurons for a signal for each of its synapses.

    Returns:
        Spikes as bit words, [ceil(N_s / 8), batch, ...] uint8, or as bursts; the engine that ran,
        and why.

    Raises:
        NotImplementedError: the engine cannot run this layer.
        SpikeSepError: `engine` is gpu, and the signal is not on an accelerator.
    """
    if engine in _registered:
        return _registered[engine](call, signals), f"{engine}: as asked for"
    name, why = choose(call, signals, engine)
    if name == "gpu":
        from spikesep.spiking.engines import gpu  # imports Triton

        return gpu.run(call, signals), f"{name}: {why}"
    return (event if name == "event" else dense).run(call, signals), f"{name}: {why}"


def prepare(
    call: LayerCall, signals: Sequence[Signal], engine: str = "auto"
) -> tuple[PreparedLayer, str] | None:
    """Lay out a layer for signals of one shape that arrive again and again, in small blocks.

    Returns:
        The layer, which fires the spikes of `run`, and what `run` says about its engine; None where
        `run` has to choose the engine, or lay the layer out, each time.
    """
    n_inputs = sum(signal.shape.numel() for signal in signals)
    if not (engine == "dense" or n_inputs <= FEW_INPUTS):
        return None
    name, why = ("", "") if engine in _registered else choose(call, signals, engine)
    layer = PreparedLayer.of(call, signals) if name == "dense" else None
    return None if layer is None else (layer, f"{name}: {why}")


def choose(call: LayerCall, signals: Sequence[Signal], engine: str = "auto") -> tuple[str, str]:
    """The engine for a layer and its signals, and the reason."""
    if not all(signal.is_spiking for signal in signals):
        return "dense", "the input is analog"
    if engine == "dense":
        return "dense", "as asked for"
    device = signals[0].trains[0].device
    if engine == "gpu":
        require_gpu(device)
        return "gpu", "as asked for"
    if device.type != "cpu":
        missing = no_gpu(device)
        return ("dense", missing) if missing else _on_accelerator(call, device)
    if max(max(p.weight.shape[:2]) for p in call.projections) > event.MOST_CHANNELS:
        return "dense", "too many channels for lists"
    if engine == "event":
        return "event", "as asked for"
    if call.fixed is None:
        return "dense", "float weights, added up in one order"
    n_inputs = sum(signal.shape.numel() for signal in signals)
    if n_inputs <= FEW_INPUTS:
        return "dense", "few inputs, as in a block of a live stream"
    deferred, n_steps = call.coding.deferred, call.coding.n_steps
    n_products, most = (1, DENSE_RATE_DEFERRED) if deferred else (n_steps, DENSE_RATE)
    n_spikes = sum(trains.n_spikes for signal in signals for trains in signal.trains)
    rate = n_spikes / (n_inputs * n_products)
    name = "event" if rate < most else "dense"
    return name, f"{rate:.3f} spikes per input and product, dense from {most:g}"


def no_gpu(device: torch.device) -> str:
    """Why the gpu engine cannot run on a device; empty where it can."""
    if find_spec("triton") is None:
        return "the gpu engine needs triton, which is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the gpu engine needs an accelerator, this is {device.type}"
    return ""


def require_gpu(device: torch.device) -> None:
    """Check that the gpu engine can run on a device.

    Raises:
        SpikeSepError: it cannot.
    """
    if missing := no_gpu(device):
        remedy = "give a device with one (cuda), or engine auto, dense or event"
        raise SpikeSepError(f"engine gpu: {missing}; {remedy}")


def _on_accelerator(call: LayerCall, device: torch.device) -> tuple[str, str]:
    """gpu, or dense for layers with float weights that gpu does not suit, whatever the spikes."""
    if call.fixed is None and not call.has_table:
        return "dense", "the synapse has no connection table"
    if call.fixed is None and call.learns and torch.is_autocast_enabled(device.type):
        return "dense", "it learns in the numbers of autocast"
    return "gpu", f"on an accelerator ({device.type})"
