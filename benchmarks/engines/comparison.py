"""Engines against other simulators on the same network, weights and spikes.

Spike counts are compared before timing.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.engines import stack
from benchmarks.timing import row, time_in_turn
from spikesep.spiking.signal import Signal

RATE = 0.1
PEERS = {
    "SpikingJelly 2.0, multi-step": stack.spikingjelly,
    "snnTorch 1.0": stack.snntorch,
    "plain loop over time": stack.plain_loop,
    "float32, steps batched": stack.batched_float,
}
PACKAGES = {"SpikingJelly 2.0, multi-step": "spikingjelly", "snnTorch 1.0": "snntorch"}
# Peers on an accelerator, where SpikingJelly's neurons are Triton kernels.
ACCELERATED = ("SpikingJelly 2.0, multi-step", "float32, steps batched")


def small_stack(quick: bool) -> list[dict]:
    """Run eight layers of 128 channels, N_s = 32, one second of sound."""
    dilations = [1, 2, 4, 8] if quick else [1, 2, 4, 8, 16, 32, 64, 128]
    return _against_peers(
        f"{len(dilations)} layers, 128 channels, N_s=32, rate {RATE}", 128, dilations, PEERS, quick
    )


def full_size(quick: bool) -> list[dict]:
    """Run the paper's stack, ten layers of 512 channels; seconds equal the real-time factor."""
    peers = {
        name: PEERS[name] for name in ("SpikingJelly 2.0, multi-step", "float32, steps batched")
    }
    dilations = [1, 2, 4] if quick else [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    name = f"{len(dilations)} layers, 512 channels, N_s=32, rate {RATE}"
    return _against_peers(name, 512, dilations, peers, quick, rounds=3)


def activity(quick: bool) -> list[dict]:
    """Run the event engine at half the firing rate (ours) and at the full rate (the peer)."""
    rows = []
    for n_channels, rate in ((128, 0.1),) if quick else ((128, 0.1), (512, 0.1), (512, 0.2)):
        dilations = [1, 2] if quick else [1, 2, 4, 8]
        runs = {}
        for share in (rate / 2, rate):
            network, signal = stack.build_stack(n_channels, dilations, 32, share)
            runs[share] = partial(stack.ours(network, "event"), signal)
        times = time_in_turn(runs, 3 if quick else 7)
        name = f"event engine, {n_channels} channels, rate {rate / 2:g} against {rate:g}"
        rows.append(row(name, times[rate / 2], f"the same at {rate:g}", times[rate], None))
    return rows


def crossing(quick: bool) -> list[dict]:
    """Compare the event and the dense engine (the peer) over firing rates."""
    rows = []
    for n_channels in (32,) if quick else (128, 512):
        for rate in (0.2,) if quick else (0.2, 0.4, 0.6):
            network, signal = stack.build_stack(
                n_channels, [1, 2] if quick else [1, 2, 4], 32, rate
            )
            runs = {
                engine: partial(stack.ours(network, engine), signal)
                for engine in ("event", "dense")
            }
            rows += _compare(
                f"{n_channels} channels, rate {rate}", runs, "event", 2 if quick else 5
            )
    for n_channels in (32,) if quick else (128, 256, 512):
        for spikes in (0.2,) if quick else (0.1, 0.2, 0.4, 0.8):
            network, signal = stack.build_stack(
                n_channels, [1, 2], n_steps=12, rate=spikes / 12, seconds=4.0, deferred=True
            )
            runs = {
                engine: partial(stack.ours(network, engine), signal)
                for engine in ("event", "dense")
            }
            name = f"{n_channels} channels, deferred, {spikes} spikes a window"
            rows += _compare(name, runs, "event", 2 if quick else 5)
    return rows


def accelerator(quick: bool) -> list[dict] | str:
    """Run the gpu engine on both stacks with batches of 1 and 64 seconds of sound.

    Returns the reason instead if there is no accelerator.
    """
    if not torch.cuda.is_available():
        return "no accelerator"
    rows, peers = [], _installed(ACCELERATED)
    for n_channels, n_layers in ((128, 8), (512, 10)):
        network, signal = stack.build_stack(
            n_channels, [2**k for k in range(2 if quick else n_layers)], 32, RATE
        )
        network.cuda()
        for batch in (1, 4 if quick else 64):
            words = signal.trains[0].words.expand(-1, batch, -1, -1).contiguous().cuda()
            trains = replace(signal.trains[0], words=words, threshold=network[0].threshold)
            runs = {
                engine: partial(stack.ours(network, engine), Signal(trains=(trains,)))
                for engine in ("gpu", "dense")
            }
            runs |= {peer: partial(PEERS[peer](network), trains.spikes.float()) for peer in peers}
            runs = {who: partial(_synchronized, run) for who, run in runs.items()}
            layers = f"{len(network) - 1} layers, {n_channels} channels, N_s=32"
            name = f"{layers}, rate {RATE}, batch {batch}"
            rows += _compare(name, runs, "gpu", 2 if quick else 20)
    return rows


def _synchronized(run) -> Tensor:
    out = run()
    torch.cuda.synchronize()
    return out


def _against_peers(
    name: str, n_channels: int, dilations: list[int], peers, quick: bool, rounds: int = 7
) -> list[dict]:
    network, signal = stack.build_stack(n_channels, dilations, 32, RATE)
    spikes = signal.trains[0].spikes.float()
    runs = {engine: partial(stack.ours(network, engine), signal) for engine in ("event", "dense")}
    runs |= {peer: partial(peers[peer](network), spikes) for peer in _installed(peers)}
    return _compare(name, runs, "event", 2 if quick else rounds)


def _installed(peers: Iterable[str]) -> list[str]:
    """Return the peers that are installed."""
    missing = [peer for peer in peers if peer in PACKAGES and not find_spec(PACKAGES[peer])]
    if missing:
        print(f"skipped, because the extra `bench` is not installed: {', '.join(missing)}")
    return [peer for peer in peers if peer not in missing]


def _compare(name: str, runs: dict, ours: str, rounds: int) -> list[dict]:
    """Compare counts [C, K] of the last layer, then time one contender against all others."""
    with torch.no_grad():
        expected = runs[ours]()
        equal = {other: bool(torch.equal(run(), expected)) for other, run in runs.items()}
    times = time_in_turn(runs, rounds)
    name = f"{name} (last layer {float(expected.float().mean()) / 32:.2f})"
    return [
        row(name, times[ours], other, times[other], equal[other]) for other in runs if other != ours
    ]
