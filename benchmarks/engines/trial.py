"""Trial of peers in a process of their own, so that a peer that crashes ends nothing else.

A peer is timed only if it gives the right counts in the trial.
"""

import multiprocessing
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.engines.peers import Peer, UnsuitableError
from benchmarks.engines.stack import PlainLayer

LONGEST = 600.0
"""Seconds after which a peer is given up."""


@dataclass(frozen=True)
class Verdict:
    """What a trial found.

    Attributes:
        status: `same` counts, `other` counts, `missing`, `unsuitable` or `failed`.
        note: the reason and the remedy.
    """

    status: str
    note: str = ""


SAME = Verdict("same")
OTHER = Verdict("other", "fires other spikes, so its time does not count")


def try_peers(
    peers: Sequence[Peer],
    layers: list[PlainLayer],
    spikes: Tensor,
    expected: Tensor,
    longest: float = LONGEST,
) -> dict[str, Verdict]:
    """Run each peer once in another process and compare its counts; return verdicts by name.

    Args:
        peers: the simulators.
        layers: the network, on the device to use.
        spikes: its input, [N_s, B, C, K].
        expected: the right counts, [B, C, K].
        longest: seconds that a peer may take.
    """
    found = {}
    for peer in peers:
        if spikes.device.type not in peer.devices:
            found[peer.name] = Verdict("unsuitable", f"runs on {', '.join(peer.devices)} only")
        elif not peer.is_installed:
            found[peer.name] = Verdict("missing", f"not installed: {peer.install}")
    left = [peer for peer in peers if peer.name not in found]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.pt"
        torch.save((layers, spikes, expected), path)
        while left:  # once more after each crash
            found |= _in_a_process(left, path, longest)
            left = [peer for peer in left if peer.name not in found]
    return {peer.name: found[peer.name] for peer in peers}


def _in_a_process(peers: list[Peer], path: Path, longest: float) -> dict[str, Verdict]:
    """Try peers in turn until all are done, or one crashes or takes too long."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_try_all, args=(peers, path, sender), daemon=True)
    process.start()
    sender.close()
    found: dict[str, Verdict] = {}
    try:
        receiver.recv()  # torch is loaded
        for peer in peers:
            if not receiver.poll(longest):
                found[peer.name] = Verdict("failed", f"took more than {longest:g} s")
                break
            found[peer.name] = receiver.recv()
    except EOFError:
        process.join(60)
        note = f"its process ended with status {process.exitcode}"
        found[peers[len(found)].name] = Verdict("failed", note)
    finally:
        process.kill()
        process.join()
    return found


def _try_all(peers: list[Peer], path: Path, sender: Connection) -> None:
    layers, spikes, expected = torch.load(path, weights_only=False)  # our own file
    sender.send(None)
    for peer in peers:
        sender.send(_try(peer, layers, spikes, expected))


@torch.no_grad()
def _try(peer: Peer, layers: list[PlainLayer], spikes: Tensor, expected: Tensor) -> Verdict:
    try:
        found = peer.build(layers)(spikes)
    except UnsuitableError as error:
        return Verdict("unsuitable", str(error))
    except ImportError as error:
        return Verdict("missing", f"{error}: {peer.install}")
    except Exception as error:  # whatever a peer raises
        return Verdict("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return SAME if found.shape == expected.shape and torch.equal(found, expected) else OTHER
