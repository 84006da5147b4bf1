"""Engines against other simulators on the same network, weights and spikes.

A peer's time counts only if it gave the same spike counts in every neuron before.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.engines import stack
from benchmarks.engines.peers import PEERS
from benchmarks.engines.trial import OTHER, SAME, try_peers
from benchmarks.timing import row, time_in_turn, untimed_row

RATE = 0.1
NO_GPU = "no CUDA accelerator (`spikesep-doctor` says what torch finds)"


def small_stack(quick: bool) -> list[dict]:
    """Run eight layers of 128 channels, N_s = 32, one second of sound."""
    dilations = [1, 2, 4, 8] if quick else [1, 2, 4, 8, 16, 32, 64, 128]
    return _against_peers(
        f"{len(dilations)} layers, 128 channels, N_s=32, rate {RATE}",
        128,
        dilations,
        _on_cpu(quick),
        quick,
    )


def full_size(quick: bool) -> list[dict]:
    """Run the paper's stack, ten layers of 512 channels; seconds equal the real-time factor."""
    dilations = [1, 2, 4] if quick else [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    name = f"{len(dilations)} layers, 512 channels, N_s=32, rate {RATE}"
    return _against_peers(name, 512, dilations, _on_cpu(quick), quick, rounds=3)


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
        for spikes in (0.2,) if quick else (0.02, 0.05, 0.1, 0.2, 0.4):
            network, signal = stack.build_stack(
                n_channels, [1, 2], n_steps=12, rate=spikes / 12, seconds=2.0, deferred=True
            )
            runs = {
                engine: partial(stack.ours(network, engine), signal)
                for engine in ("event", "dense")
            }
            name = f"{n_channels} channels, deferred, {spikes} spikes a window"
            rows += _compare(name, runs, "event", 2 if quick else 5, rate_over=1)
    return rows


def accelerator(quick: bool) -> list[dict] | str:
    """Run the gpu engine on the paper's stack with batches of 1 and 64 seconds of sound.

    Returns the reason instead if there is no accelerator.
    """
    if not torch.cuda.is_available():
        return NO_GPU
    rows = []
    dilations = [2**k for k in range(2 if quick else 10)]
    network, signal = stack.build_stack(512, dilations, 32, RATE)
    layers = stack.plain_layers(network.cuda())
    for batch in (1, 4 if quick else 64):
        copies = stack.repeated(signal, batch, "cuda")
        runs = {engine: partial(stack.ours(network, engine), copies) for engine in ("gpu", "dense")}
        name = f"{len(network) - 1} layers, 512 channels, N_s=32, rate {RATE}, batch {batch}"
        peers = [each for each in PEERS if not (quick and PEERS[each].compiles)]
        spikes = copies.trains[0].spikes.float()
        rows += _compare(name, runs, "gpu", 2 if quick else 20, peers, layers, spikes)
    return rows


def _on_cpu(quick: bool) -> list[str]:
    """Return the peers for a CPU; `quick` leaves out those that compile."""
    return [
        name
        for name, peer in PEERS.items()
        if "cpu" in peer.devices and not (quick and peer.compiles)
    ]


def _finished(run: Callable[[], Tensor]) -> Tensor:
    """Run, and wait for an accelerator."""
    out = run()
    if out.is_cuda:
        torch.cuda.synchronize()
    return out


def _against_peers(
    name: str, n_channels: int, dilations: list[int], peers, quick: bool, rounds: int = 7
) -> list[dict]:
    network, signal = stack.build_stack(n_channels, dilations, 32, RATE)
    runs = {engine: partial(stack.ours(network, engine), signal) for engine in ("event", "dense")}
    layers, spikes = stack.plain_layers(network), signal.trains[0].spikes.float()
    return _compare(name, runs, "event", 2 if quick else rounds, peers, layers, spikes)


def _compare(
    name: str,
    runs: dict,
    ours: str,
    rounds: int,
    peers: Sequence[str] = (),
    layers: Sequence[stack.PlainLayer] = (),
    spikes: Tensor | None = None,
    rate_over: int = 32,
) -> list[dict]:
    """Compare counts [B, C, K] of the last layer, then time one contender against all others.

    Args:
        name: what is run.
        runs: our engines.
        ours: the engine that the others are compared with.
        rounds: of timing.
        peers: other simulators, which are tried in a process of their own first.
        layers: the network, for peers.
        spikes: its input, for peers, [N_s, B, C, K].
        rate_over: number of steps that counts are divided by in the name: N_s, or 1 for spikes a
            window.
    """
    with torch.no_grad():
        expected = runs[ours]()
        verdicts = {
            other: SAME if torch.equal(run(), expected) else OTHER for other, run in runs.items()
        }
        if spikes is not None:
            verdicts |= try_peers([PEERS[name] for name in peers], list(layers), spikes, expected)
        runs |= {
            peer: partial(PEERS[peer].build(layers), spikes)
            for peer in peers
            if verdicts[peer] == SAME
        }
    same = {who: partial(_finished, run) for who, run in runs.items() if verdicts[who] == SAME}
    times = time_in_turn(same, rounds)
    name = f"{name} (last layer {float(expected.float().mean()) / rate_over:.2g})"
    return [
        row(name, times[ours], other, times[other], True, status="timed")
        if verdict == SAME
        else untimed_row(name, times[ours], other, verdict.status, verdict.note)
        for other, verdict in verdicts.items()
        if other != ours
    ]
