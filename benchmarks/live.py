"""Live streams by the length of their blocks: processor time for a second of sound, one thread."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from rich.table import Table

from benchmarks.synthetic import SAMPLE_RATE, converted, separator
from spikesep.separation.inference.in_memory import Model, load_model
from spikesep.separation.model.latency import delays_of

BLOCKS = (0.01, 0.02, 0.04, 0.1, 0.5)
"""Seconds."""
PUSH_SECONDS = 0.01
"""Sound that arrives at once."""


def live(quick: bool) -> list[dict]:
    """Time streams of a causal network with random weights, and of the shipped model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            _row(name, model, block, 0.5 if quick else 10.0)
            for name, model in _models(quick).items()
            for block in (BLOCKS[1:3] if quick else BLOCKS)
        ]
    finally:
        torch.set_num_threads(threads)


def table(name: str, rows: list[dict]) -> Iterator[Table]:
    """Yield the table of the rows: processor time by model and block."""
    found = Table("model", "block, ms", "latency, ms", "CPU time / sound", title=name)
    for row in rows:
        times = (f"{1e3 * row[key]:.0f}" for key in ("block_s", "latency_s"))
        found.add_row(row["name"], *times, f"{row['cpu_s_per_s']:.3f}")
    yield found


def _models(quick: bool) -> dict[str, Model]:
    """Return the models: the sizes of conf/live.yaml, at the rate of the shipped one, and that."""
    layers, channels = (3, 16) if quick else (17, 128)
    untrained = separator(layers, channels, causal=True, n_dilations=8)
    models = {"causal, conf/live.yaml, untrained": Model(converted(untrained, n_steps=22))}
    return models if quick else models | {"shipped, looks ahead": load_model("free-2mix", "snn")}


def _row(name: str, model: Model, block: float, seconds: float) -> dict:
    stream, step = model.stream(SAMPLE_RATE, block), round(PUSH_SECONDS * SAMPLE_RATE)
    sound = np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE))
    pieces = np.split(sound.astype(np.float32), range(step, len(sound), step))
    _push(stream, pieces)
    begun = time.process_time()
    _push(stream, pieces)
    spent = time.process_time() - begun
    return {
        "name": name,
        "threads": 1,
        "block_s": block,
        "latency_s": delays_of(model.separator, SAMPLE_RATE, block).total,
        "cpu_s_per_s": spent / seconds,
        "synops_per_s": stream.cost.synops / (2 * seconds),
    }


def _push(stream, pieces: list[np.ndarray]) -> None:
    for piece in pieces:
        stream.push(piece)
