"""Peak memory of a training step over N_s and depth.

Compares a stage of progressive tandem learning (ours) with end-to-end tandem learning and with
surrogate gradient learning through time. Each step runs in a fresh process. Its peak is the growth
of resident memory from the batch in memory to the end of the optimizer's step. Freed memory is
returned to the system at once, so that the peak counts only what was allocated at the same time.
Linux only.
"""

import ctypes
import gc
import json
import multiprocessing
import sys
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
STAGE = 1  # the stage of PTL that needs most: spiking input, and all later layers learn
UPPER_BOUND = 3.0  # of normalized activations, in standard deviations


def memory(quick: bool, journal: Path | None = None) -> list[dict] | str:
    """Measure networks of 128 channels on four crops of one second, in the default precision.

    Prints each step and records it in `journal`, from which an interrupted run resumes. Returns the
    reason instead on a system that cannot measure.
    """
    if sys.platform != "linux":
        return "peak memory is read from /proc, which Linux alone has"
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
    """Return the MiB of a step in addition to model and data; call it once per process."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    # Compile and start threads.
    warm_up, stage = _trainer(method, n_steps, 3, n_channels, batch, 0.05)
    warm_up.train_epoch(stage, 1)
    del warm_up
    trainer, stage = _trainer(method, n_steps, depth, n_channels, batch, seconds)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the resident size
    before = _kib("VmRSS")
    trainer.train_epoch(stage, 1)
    return (_kib("VmHWM") - before) / 1024


def _trainer(method: str, n_steps: int, depth: int, n_channels: int, batch: int, seconds: float):
    """Return a `TandemTrainer` with one batch, and the stage that it is ready to train."""
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
        "ours": f"{ours:.0f}",
        "peer": {
            "tandem": "tandem, all layers at once",
            "surrogate": "surrogate gradient through time",
        }[peer],
        "peer_s": None,
        "peer_mib": theirs,
        "peer_range": f"{theirs:.0f}",
        "ratio": theirs / ours,
        "counts_equal": None,
    }
