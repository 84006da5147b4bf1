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

from benchmarks.engines.peers import PEERS, UnsuitableError
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
    names: Sequence[str],
    layers: list[PlainLayer],
    spikes: Tensor,
    expected: Tensor,
    longest: float = LONGEST,
) -> dict[str, Verdict]:
    """Run each peer once in another process and compare its counts.

    Args:
        names: keys of `PEERS`.
        layers: the network, on the device to use.
        spikes: its input, [N_s, B, C, K].
        expected: the right counts, [B, C, K].
        longest: seconds that a peer may take.
    """
    found = {}
    for name in names:
        peer = PEERS[name]
        if not peer.is_installed:
            found[name] = Verdict("missing", f"not installed: {peer.install}")
        elif spikes.device.type not in peer.devices:
            found[name] = Verdict("unsuitable", f"runs on {', '.join(peer.devices)} only")
    left = [name for name in names if name not in found]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.pt"
        torch.save((layers, spikes, expected), path)
        while left:  # once more after each crash
            found |= _in_a_process(left, path, longest)
            left = [name for name in left if name not in found]
    return {name: found[name] for name in names}


def _in_a_process(names: list[str], path: Path, longest: float) -> dict[str, Verdict]:
    """Try peers in turn until all are done, or one crashes or takes too long."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_try_all, args=(names, path, sender), daemon=True)
    process.start()
    sender.close()
    found: dict[str, Verdict] = {}
    try:
        for name in names:
            if not receiver.poll(longest):
                found[name] = Verdict("failed", f"took more than {longest:g} s")
                break
            found[name] = receiver.recv()
    except EOFError:
        process.join(60)
        name = names[len(found)]
        found[name] = Verdict("failed", f"its process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()
    return found


def _try_all(names: list[str], path: Path, sender: Connection) -> None:
    layers, spikes, expected = torch.load(path, weights_only=False)  # our own file
    for name in names:
        sender.send(_try(name, layers, spikes, expected))


@torch.no_grad()
def _try(name: str, layers: list[PlainLayer], spikes: Tensor, expected: Tensor) -> Verdict:
    try:
        found = PEERS[name].build(layers)(spikes)
    except UnsuitableError as error:
        return Verdict("unsuitable", str(error))
    except ImportError as error:
        return Verdict("missing", f"{error}: {PEERS[name].install}")
    except Exception as error:  # whatever a peer raises
        return Verdict("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if found.shape == expected.shape and torch.equal(found, expected):
        return SAME
    return OTHER
