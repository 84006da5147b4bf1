"""The same trained networks through several ANN-to-SNN converters.

    python -m benchmarks --only converters --json converters.json

Trains four networks, converts each with every method and setting, and scores it over the number of
time steps. `calibrated` methods see inputs only; `fine-tuned` methods train for the same number of
epochs on the same examples with the same loss. The input is a constant current, the readout the
mean output over the steps. A peer that is not installed is skipped.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.converters import ours, peers, qcfs
from benchmarks.converters.images import autoencoder, cnn, mlp
from benchmarks.converters.report import draw, table  # noqa: F401 (table: for the console)
from benchmarks.converters.separator import separator
from benchmarks.converters.simulation import Outcome, simulate
from benchmarks.converters.tasks import Task, outputs
from benchmarks.engines.peers import SINABS
from benchmarks.timing import describe_machine
from spikesep.spiking import SpikingNetwork, from_module
from spikesep.spiking import convert as convert_to_spikes

SEED = 0
TASKS = (mlp, autoencoder, separator, cnn)
Peers = dict[str, dict[str, peers.Convert]]
"""Settings of each peer that is installed."""
ANALOG = {"ann2snn": peers.ann2snn_analog, "sinabs": peers.sinabs_analog}
PEERS = {"ann2snn": ("spikingjelly", peers.ann2snn), "sinabs": ("sinabs", peers.sinabs)}
HOW_TO_ADD = {"spikingjelly": "install the extra `bench`", "sinabs": SINABS["install"]}


@dataclass(frozen=True)
class Scale:
    """Numbers of time steps, and the budget of fine-tuning."""

    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    tuned_steps: tuple[int, ...] = (4, 8, 16)
    epochs: int = 2
    learning_rate: float = 1e-3
    n_train: int = 10_000

    def budget(self, task: Task) -> dict:
        """Return epochs, learning rate and number of examples; 512 are left for validation."""
        n_train = min(self.n_train, max(len(task.train) - 512, len(task.train) // 2))
        return {"epochs": self.epochs, "learning_rate": self.learning_rate, "n_train": n_train}


QUICK = Scale(steps=(1, 4), tuned_steps=(4,), epochs=1, n_train=64)


def converters(quick: bool, data: Path, figure: Path | None = None) -> list[dict]:
    """Compare all converters on all tasks.

    Args:
        quick: tiny networks on drawn images, few steps.
        data: folder of downloaded images.
        figure: PNG file to draw.
    """
    scale, rows, installed = QUICK if quick else Scale(), [], _installed()
    for make in TASKS:
        torch.manual_seed(SEED)
        begun = time.perf_counter()
        task = make(quick, data)
        print(f"{task.name}: trained in {time.perf_counter() - begun:.0f} s", flush=True)
        rows += compare(task, scale, installed)
    versions = {name: _version(name) for name in ("torch", *HOW_TO_ADD)}
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    rows[0] |= {"versions": versions, "machine": describe_machine(), "seed": SEED}
    if figure:
        draw(rows, figure)
    return rows


Run = Callable[[tuple[int, ...]], tuple[int, float, Outcome]]
"""From numbers of steps to windows of latency, mean seconds of a conversion, and the outcome."""


@dataclass(frozen=True)
class Contender:
    """A method with its setting, on one task.

    Attributes:
        group: `calibrated` or `fine-tuned`.
        method: name of the method.
        setting: name of the setting.
        steps: numbers of time steps.
        run: converts and runs the network.
    """

    group: str
    method: str
    setting: str
    steps: tuple[int, ...]
    run: Run


def compare(task: Task, scale: Scale, installed: Peers) -> list[dict]:
    """Return a row per method and setting, with a list entry per number of steps."""
    analog = analog_outputs(task, installed)
    rows = [
        {
            "task": task.name,
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "group": "analog",
            "method": method,
            "setting": "",
            "score": _rounded(task.score_of(output)),
        }
        for method, output in analog.items()
    ]
    require_equal(rows)
    for contender in contenders(task, scale, installed):
        begun = time.perf_counter()
        rows.append(measured(task, contender, analog["PyTorch"]))
        what = f"{contender.group}: {contender.method}, {contender.setting}"
        print(f"{task.name}, {what}: {time.perf_counter() - begun:.1f} s", flush=True)
    return rows


def measured(task: Task, contender: Contender, analog: Tensor) -> dict:
    """Run a contender and return its row.

    Args:
        task: the task.
        contender: the method.
        analog: output of the analog network on the test set.
    """
    features = task.test.tensors[0]
    prediction = task.decode(analog, features)
    latency, converting, outcome = contender.run(contender.steps)
    errors = [
        (task.decode(output, features) - prediction).square().sum() / prediction.square().sum()
        for output in outcome.outputs
    ]
    return {
        "task": task.name,
        "group": contender.group,
        "method": contender.method,
        "setting": contender.setting,
        "n_steps": list(contender.steps),
        "latency": [latency * n for n in contender.steps],
        "score": [_rounded(task.score_of(output)) for output in outcome.outputs],
        "error": [_rounded(float(error)) for error in errors],
        "spikes": [_rounded(n) for n in outcome.spikes],
        "ms": [_rounded(1000 * s / len(features)) for s in outcome.seconds],
        "conversion_s": _rounded(converting),
    }


calibrate = partial(convert_to_spikes, correct_biases=False, calibration_batches=1000)
"""Conversion by thresholds alone, on all calibration batches."""


def contenders(task: Task, scale: Scale, installed: Peers) -> Iterator[Contender]:
    """Yield all methods and settings."""
    calibrated = partial(Contender, "calibrated", steps=scale.steps)
    tuned = partial(Contender, "fine-tuned", steps=scale.tuned_steps)
    for mode in ("immediate", "deferred"):
        deferred = mode == "deferred"
        for setting, percentile in (("least error", "auto"), ("99.9%", 99.9)):
            convert = partial(
                calibrate,
                task.network,
                task.calibration(),
                percentile=percentile,
                deferred=deferred,
            )
            run = partial(_run_ours, task, convert, deferred)
            yield calibrated(method=f"SpikeSep, {mode}", setting=setting, run=run)
        convert = partial(ours.fine_tuned, task, deferred=deferred, **scale.budget(task))
        run = partial(_run_ours, task, convert, deferred)
        yield tuned(method=f"SpikeSep, {mode}", setting="least error", run=run)
    for method, settings in installed.items():
        for setting, convert in settings.items():
            yield calibrated(method=method, setting=setting, run=partial(_run_peer, task, convert))
    run = partial(_run_peer, task, _untrained)
    yield calibrated(method="QCFS neurons, untrained", setting="99.9%", run=run)
    run = partial(_run_qcfs, task, scale.budget(task))
    yield tuned(method="QCFS", setting="L = steps", run=run)


def analog_outputs(task: Task, installed: Peers) -> dict[str, Tensor]:
    """Return the output of each converter's analog network on the test set."""
    features = task.test.tensors[0]
    networks: dict[str, nn.Module] = {
        "PyTorch": task.network,
        "SpikeSep": from_module(task.network, features[:1]),
        # Neither clips nor rounds to speak of.
        "QCFS": qcfs.quantized(
            task.network, [4 * bound for bound in _bounds(task, 64, 100.0)], n_levels=2**20
        ),
    }
    networks |= {method: ANALOG[method](task) for method in installed}
    return {method: outputs(network, features) for method, network in networks.items()}


def require_equal(rows: list[dict]) -> None:
    """Check that all analog networks have the same score.

    Raises:
        RuntimeError: one differs by more than 0.1 %; rounding alone tips fewer examples.
    """
    expected = rows[0]["score"]
    for row in rows:
        if abs(row["score"] - expected) > 1e-3 * abs(expected) + 1e-6:
            raise RuntimeError(
                f"{row['task']}: the analog network of {row['method']} scores {row['score']}, "
                f"not {expected}"
            )


def _run_ours(
    task: Task, convert: Callable[..., SpikingNetwork], deferred: bool, steps: tuple[int, ...]
) -> tuple[int, float, Outcome]:
    outcome, converting, n_layers = Outcome(), 0.0, 1
    for n in steps:
        begun = time.perf_counter()
        network = convert(n_steps=n)
        converting += time.perf_counter() - begun
        n_layers = len(network)
        ours.run(network, task.test.tensors[0], outcome)
    return n_layers if deferred else 1, converting / len(steps), outcome


def _run_peer(
    task: Task, convert: peers.Convert, steps: tuple[int, ...]
) -> tuple[int, float, Outcome]:
    begun = time.perf_counter()
    stepper = convert(task)
    converting = time.perf_counter() - begun
    return 1, converting, simulate(stepper, task.test.tensors[0], steps)


def _run_qcfs(task: Task, budget: dict, steps: tuple[int, ...]) -> tuple[int, float, Outcome]:
    whole, converting = Outcome(), 0.0
    for n in steps:
        begun = time.perf_counter()
        network = qcfs.quantized(task.network, _bounds(task, n, "auto"), n_levels=n)
        qcfs.fine_tune(task, network, **budget)
        converting += time.perf_counter() - begun
        outcome = simulate(qcfs.spiking(network), task.test.tensors[0], (n,))
        whole.outputs += outcome.outputs
        whole.spikes += outcome.spikes
        whole.seconds += outcome.seconds
    return 1, converting / len(steps), whole


def _untrained(task: Task):
    return qcfs.spiking(qcfs.quantized(task.network, _bounds(task, 8, 99.9), n_levels=8))


def _bounds(task: Task, n_steps: int, percentile: float | str) -> list[float]:
    """Return the upper bounds that our calibration finds, one per layer."""
    network = calibrate(
        task.network, task.calibration(), n_steps=n_steps, percentile=percentile, deferred=True
    )
    return [float(layer.threshold) * n_steps for layer in network.layers.values()]


def _installed() -> Peers:
    """Return the settings of the installed peers, and say how to add the others."""
    found = {}
    for method, (package, settings) in PEERS.items():
        try:
            found[method] = settings()
        except ImportError as error:
            print(f"{method}: skipped, {error}; {HOW_TO_ADD[package]}", flush=True)
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _rounded(number: float) -> float:
    return float(f"{number:.5g}")
