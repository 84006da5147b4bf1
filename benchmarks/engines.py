"""The engines against peers on the same network, weights and spikes; counts are compared before anything is timed."""

from functools import partial

import torch

from benchmarks import stack
from benchmarks.timing import row, time_in_turn

RATE = 0.1
PEERS = {
    "SpikingJelly 2.0, multi-step": stack.spikingjelly,
    "snnTorch 1.0": stack.snntorch,
    "plain loop over time": stack.plain_loop,
    "float32, steps batched": stack.batched_float,
}


def small_stack(quick: bool) -> list[dict]:
    """Eight layers of 128 channels, N_s = 32, one second of sound."""
    dilations = [1, 2, 4, 8] if quick else [1, 2, 4, 8, 16, 32, 64, 128]
    return _against_peers(f"{len(dilations)} layers, 128 channels, N_s=32, rate {RATE}", 128, dilations, PEERS, quick)


def full_size(quick: bool) -> list[dict]:
    """The paper's separator stack: ten layers of 512 channels; seconds a second of sound are the real-time factor."""
    peers = {name: PEERS[name] for name in ("SpikingJelly 2.0, multi-step", "float32, steps batched")}
    dilations = [1, 2, 4] if quick else [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    name = f"{len(dilations)} layers, 512 channels, N_s=32, rate {RATE}"
    return _against_peers(name, 512, dilations, peers, quick, rounds=3)


def activity(quick: bool) -> list[dict]:
    """The event engine at half the firing rate: ours at half, the 'peer' at the full rate."""
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


def _against_peers(name: str, n_channels: int, dilations: list[int], peers, quick: bool, rounds: int = 7) -> list[dict]:
    network, signal = stack.build_stack(n_channels, dilations, 32, RATE)
    spikes = signal.trains[0].spikes.float()
    runs = {engine: partial(stack.ours(network, engine), signal) for engine in ("event", "dense")}
    runs |= {peer: partial(make(network), spikes) for peer, make in peers.items()}
    with torch.no_grad():
        expected = runs["event"]()
        equal = {other: bool(torch.equal(run(), expected)) for other, run in runs.items()}
    times = time_in_turn(runs, 2 if quick else rounds)
    name = f"{name} (last layer {float(expected.float().mean()) / 32:.2f})"
    return [row(name, times["event"], other, times[other], equal[other]) for other in runs if other != "event"]
