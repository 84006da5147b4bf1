"""Peak memory of one training step: a stage of progressive tandem learning (ours), tandem learning from end to end, and
surrogate gradient learning through time, over N_s and depth.

Each step runs in a fresh process: the most that its resident memory grows by between the batch in memory and the
optimizer's step. Freed memory goes back to the system at once, so that this is what was alive together. Linux only.
"""

import ctypes
import gc
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from torch.nn import functional as F

from benchmarks.synthetic import crops, separator
from spikesep.files import write_json
from spikesep.spiking.signal import Coding
from spikesep.training.config import ConversionConfig
from spikesep.training.conversion.examples import ConversionData
from spikesep.training.conversion.tandem_trainer import TandemTrainer
from spikesep.training.objective import Objective

GRID = [(n_steps, depth) for depth in (4, 8, 16) for n_steps in (4, 8, 16, 32)] + [(32, 10)]
M_MMAP_THRESHOLD = -3
STAGE = 1  # of PTL, the one that needs most: its input spikes, and all layers after it learn
UPPER_BOUND = 3.0  # of activations behind a norm, in standard deviations


def memory(quick: bool, journal: Path | None = None) -> list[dict]:
    """Four crops of one second, 128 channels, in the precision that conversion takes by itself.

    Each step is told as it is measured and kept in `journal`, so that a run that was stopped goes on from there.
    """
    grid, size = ([(8, 3)], (16, 2, 0.25)) if quick else (GRID, (128, 4, 1.0))
    found = json.loads(journal.read_text()) if journal and journal.exists() else {}
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for number, (n_steps, depth) in enumerate(grid, 1):
            mib = {}
            for method in ("ptl", "tandem", "surrogate"):
                key = f"{method}, N_s={n_steps}, {depth} layers of {size[0]} channels"
                if key not in found:
                    found[key] = processes.submit(step_mib, method, n_steps, depth, *size).result()
                    if journal:
                        write_json(journal, found)
                mib[method] = found[key]
                print(f"{number}/{len(grid)} {key}: {mib[method]:.1f} MiB", flush=True)
            what = f"training step, {depth} layers, N_s={n_steps}"
            rows += [
                _row(what, mib["ptl"], method, mib[method]) for method in ("tandem", "surrogate")
            ]
    return rows


def step_mib(
    method: str, n_steps: int, depth: int, n_channels: int, batch: int, seconds: float
) -> float:
    """MiB that a step needs beside model and data; to be called once in a process."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    warm_up, stage = _trainer(
        method, n_steps, 3, n_channels, batch, 0.05
    )  # compiles, starts threads
    warm_up.train_epoch(stage, 1)
    del warm_up
    trainer, stage = _trainer(method, n_steps, depth, n_channels, batch, seconds)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    before = _kib("VmRSS")
    trainer.train_epoch(stage, 1)
    return (_kib("VmHWM") - before) / 1024


def _trainer(method: str, n_steps: int, depth: int, n_channels: int, batch: int, seconds: float):
    """A `TandemTrainer` with one batch, ready to train the stage returned with it."""
    model, coding, threshold = separator(depth, n_channels), Coding(n_steps), UPPER_BOUND / n_steps
    stage = STAGE if method == "ptl" else 0
    for k, layer in enumerate(model.network.layers.values()):
        if method != "ptl":
            layer.convert(
                threshold, coding, "surrogate" if method == "surrogate" else "relu", keep_norm=True
            )
        elif k > stage:
            layer.discretize(threshold, coding)
        else:
            layer.convert(threshold, coding)
            if k < stage:
                layer.freeze()
    data = crops(batch, seconds)
    config = ConversionConfig(n_steps=n_steps, batch_size=batch, patience=1, max_epochs=1)
    trainer = TandemTrainer(
        model, Objective(F.mse_loss, lambda *_: 0.0), ConversionData(data, data), config
    )
    trainer.advance(stage)
    trainer.begin(stage)
    return trainer, stage


def _kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def _row(what: str, ours: float, peer: str, theirs: float) -> dict:
    return {
        "name": what,
        "ours_s": None,
        "ours_mib": ours,
        "ours": f"{ours:.0f} MiB",
        "peer": {
            "tandem": "tandem, all layers at once",
            "surrogate": "surrogate gradient through time",
        }[peer],
        "peer_s": None,
        "peer_mib": theirs,
        "peer_range": f"{theirs:.0f} MiB",
        "ratio": theirs / ours,
        "counts_equal": None,
    }
