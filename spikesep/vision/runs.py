"""The runs of an experiment, and what each does: an analog network a seed, its conversions, their scores.

exp/<architecture>/seed0/ann                   the trained network
exp/<architecture>/seed0/n_steps-16/snn        converted, with its history, report and scores
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from spikesep.errors import SpikeSepError
from spikesep.files import read_json, write_json
from spikesep.spiking.conversion.report import conversion_report
from spikesep.spiking.cost import CostMeter
from spikesep.training.convert import convert
from spikesep.training.precision import exact_products
from spikesep.training.pretrain import pretrain
from spikesep.training.processes.launch import check_gpus, seed_everything
from spikesep.training.records.history import History
from spikesep.training.records.run_folder import claim
from spikesep.vision.architectures import ARCHITECTURES, input_shape
from spikesep.vision.config import ImageRecipe
from spikesep.vision.datasets import Images, Split, load_images, plain_loader, training_loader
from spikesep.vision.model import ImageNetwork, load_image_network, save_image_network

KINDS = ("ann", "snn")
METRICS = {"classification": "accuracy", "reconstruction": "mse"}


@dataclass(frozen=True)
class Run:
    """One conversion: of one seed's network of one architecture, with one setting at one value."""

    architecture: str
    seed: int
    setting: str
    value: Any

    def ann_folder(self, exp: Path) -> Path:
        """Of the analog network and its history, shared by all conversions."""
        return exp / self.architecture / f"seed{self.seed}"

    def folder(self, exp: Path) -> Path:
        """Of the converted network."""
        return self.ann_folder(exp) / f"{self.setting.removeprefix('ptl.')}-{self.value}"


def runs(recipe: ImageRecipe) -> list[Run]:
    """All conversions of the experiment, seed by seed."""
    experiment = recipe.experiment
    return [
        Run(architecture, recipe.seed + k, setting, value)
        for k in range(experiment.n_seeds)
        for architecture in experiment.architectures
        for setting, values in experiment.vary.items()
        for value in values
    ]


class Objective:
    """Loss and metric of a task: cross entropy and accuracy in percent, or the mean square error twice."""

    def __init__(self, task: str):
        self.classifies = task == "classification"

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Of a batch, a scalar."""
        return (
            F.cross_entropy(prediction, target)
            if self.classifies
            else F.mse_loss(prediction, target)
        )

    def metric(self, prediction: Tensor, target: Tensor, loss: float) -> float:
        """Of a batch."""
        return (
            100 * float((prediction.argmax(1) == target).double().mean())
            if self.classifies
            else loss
        )


def images_of(recipe: ImageRecipe, data: Path) -> Split:
    """The data of the experiment.

    Raises:
        SpikeSepError: the images are of another shape than an architecture takes.
    """
    shapes = [input_shape(architecture) for architecture in recipe.experiment.architectures]
    split = load_images(
        recipe.images, data, shapes[0][-1], recipe.experiment.task == "reconstruction"
    )
    found = split.valid.batch([0])[0][0]
    for architecture, shape in zip(recipe.experiment.architectures, shapes, strict=True):
        if shape != tuple(found.shape) and shape != (found.numel(),):
            raise SpikeSepError(
                f"architecture {architecture}: takes images of {'x'.join(map(str, shape))}, "
                f"--images.name {recipe.images.name} has {'x'.join(map(str, found.shape))}"
            )
    return split


def train_all(recipe: ImageRecipe, data: Path, exp: Path) -> None:
    """Pre-train the analog network of each architecture and seed, as far as it is missing."""
    split = None
    check_gpus(recipe.launch)
    for run in _first_of_each(runs(recipe)):
        folder = run.ann_folder(exp)
        if (folder / "ann").exists():
            _claim(recipe, run, exp, "ann")
            print(f"{folder / 'ann'} is there and complete; delete {folder} to train again")
            continue
        split = split or images_of(recipe, data)
        _claim(recipe, run, exp, "ann")
        seed_everything(run.seed)
        model, objective = (
            ImageNetwork(run.architecture, recipe.experiment.task),
            Objective(recipe.experiment.task),
        )
        print(
            f"training {run.architecture}, seed {run.seed}: {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"{len(split.train)} images, {len(split.valid)} for validation; "
            f"metric is {METRICS[recipe.experiment.task]}"
        )
        pretrain(
            model,
            objective.loss,
            training_loader(split.train, recipe.ann.batch_size, run.seed),
            plain_loader(split.valid),
            recipe.ann,
            folder / "checkpoints" / "ann",
            History(folder / "history.csv"),
            objective.metric,
            recipe.launch,
        )
        save_image_network(model, folder / "ann")


def convert_all(recipe: ImageRecipe, data: Path, exp: Path) -> None:
    """Convert each trained network with each value of each varied setting, as far as it is missing."""
    split = None
    check_gpus(recipe.launch)
    for run in runs(recipe):
        folder = run.folder(exp)
        if (folder / "snn").exists():
            _claim(recipe, run, exp, "snn")
            print(f"{folder / 'snn'} is there and complete; delete {folder} to convert again")
            continue
        split = split or images_of(recipe, data)
        if not (run.ann_folder(exp) / "ann").exists():
            raise SpikeSepError(
                f"{run.ann_folder(exp) / 'ann'}: no trained network; run stage 1 (spikesep-vision train)"
            )
        _claim(recipe, run, exp, "snn")
        _convert(recipe, run, split, exp)


def score_all(recipe: ImageRecipe, data: Path, exp: Path) -> None:
    """Score each network on the test part, as far as that is missing; leaves `scores-ann.json` and `scores.json`."""
    split = None
    check_gpus(recipe.launch)
    for run in runs(recipe):
        for kind, path in zip(KINDS, score_files(run, exp), strict=True):
            model_folder = path.parent / kind
            model = load_image_network(model_folder)
            _claim(recipe, run, exp, kind)
            if path.exists() and path.stat().st_mtime > model_folder.stat().st_mtime:
                print(f"{path} is there and complete; delete it to score again")
                continue
            split = split or images_of(recipe, data)
            title = f"scoring {model_folder.relative_to(exp)}"
            found = score(model, split.test, "cuda" if recipe.launch.n_gpus else "cpu", title)
            write_json(path, found)
            print(
                f"{path}: {json.dumps({k: v for k, v in found.items() if isinstance(v, float)})}",
                flush=True,
            )


def score(
    model: ImageNetwork, images: Images, device: str = "cpu", title: str = "scoring"
) -> dict[str, Any]:
    """Accuracy in percent or mean square error over all images; and, of a spiking network, its cost."""
    objective, meter = Objective(model.task), CostMeter()
    spikes = model.network.n_converted == len(model.network)
    exact_products(torch.device(device))
    model = model.to(device).eval()
    console = Console(stderr=True)
    quiet = not console.is_terminal
    total, top5 = 0.0, 0.0
    with torch.inference_mode():
        for indices in track(
            _batches(len(images), 250), title, console=console, transient=True, disable=quiet
        ):
            x, target = (v.to(device) for v in images.batch(indices))
            prediction = model(x, observe=meter if spikes else None)
            total += objective.metric(
                prediction, target, float(objective.loss(prediction, target))
            ) * len(indices)
            if objective.classifies and prediction.shape[1] > 5:
                top5 += float((prediction.topk(5).indices == target[:, None]).any(1).sum()) * 100
    found: dict[str, Any] = {METRICS[model.task]: total / len(images)}
    if top5:
        found["top5_accuracy"] = top5 / len(images)
    if spikes:
        cost = meter.cost
        found |= {"synops_ratio": cost.synops_ratio, "macs": cost.macs / len(images)}
        found |= {
            "synops": cost.synops / len(images),
            "firing_rates": cost.firing_rate,
            "n_steps": cost.n_steps,
        }
    return found


def _convert(recipe: ImageRecipe, run: Run, split: Split, exp: Path) -> None:
    folder, objective = run.folder(exp), Objective(recipe.experiment.task)
    config = recipe.varied(run.setting, run.value)
    seed_everything(run.seed)
    model = load_image_network(run.ann_folder(exp) / "ann")
    if config.untrained and config.method in ("tandem", "surrogate"):
        model = ImageNetwork(run.architecture, recipe.experiment.task)
        _settle_norms(model, split, config.batch_size)
    fixed = _Part(split.train, config.train_examples)
    fresh = training_loader(
        split.train, config.batch_size, run.seed + 1000
    )  # another order than in pre-training
    print(
        f"converting {run.architecture}, seed {run.seed}, {run.setting} {run.value}: {len(model.network)} layers to "
        f"{config.n_steps} time steps by {config.method}"
    )
    choices = convert(
        model,
        objective.loss,
        fixed,
        split.valid,
        config,
        folder / "checkpoints" / "snn",
        History(folder / "history.csv"),
        objective.metric,
        run.seed,
        "cuda" if recipe.launch.n_gpus else "cpu",
        fresh if config.discretize or config.method != "ptl" else None,
    )
    with torch.no_grad():
        inputs = [model.encode(split.valid.batch(list(range(min(64, len(split.valid)))))[0])[0]]
    reports = conversion_report(model.network, inputs, choices)
    save_image_network(model, folder / "snn", [r.to_dict() for r in reports])


def _settle_norms(model: ImageNetwork, split: Split, batch_size: int) -> None:
    """Give a fresh network's norms the moments of some batches, so that thresholds can be taken from it."""
    model.train()
    with torch.no_grad():
        for indices in _batches(min(len(split.train), 20 * batch_size), batch_size):
            model(split.train.batch(indices)[0])


class _Part(torch.utils.data.Dataset):
    """The first `n` of a set, 0 for all."""

    def __init__(self, images: Images, n: int):
        self.images = images
        self.n = min(n or len(images), len(images))

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.images.batch(indices)


def _first_of_each(all_runs: list[Run]) -> Iterator[Run]:
    seen = set()
    for run in all_runs:
        if (run.architecture, run.seed) not in seen:
            seen.add((run.architecture, run.seed))
            yield run


def _claim(recipe: ImageRecipe, run: Run, exp: Path, kind: str) -> None:
    """Note, or see, with which settings the analog (`ann`) or converted (`snn`) network of a run is made; the folder of
    the images may move.
    """
    settings = {
        "seed": run.seed,
        "architecture": ARCHITECTURES.get(run.architecture, run.architecture),
        "task": recipe.experiment.task,
        "images": replace(recipe.images, root=""),
    }
    if kind == "ann":
        claim(run.ann_folder(exp), kind, settings | {"ann": recipe.ann})
    else:
        claim(run.folder(exp), kind, settings | {"ptl": recipe.varied(run.setting, run.value)})


def _batches(n: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, n))) for start in range(0, n, size)]


def score_files(run: Run, exp: Path) -> tuple[Path, Path]:
    """Of the analog network and of the converted one, beside the network."""
    return run.ann_folder(exp) / "scores-ann.json", run.folder(exp) / "scores.json"


def read_scores(recipe: ImageRecipe, run: Run, exp: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of the analog network and of the converted one.

    Raises:
        SpikeSepError: they are not there, or of networks that were made with other settings.
    """
    paths = score_files(run, exp)
    for kind, path in zip(KINDS, paths, strict=True):
        if not path.exists():
            raise SpikeSepError(f"{path}: not there; run stage 3 (spikesep-vision score)")
        _claim(recipe, run, exp, kind)
    return read_json(paths[0]), read_json(paths[1])
