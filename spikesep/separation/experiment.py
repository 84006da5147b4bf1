"""Training and conversion of a speech recipe: from data folder and settings to model folders."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.separation.config import RecipeConfig
from spikesep.separation.data.dataset import FixedCrops
from spikesep.separation.experiment_data import (
    ExperimentData,
    dynamic_settings,
    read_experiment_data,
)
from spikesep.separation.initial_models import (
    copy_analog,
    hash_of_weights,
    load_analog,
    load_initial,
    load_thawed,
    match_level,
    stems_from,
)
from spikesep.separation.model.separator import Separator, load_separator, save_separator
from spikesep.separation.objective import LOSSES, knows_silence
from spikesep.spiking.conversion.ptl import ThresholdChoice
from spikesep.spiking.conversion.report import LayerReport, conversion_report
from spikesep.training.config import LaunchConfig, is_first_process
from spikesep.training.convert import convert
from spikesep.training.objective import Loss, Metric
from spikesep.training.pretrain import pretrain
from spikesep.training.processes.launch import check_gpus, seed_everything
from spikesep.training.records.history import History
from spikesep.training.records.run_folder import claim

VALID_SECONDS = 4.0
"""Duration of the validation crops of pre-training."""
N_REPORTED = 32
"""Number of validation crops for the conversion report, and for the level of estimates."""


def train_ann(
    data: Path, exp: Path, recipe: RecipeConfig, ann: Path | None = None, began: float | None = None
) -> Path:
    """Train the analog separator on `data/tr`, validated on `data/cv`.

    With several processes (`recipe.launch`), each calls this function, and the first writes files.

    Args:
        data: folder of the mixtures.
        exp: folder of the experiment.
        recipe: the settings.
        ann: analog separator whose weights to start from; None for random weights.
        began: start of the time budget, by `time.monotonic()`; None for now.

    Returns:
        The model folder `exp/ann`.

    Raises:
        SpikeSepError: the data cannot be used, or the stage was begun on other data, with other
            settings or from another separator.
    """
    folder, began = exp / "ann", time.monotonic() if began is None else began
    found = read_experiment_data(data, recipe)
    settings = found.settings("model", "train") | dynamic_settings(recipe)
    initial = None if ann is None else load_initial(ann, recipe).train()
    if ann is not None:
        settings["from_ann"] = hash_of_weights(ann)
    if folder.exists():
        _claim(exp, "ann", settings, data)
        print(f"{folder} is there and complete; delete {exp} to train again")
        return folder
    seed_everything(recipe.seed)
    model = _train(initial, exp, found, settings, began)
    if is_first_process():
        save_separator(model, folder)
    return folder


def _train(
    initial: Separator | None,
    exp: Path,
    data: ExperimentData,
    settings: dict[str, Any],
    began: float,
) -> Separator:
    """Train a separator, from given or random weights; return it."""
    recipe, config, rate = data.recipe, data.recipe.train, data.recipe.model.sample_rate
    n_samples = round(config.segment_seconds * rate)
    loader = data.random_crops(n_samples, config.batch_size, recipe.seed)
    silence = knows_silence(config.loss)
    crops = FixedCrops(data.valid, rate, round(VALID_SECONDS * rate), silence=silence)
    model = initial or Separator(recipe.model)
    check_gpus(recipe.launch)
    if initial is not None and silence:
        _match_level(model.eval(), crops)
        model.train()
    if is_first_process():
        _claim(exp, "ann", settings, data.folder)
        data.print_residuals()
        _print_training(model, loader, crops, config.loss)
    loss = LOSSES[config.loss]()
    pretrain(
        model,
        loss,
        loader,
        DataLoader(crops, batch_size=config.batch_size),
        config,
        exp / "checkpoints" / "ann",
        history=History(exp / "history.csv"),
        metric=_improvement(crops, loss),
        launch=recipe.launch,
        began=began,
    )
    return model


def convert_snn(
    data: Path,
    exp: Path,
    recipe: RecipeConfig,
    ann: Path | None = None,
    snn: Sequence[Path] = (),
    began: float | None = None,
) -> tuple[Path, list[LayerReport]]:
    """Convert `exp/ann` to spiking neurons; also write the report into the model folder.

    Args:
        data: folder of the mixtures.
        exp: folder of the experiment.
        recipe: the settings.
        ann: analog separator to copy to `exp/ann` if there is none; allows one network to be
            converted in several experiments.
        snn: earlier conversions of `exp/ann` to train further, from the mean of their weights.
        began: start of the time budget, by `time.monotonic()`; None for now.

    Returns:
        The model folder `exp/snn` and a report per layer (none if it was complete).

    Raises:
        SpikeSepError: there is no analog separator, it cannot be converted, `exp/ann` does not
            stem from `ann`, or `snn` cannot be trained further with these settings.
    """
    folder, began = exp / "snn", time.monotonic() if began is None else began
    _provide_analog(exp, recipe, ann)
    found = read_experiment_data(data, recipe)
    settings = found.settings("convert") | dynamic_settings(recipe)
    model = load_thawed(snn, recipe) if snn else load_analog(exp / "ann", recipe)
    if snn:
        settings["from_snn"] = hash_of_weights(*snn)
    if folder.exists():
        _claim(exp, "snn", settings, data)
        checkpoints = exp / "checkpoints" / "snn"
        print(f"{folder} is there and complete; delete it and {checkpoints} to convert again")
        return folder, []
    seed_everything(recipe.seed)
    reports = _convert(model, exp, found, settings, began)
    save_separator(model, folder, report=[report.to_dict() for report in reports])
    return folder, reports


def _convert(
    model: Separator, exp: Path, data: ExperimentData, settings: dict[str, Any], began: float
) -> list[LayerReport]:
    """Convert a model in place; return a report per layer."""
    recipe, config = data.recipe, data.recipe.convert
    n_samples = round(config.segment_seconds * model.sample_rate)
    train_crops = data.fixed_crops(n_samples, config.train_segments)
    valid_crops = FixedCrops(
        data.valid,
        model.sample_rate,
        n_samples,
        config.valid_segments,
        recipe.seed,
        silence=knows_silence(recipe.train.loss),
    )
    fresh = None
    if config.discretize:
        other_seed = recipe.seed + 1  # other crops than in pre-training
        fresh = data.random_crops(n_samples, config.batch_size, other_seed)
    check_gpus(recipe.launch)
    _claim(exp, "snn", settings, data.folder)
    _print_conversion(model, data)
    if knows_silence(recipe.train.loss) and config.targets == "sources":
        _match_level(model, valid_crops)
    loss = LOSSES[recipe.train.loss]()
    choices = convert(
        model,
        loss,
        train_crops,
        valid_crops,
        config,
        exp / "checkpoints" / "snn",
        history=History(exp / "history.csv"),
        metric=_improvement(valid_crops, loss),
        seed=recipe.seed,
        device="cuda" if recipe.launch.n_gpus else "cpu",
        fresh=fresh,
        teacher=load_separator(exp / "ann") if config.targets == "ann" else None,
        began=began,
    )
    return _reports(model, valid_crops, choices)


def _provide_analog(exp: Path, recipe: RecipeConfig, ann: Path | None) -> None:
    """See that `exp/ann` exists and, if `ann` is given, stems from it."""
    if ann is not None and not (exp / "ann").exists():
        copy_analog(ann, exp, recipe)
    elif ann is not None and not stems_from(exp, ann):
        raise SpikeSepError(
            f"{exp / 'ann'}: exists and is not {ann}; give another --tag, or leave --from-ann out"
        )
    if not (exp / "ann").exists():
        raise SpikeSepError(
            f"{exp / 'ann'}: no trained separator; run stage 2 (spikesep-train) or give --from-ann"
        )


def _reports(
    model: Separator, crops: FixedCrops, choices: list[ThresholdChoice]
) -> list[LayerReport]:
    n_reported = min(N_REPORTED, len(crops))
    with torch.no_grad():
        inputs = [model.encode(crops[i][0][None])[0] for i in range(n_reported)]
    return conversion_report(model.network, inputs, choices)


def _match_level(model: Separator, crops: FixedCrops) -> None:
    """Bring the estimates of a network that is trained further to the level of the sources."""
    gain = match_level(model, (crops[i] for i in range(min(N_REPORTED, len(crops)))))
    if gain and is_first_process():
        print(f"estimates are scaled by {gain:.1f} dB, to the level of the sources", flush=True)


def _print_training(model: Separator, loader: DataLoader, crops: FixedCrops, loss: str) -> None:
    n_parameters = sum(p.numel() for p in model.parameters())
    measure = {"si_sdr": "SI-SDR", "snr": "mean of SNR and SI-SDR"}[loss]
    n_mixtures = len(loader.dataset)  # pyright: ignore[reportArgumentType]
    print(
        f"training {n_parameters:,} parameters on {n_mixtures} mixtures, {len(crops)} crops for "
        f"validation; loss is negative {measure} in dB, metric is {measure} improvement in dB"
    )


def _print_conversion(model: Separator, data: ExperimentData) -> None:
    launch: LaunchConfig = data.recipe.launch
    if launch.local_processes * launch.n_nodes > 1:
        unit = "accelerator" if launch.n_gpus else "machine"
        print(f"conversion runs in one process, on one {unit}")
    data.print_residuals()
    n_steps = data.recipe.convert.n_steps
    print(f"converting {len(model.network)} layers to {n_steps} time steps:")
    print(model.network.plan())


def _improvement(crops: FixedCrops, loss: Loss) -> Metric:
    """Return the metric: improvement of the loss over the mixtures in dB."""
    pairs = [crops[i] for i in range(len(crops))]
    mixture_loss = np.mean(
        [float(loss(x.expand_as(sources)[None], sources[None])) for x, sources in pairs]
    )
    return lambda estimates, sources, valid_loss: float(mixture_loss - valid_loss)


def _claim(exp: Path, stage: str, settings: dict[str, Any], data: Path) -> None:
    """Record what a stage depends on, or check that it is the same; see `claim`.

    Raises:
        SpikeSepError: the stage was begun on other data or with other settings.
    """
    path = exp / "settings" / f"{stage}.json"
    if path.exists():
        before = read_json(path)
        if "heard" not in before:  # recorded before samples were hashed
            settings = {key: value for key, value in settings.items() if key != "heard"}
        if any(key in settings and before.get(key) != settings[key] for key in ("data", "heard")):
            raise SpikeSepError(
                f"{exp}: stage {stage} was begun on other data than {data}; give the --data that "
                "it was begun with, give another --tag, or delete the folder to start over"
            )
    claim(exp, stage, settings)
