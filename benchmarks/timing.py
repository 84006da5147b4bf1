"""Timing in turn: each contender runs once a round, so that a slow moment of the machine falls on all of them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Times:
    """Seconds of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        extremes = (
            f" ({min(self.seconds):.4g}-{max(self.seconds):.4g})" if len(self.seconds) > 1 else ""
        )
        return f"{self.median:.4g}{extremes}"


def time_in_turn(
    contenders: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, Times]:
    """Seconds of every contender over `rounds` rounds, after warming up.

    In its turn each runs three times, and the last is timed: for many milliseconds after a parallel loop of torch's its
    threads spin, and they would do so on the cores of whoever comes next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.no_grad():
        for k in range(warm_up + rounds):
            for name, run in contenders.items():
                run(), run()
                begun = time.perf_counter()
                run()
                if k >= warm_up:
                    seconds[name].append(time.perf_counter() - begun)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def row(name: str, ours: Times, peer_name: str, peer: Times, equal: bool | None, **more) -> dict:
    """One comparison, as the JSON file holds it; `more` fields of its own, of which `note` is printed."""
    return {
        "name": name,
        "ours_s": ours.median,
        "ours": str(ours),
        "peer": peer_name,
        "peer_s": peer.median,
        "peer_range": str(peer),
        "ratio": peer.median / ours.median,
        "counts_equal": equal,
        **more,
    }
