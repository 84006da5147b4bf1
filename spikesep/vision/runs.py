"""Runs of an image experiment: train, convert and score networks.

exp/<architecture>/seed0/ann                   trained analog network
exp/<architecture>/seed0/n_steps-16/snn        converted network, with history, report and scores
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikesep.errors import SpikeSepError
from spikesep.files import read_json, write_json
from spikesep.spiking.conversion.report import conversion_report
from spikesep.training.convert import convert
from spikesep.training.objective import Objective
from spikesep.training.pretrain import pretrain
from spikesep.training.processes.launch import check_gpus, seed_everything
from spikesep.training.records.history import History
from spikesep.training.records.run_folder import claim
from spikesep.vision.architectures import ARCHITECTURES, input_shape
from spikesep.vision.config import ImageRecipe
from spikesep.vision.datasets import Images, Split, load_images, plain_loader, training_loader
from spikesep.vision.model import ImageNetwork, load_image_network, save_image_network
from spikesep.vision.scoring import METRICS, batches_of, score

KINDS = ("ann", "snn")
N_REPORTED = 64
"""Number of validation images for the conversion report."""
SETTLING_BATCHES = 20
"""Number of batches that give an untrained network the statistics of its norms."""


@dataclass(frozen=True)
class Run:
    """Conversion of the network of one architecture and seed, with one setting at one value."""

    architecture: str
    seed: int
    setting: str
    value: Any

    @property
    def name(self) -> str:
        """Name of the varied setting without its section."""
        return short_setting(self.setting)

    def ann_folder(self, exp: Path) -> Path:
        """Return the folder of the analog network, which all its conversions share."""
        return exp / self.architecture / f"seed{self.seed}"

    def folder(self, exp: Path) -> Path:
        """Return the folder of the converted network."""
        return self.ann_folder(exp) / f"{self.name}-{self.value}"


def short_setting(setting: str) -> str:
    """Return the name of a setting without its section."""
    return setting.rpartition(".")[2]


def runs(recipe: ImageRecipe) -> list[Run]:
    """Return all conversions of the experiment, seed by seed."""
    experiment = recipe.experiment
    return [
        Run(architecture, recipe.seed + k, setting, value)
        for k in range(experiment.n_seeds)
        for architecture in experiment.architectures
        for setting, values in experiment.vary.items()
        for value in values
    ]


def objective_of(task: str) -> Objective:
    """Return the objective of a task.

    `classification` has cross entropy and accuracy in percent, `reconstruction` the mean squared
    error as loss and metric.
    """
    if task == "classification":
        return Objective(F.cross_entropy, _accuracy)
    return Objective(F.mse_loss, lambda prediction, target, loss: loss)


def _accuracy(prediction: Tensor, target: Tensor, loss: float) -> float:
    return 100 * float((prediction.argmax(1) == target).double().mean())


def images_of(recipe: ImageRecipe, data: Path) -> Split:
    """Load the images of the experiment.

    Raises:
        SpikeSepError: they are missing, or an architecture has another input shape.
    """
    experiment = recipe.experiment
    shapes = [input_shape(architecture) for architecture in experiment.architectures]
    split = load_images(recipe.images, data, shapes[0][-1], experiment.task == "reconstruction")
    found = split.valid.batch([0])[0][0]
    for architecture, shape in zip(experiment.architectures, shapes, strict=True):
        if shape != tuple(found.shape) and shape != (found.numel(),):
            raise SpikeSepError(
                f"architecture {architecture}: takes images of {'x'.join(map(str, shape))}, "
                f"--images.name {recipe.images.name} has {'x'.join(map(str, found.shape))}"
            )
    return split


def train_all(recipe: ImageRecipe, data: Path, exp: Path) -> None:
    """Train the analog network of each architecture and seed that is missing."""
    split = None
    check_gpus(recipe.launch)
    for run in _one_per_network(runs(recipe)):
        folder = run.ann_folder(exp)
        if (folder / "ann").exists():
            _claim(recipe, run, exp, "ann")
            print(f"{folder / 'ann'} is there and complete; delete {folder} to train again")
            continue
        split = split or images_of(recipe, data)
        _claim(recipe, run, exp, "ann")
        _train(recipe, run, split, folder)


def convert_all(recipe: ImageRecipe, data: Path, exp: Path) -> None:
    """Convert each trained network with each value of each varied setting that is missing.

    Raises:
        SpikeSepError: an analog network is missing.
    """
    split = None
    check_gpus(recipe.launch)
    for run in runs(recipe):
        folder = run.folder(exp)
        if (folder / "snn").exists():
            _claim(recipe, run, exp, "snn")
            print(f"{folder / 'snn'} is there and complete; delete {folder} to convert again")
            continue
        split = split or images_of(recipe, data)
        ann = run.ann_folder(exp) / "ann"
        if not ann.exists():
            raise SpikeSepError(f"{ann}: no trained network; run stage 1 (spikesep-vision train)")
        _claim(recipe, run, exp, "snn")
        _convert(recipe, run, split, exp)


def score_all(recipe: ImageRecipe, data: Path, exp: Path) -> None:
    """Score each network on the test set where scores are missing or older than the network.

    Writes `scores-ann.json` and `scores.json`.
    """
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
            found = score(
                model,
                objective_of(model.task),
                split.test,
                device="cuda" if recipe.launch.n_gpus else "cpu",
                title=f"scoring {model_folder.relative_to(exp)}",
            )
            write_json(path, found)
            figures = {name: value for name, value in found.items() if isinstance(value, float)}
            print(f"{path}: {json.dumps(figures)}", flush=True)


def _train(recipe: ImageRecipe, run: Run, split: Split, folder: Path) -> None:
    """Train an analog network."""
    seed_everything(run.seed)
    task = recipe.experiment.task
    model, objective = ImageNetwork(run.architecture, task), objective_of(task)
    n_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"training {run.architecture}, seed {run.seed}: {n_parameters:,} parameters, "
        f"{len(split.train)} images, {len(split.valid)} for validation; metric is {METRICS[task]}"
    )
    pretrain(
        model,
        objective.loss,
        training_loader(split.train, recipe.train.batch_size, run.seed),
        plain_loader(split.valid),
        recipe.train,
        folder / "checkpoints" / "ann",
        history=History(folder / "history.csv"),
        metric=objective.metric,
        launch=recipe.launch,
    )
    save_image_network(model, folder / "ann")


def _convert(recipe: ImageRecipe, run: Run, split: Split, exp: Path) -> None:
    """Convert a trained network, or an untrained one for comparison."""
    folder, objective = run.folder(exp), objective_of(recipe.experiment.task)
    config = recipe.convert.varied(run.setting, run.value)
    seed_everything(run.seed)
    model = load_image_network(run.ann_folder(exp) / "ann")
    if config.untrained and config.method in ("tandem", "surrogate"):
        model = ImageNetwork(run.architecture, recipe.experiment.task)
        _settle_norms(model, split, config.batch_size)
    other_seed = run.seed + 1000  # another order than in pre-training
    fresh = training_loader(split.train, config.batch_size, other_seed)
    print(
        f"converting {run.architecture}, seed {run.seed}, {run.setting} {run.value}: "
        f"{len(model.network)} layers to {config.n_steps} time steps by {config.method}"
    )
    choices = convert(
        model,
        objective.loss,
        _FirstImages(split.train, config.train_examples),
        _FirstImages(split.valid, 0),
        config,
        folder / "checkpoints" / "snn",
        history=History(folder / "history.csv"),
        metric=objective.metric,
        seed=run.seed,
        device="cuda" if recipe.launch.n_gpus else "cpu",
        fresh=fresh if config.discretize or config.method != "ptl" else None,
    )
    reported = list(range(min(N_REPORTED, len(split.valid))))
    with torch.no_grad():
        inputs = [model.encode(split.valid.batch(reported)[0])[0]]
    reports = conversion_report(model.network, inputs, choices)
    save_image_network(model, folder / "snn", [r.to_dict() for r in reports])


def _settle_norms(model: ImageNetwork, split: Split, batch_size: int) -> None:
    """Give the norms of an untrained network statistics, from which thresholds can be chosen."""
    model.train()
    n_images = min(len(split.train), SETTLING_BATCHES * batch_size)
    with torch.no_grad():
        for indices in batches_of(n_images, batch_size):
            model(split.train.batch(indices)[0])


class _FirstImages(torch.utils.data.Dataset):
    """The first `n` images of a set; 0 for all."""

    def __init__(self, images: Images, n: int):
        self.images = images
        self.n = min(n or len(images), len(images))

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.images.batch(indices)


def _one_per_network(all_runs: list[Run]) -> Iterator[Run]:
    """Yield the first run of each architecture and seed."""
    seen = set()
    for run in all_runs:
        if (run.architecture, run.seed) not in seen:
            seen.add((run.architecture, run.seed))
            yield run


def _claim(recipe: ImageRecipe, run: Run, exp: Path, kind: str) -> None:
    """Record the settings of a network (`ann` or `snn`), or check that they are the same.

    The folder of the images may be moved.
    """
    settings = {
        "seed": run.seed,
        "architecture": ARCHITECTURES.get(run.architecture, run.architecture),
        "task": recipe.experiment.task,
        "images": replace(recipe.images, root=""),
    }
    if kind == "ann":
        claim(run.ann_folder(exp), kind, settings | {"train": recipe.train})
    else:
        config = recipe.convert.varied(run.setting, run.value)
        claim(run.folder(exp), kind, settings | {"convert": config})


def score_files(run: Run, exp: Path) -> tuple[Path, Path]:
    """Return the files with the scores of the analog and the converted network."""
    return run.ann_folder(exp) / "scores-ann.json", run.folder(exp) / "scores.json"


def read_scores(recipe: ImageRecipe, run: Run, exp: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the scores of the analog and the converted network.

    Raises:
        SpikeSepError: they are missing, or the networks were made with other settings.
    """
    ann, snn = score_files(run, exp)
    for kind, path in zip(KINDS, (ann, snn), strict=True):
        if not path.exists():
            raise SpikeSepError(f"{path}: not there; run stage 3 (spikesep-vision score)")
        _claim(recipe, run, exp, kind)
    return read_json(ann), read_json(snn)
