"""Time of a conversion over depth, with the spike cache (ours) and without it (the peer)."""

from collections.abc import Sequence

import numpy as np

from benchmarks.conversion_cache import one_conversion, same_outcome
from benchmarks.synthetic import crops, separator
from benchmarks.timing import Times, row
from spikesep.training.config import CacheConfig, ConversionConfig

CACHE_GIB = {"cache": 8.0, "no cache": 0.0}
EPOCHS = 3  # per stage; the minimum with the default patience


def conversion_depth(quick: bool) -> list[dict]:
    """Convert stacks of 64 channels with N_s = 32 on 16 crops of half a second.

    Compares the outcomes of both conversions to the bit.
    """
    depths, n_channels, n_steps = ((2, 3), 8, 4) if quick else ((3, 5, 7, 9, 11), 64, 32)
    sets = (crops(4, 0.1, 1), crops(2, 0.1, 2)) if quick else (crops(16, 0.5, 1), crops(4, 0.5, 2))
    for gib in CACHE_GIB.values():
        _convert(2, n_channels, n_steps, sets, gib)  # warms up
    seconds, rows = {name: [] for name in CACHE_GIB}, []
    for depth in depths:
        outcomes = {}
        for name, gib in CACHE_GIB.items():
            spent, outcomes[name] = _convert(depth, n_channels, n_steps, sets, gib)
            seconds[name].append(spent)
        ours, peer = (Times((seconds[name][-1],)) for name in CACHE_GIB)
        equal = all(same_outcome(*outcomes.values()).values())
        what = f"conversion of {depth} layers, {n_channels} channels, N_s={n_steps}"
        note = f"{ours.median / depth:.2f} and {peer.median / depth:.2f} s per layer"
        rows.append(row(what, ours, "no cache", peer, equal, layers=depth, note=note))
    fits = {name: growth(depths, values) for name, values in seconds.items()}
    text = "; ".join(
        f"{name}: depth^{f['power']:.2f}, straight line R2 {f['r2_of_line']:.4f}"
        for name, f in fits.items()
    )
    rows[-1] |= {"growth": fits, "note": f"{rows[-1]['note']}; {text}"}
    return rows


def growth(depths: Sequence[int], seconds: Sequence[float]) -> dict[str, float]:
    """Fit a power of depth (1 linear, 2 quadratic) and a straight line by least squares."""
    power = float(np.polyfit(np.log(depths), np.log(seconds), 1)[0])
    slope, offset = np.polyfit(depths, seconds, 1)
    residual = np.asarray(seconds) - slope * np.asarray(depths) - offset
    r2 = 1 - float(
        np.square(residual).sum() / np.square(np.asarray(seconds) - np.mean(seconds)).sum()
    )
    return {
        "power": power,
        "seconds_a_layer": float(slope),
        "offset_seconds": float(offset),
        "r2_of_line": r2,
    }


def _convert(depth: int, n_channels: int, n_steps: int, sets, cache_gib: float):
    config = ConversionConfig(
        n_steps=n_steps,
        patience=EPOCHS,
        max_epochs=EPOCHS,
        calibration_examples=3,
        cache=CacheConfig(cache_gib),
        weight_bits=0,
    )
    return one_conversion(separator(depth, n_channels), *sets, config)
