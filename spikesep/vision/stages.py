"""Stages of an image experiment: train, convert and score the networks of its runs."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from spikesep.errors import SpikeSepError
from spikesep.files import write_json
from spikesep.spiking.conversion.report import conversion_report
from spikesep.training.convert import convert
from spikesep.training.objective import Objective
from spikesep.training.pretrain import pretrain
from spikesep.training.processes.launch import check_gpus, seed_everything
from spikesep.training.records.history import History
from spikesep.vision.architectures import input_shape
from spikesep.vision.config import ImagePretrainConfig, ImageRecipe
from spikesep.vision.data.datasets import (
    Images,
    Split,
    load_images,
    plain_loader,
    training_loader,
)
from spikesep.vision.model import ImageNetwork, load_image_network, save_image_network
from spikesep.vision.runs import (
    Run,
    claim_run,
    control_config,
    model_and_scores,
    networks,
    one_per_network,
    runs,
)
from spikesep.vision.scoring import METRICS, batches_of, score

N_REPORTED = 64
"""Number of validation images for the conversion report."""
SETTLING_BATCHES = 20
"""Number of batches that give an untrained network the statistics of its norms."""


def objective_of(task: str, label_smoothing: float = 0.0) -> Objective:
    """Return the objective of a task.

    `classification` has cross entropy and accuracy in percent, `reconstruction` the mean squared
    error as loss and metric.
    """
    if task == "classification":
        return Objective(partial(F.cross_entropy, label_smoothing=label_smoothing), _accuracy)
    return Objective(F.mse_loss, lambda prediction, target, loss: loss)


def _accuracy(prediction: Tensor, target: Tensor, loss: float) -> float:
    return 100 * float((prediction.argmax(1) == target).double().mean())


def device_of(recipe: ImageRecipe) -> str:
    """Return the torch device of the experiment."""
    return "cuda" if recipe.launch.n_gpus else "cpu"


def images_of(recipe: ImageRecipe, data: Path, device: str = "cpu") -> Split:
    """Load the images of the experiment.

    Raises:
        SpikeSepError: they are missing, or an architecture has another input shape.
    """
    experiment = recipe.experiment
    shapes = [input_shape(architecture) for architecture in experiment.architectures]
    reconstruct = experiment.task == "reconstruction"
    split = load_images(recipe.images, data, shapes[0][-1], reconstruct, device)
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
    for run in one_per_network(runs(recipe)):
        if _is_complete(recipe, run, exp, "ann"):
            continue
        split = split or images_of(recipe, data, device_of(recipe))
        claim_run(recipe, run, exp, "ann")
        seed_everything(run.seed)
        model = ImageNetwork(run.architecture, recipe.experiment.task)
        _train(recipe, recipe.train, run, split, model, run.ann_folder(exp))


def convert_all(recipe: ImageRecipe, data: Path, exp: Path) -> None:
    """Convert each trained network with each value of each varied setting that is missing.

    Then train it on where the experiment asks for this control.

    Raises:
        SpikeSepError: an analog network is missing.
    """
    split = None
    check_gpus(recipe.launch)
    for run, kind in networks(recipe):
        if kind == "ann" or _is_complete(recipe, run, exp, kind):
            continue
        split = split or images_of(recipe, data, device_of(recipe))
        ann = run.ann_folder(exp) / "ann"
        if not ann.exists():
            raise SpikeSepError(f"{ann}: no trained network; run stage 1 (spikesep-vision train)")
        claim_run(recipe, run, exp, kind)
        seed_everything(run.seed)
        model = load_image_network(ann)
        if kind == "snn":
            _convert(recipe, run, split, model, exp)
        else:
            config = control_config(recipe, run, exp)
            another = replace(run, seed=run.seed + 1000)  # as in conversion
            _train(recipe, config, another, split, model, run.control_folder(exp))


def score_all(recipe: ImageRecipe, data: Path, exp: Path) -> None:
    """Score each network on the test set where scores are missing or older than the network.

    Writes `scores-ann.json` and `scores.json`.
    """
    split = None
    check_gpus(recipe.launch)
    for run, kind in networks(recipe):
        model_folder, path = model_and_scores(run, exp, kind)
        model = load_image_network(model_folder)
        claim_run(recipe, run, exp, kind)
        if path.exists() and path.stat().st_mtime > model_folder.stat().st_mtime:
            print(f"{path} is there and complete; delete it to score again")
            continue
        split = split or images_of(recipe, data, device_of(recipe))
        found = score(
            model,
            objective_of(model.task),
            split.test,
            device=device_of(recipe),
            title=f"scoring {model_folder.relative_to(exp)}",
        )
        write_json(path, found)
        figures = {name: value for name, value in found.items() if isinstance(value, float)}
        print(f"{path}: {json.dumps(figures)}", flush=True)


def _is_complete(recipe: ImageRecipe, run: Run, exp: Path, kind: str) -> bool:
    """Return whether a network is there; check its settings if it is."""
    model, _ = model_and_scores(run, exp, kind)
    if not model.exists():
        return False
    claim_run(recipe, run, exp, kind)
    print(f"{model} is there and complete; delete {model.parent} to make it again")
    return True


def _train(
    recipe: ImageRecipe,
    config: ImagePretrainConfig,
    run: Run,
    split: Split,
    model: ImageNetwork,
    folder: Path,
) -> None:
    """Train an analog network."""
    objective = objective_of(recipe.experiment.task, config.label_smoothing)
    n_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"training {run.architecture}, seed {run.seed}: {n_parameters:,} parameters, "
        f"{len(split.train)} images, {len(split.valid)} for validation; metric is "
        f"{METRICS[model.task]}"
    )
    pretrain(
        _laid_out(model, torch.channels_last),  # faster convolutions
        objective.loss,
        training_loader(split.train, config.batch_size, run.seed),
        plain_loader(split.valid),
        config,
        folder / "checkpoints" / "ann",
        history=History(folder / "history.csv"),
        metric=objective.metric,
        launch=recipe.launch,
    )
    save_image_network(_laid_out(model, torch.contiguous_format), folder / "ann")


def _laid_out(model: ImageNetwork, layout: torch.memory_format) -> ImageNetwork:
    """Return the model with its kernels in a memory format."""
    # torch's overloads lack this argument.
    return model.to(memory_format=layout)  # pyright: ignore[reportCallIssue]


def _convert(recipe: ImageRecipe, run: Run, split: Split, model: ImageNetwork, exp: Path) -> None:
    """Convert a trained network, or an untrained one for comparison."""
    folder, config = run.folder(exp), run.config(recipe)
    objective = objective_of(recipe.experiment.task, config.label_smoothing)
    if config.untrained and config.method in ("tandem", "surrogate"):
        model = ImageNetwork(run.architecture, recipe.experiment.task)
        _settle_norms(model, split, config.batch_size, device_of(recipe))
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
        device=device_of(recipe),
        fresh=fresh,
    )
    reported = list(range(min(N_REPORTED, len(split.valid))))
    with torch.no_grad():
        inputs = [model.encode(split.valid.batch(reported)[0].cpu())[0]]
    reports = conversion_report(model.network, inputs, choices)
    save_image_network(model, folder / "snn", [r.to_dict() for r in reports])


def _settle_norms(model: ImageNetwork, split: Split, batch_size: int, device: str) -> None:
    """Give the norms of an untrained network statistics, from which thresholds can be chosen."""
    model.to(device).train()
    n_images = min(len(split.train), SETTLING_BATCHES * batch_size)
    with torch.no_grad():
        for indices in batches_of(n_images, batch_size):
            model(split.train.batch(indices)[0].to(device))


class _FirstImages(torch.utils.data.Dataset):
    """The first `n` images of a set; 0 for all."""

    def __init__(self, images: Images, n: int):
        self.images = images
        self.n = min(n or len(images), len(images))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, target = self.batch([index])
        return x[0], target[0]

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return images and targets."""
        return self.images.batch(indices)
