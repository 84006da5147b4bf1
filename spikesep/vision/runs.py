"""Runs of an image experiment: which networks it has, and where they are.

exp/<architecture>/seed0/ann                   trained analog network
exp/<architecture>/seed0/train_on/ann          the same, trained on as a control
exp/<architecture>/seed0/n_steps-16/snn        converted network, with history, report and scores
exp/<architecture>/seed0/variant-<name>/snn    likewise
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.training.records.history import History
from spikesep.training.records.run_folder import claim
from spikesep.vision.architectures import ARCHITECTURES
from spikesep.vision.config import ImageConversionConfig, ImagePretrainConfig, ImageRecipe

VARIANT = "variant"
"""Name of a run's setting if its value is the name of a variant."""


@dataclass(frozen=True)
class Run:
    """Conversion of the network of one architecture and seed, with one setting at one value.

    Attributes:
        architecture: the architecture.
        seed: the seed.
        setting: the varied setting, or `variant`.
        value: its value, or the name of the variant.
    """

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

    def control_folder(self, exp: Path) -> Path:
        """Return the folder of the analog network that is trained on."""
        return self.ann_folder(exp) / "train_on"

    def folder(self, exp: Path) -> Path:
        """Return the folder of the converted network."""
        return self.ann_folder(exp) / f"{self.name}-{self.value}"

    def config(self, recipe: ImageRecipe) -> ImageConversionConfig:
        """Return the settings of the conversion."""
        if self.setting == VARIANT:
            return recipe.convert.varied(recipe.experiment.variants[self.value])
        return recipe.convert.varied({self.setting: self.value})

    def epochs(self, exp: Path) -> int:
        """Return the number of epochs that the conversion trained, over all stages."""
        return sum(row.epoch > 0 for row in History(self.folder(exp) / "history.csv").read())


def short_setting(setting: str) -> str:
    """Return the name of a setting without its section."""
    return setting.rpartition(".")[2]


def settings_of(recipe: ImageRecipe) -> dict[str, list[Any]]:
    """Return all values of each varied setting, with the variants as values of the last."""
    experiment = recipe.experiment
    variants = {VARIANT: list(experiment.variants)} if experiment.variants else {}
    return experiment.vary | variants


def runs(recipe: ImageRecipe) -> list[Run]:
    """Return all conversions of the experiment, seed by seed."""
    experiment = recipe.experiment
    return [
        Run(architecture, recipe.seed + k, setting, value)
        for k in range(experiment.n_seeds)
        for architecture in experiment.architectures
        for setting, values in settings_of(recipe).items()
        for value in values
    ]


def one_per_network(all_runs: Iterable[Run]) -> Iterator[Run]:
    """Yield the first run of each architecture and seed."""
    seen = set()
    for run in all_runs:
        if (run.architecture, run.seed) not in seen:
            seen.add((run.architecture, run.seed))
            yield run


def controls(recipe: ImageRecipe) -> list[Run]:
    """Return the conversions whose epochs the controls have: the first by PTL of each network."""
    if not recipe.experiment.train_on:
        return []
    return list(one_per_network(r for r in runs(recipe) if r.config(recipe).method == "ptl"))


def control_config(recipe: ImageRecipe, run: Run, exp: Path) -> ImagePretrainConfig:
    """Return the settings with which the analog network is trained on as a control.

    It takes as many epochs as the conversion `run` took, with the conversion's optimizer, batches
    and averaging, and a learning rate that falls to zero from that of the conversion's first stage.
    """
    config = run.config(recipe)
    return replace(
        recipe.train,
        epochs=max(1, run.epochs(exp)),
        batch_size=config.batch_size,
        optimizer="adam",
        learning_rate=config.first_stage_learning_rate,
        weight_decay=0.0,
        warmup_steps=0,
        schedule="cosine",
        cosine_from=0.0,
        ema_decay=config.ema_decay,
        label_smoothing=config.label_smoothing,
        precision=config.precision,
        max_minutes=None,
    )


def claim_run(recipe: ImageRecipe, run: Run, exp: Path, kind: str) -> None:
    """Record the settings of a network (`ann`, `train_on` or `snn`), or check that they are equal.

    The folder of the images may be moved.

    Raises:
        SpikeSepError: the network was made with other settings.
    """
    settings = {
        "seed": run.seed,
        "architecture": ARCHITECTURES.get(run.architecture, run.architecture),
        "task": recipe.experiment.task,
        "images": replace(recipe.images, root=""),
    }
    if kind == "ann":
        claim(run.ann_folder(exp), kind, settings | {"train": recipe.train})
    elif kind == "train_on":
        config = control_config(recipe, run, exp)
        claim(run.control_folder(exp), kind, settings | {"train": config})
    else:
        claim(run.folder(exp), kind, settings | {"convert": run.config(recipe)})


def networks(recipe: ImageRecipe) -> Iterator[tuple[Run, str]]:
    """Yield the run and the kind, as in `claim_run`, of every network of the experiment."""
    all_runs = runs(recipe)
    yield from ((run, "ann") for run in one_per_network(all_runs))
    yield from ((run, "snn") for run in all_runs)
    yield from ((run, "train_on") for run in controls(recipe))


def model_and_scores(run: Run, exp: Path, kind: str) -> tuple[Path, Path]:
    """Return the model folder of a network and the file of its scores."""
    if kind == "ann":
        return run.ann_folder(exp) / "ann", run.ann_folder(exp) / "scores-ann.json"
    folder = run.folder(exp) if kind == "snn" else run.control_folder(exp)
    return folder / ("snn" if kind == "snn" else "ann"), folder / "scores.json"


def read_scores(recipe: ImageRecipe, run: Run, exp: Path, kind: str) -> dict[str, Any]:
    """Read the scores of a network.

    Args:
        recipe: the settings.
        run: the run.
        exp: folder of the runs.
        kind: as in `claim_run`.

    Raises:
        SpikeSepError: they are missing, or the network was made with other settings.
    """
    path = model_and_scores(run, exp, kind)[1]
    if not path.exists():
        raise SpikeSepError(f"{path}: not found; run stage 3 (spikesep-vision score)")
    claim_run(recipe, run, exp, kind)
    return read_json(path)
