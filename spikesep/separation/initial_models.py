"""Separators that training and conversion start from."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.files import hash_files, read_json, write_json
from spikesep.separation.config import RecipeConfig
from spikesep.separation.model.growth import can_grow, grow
from spikesep.separation.model.separator import Separator, load_separator, save_separator
from spikesep.spiking.conversion.spike_budget import match
from spikesep.spiking.conversion.time_steps import set_time_steps
from spikesep.spiking.levels.network import remove_levels
from spikesep.training.records.history import History

Example = tuple[Tensor, Tensor]
"""A mixture and its sources."""
LEVEL_TOLERANCE_DB = 3.0
"""Distance from the level of the sources that training mends by itself."""
EPSILON = 1e-12


def load_initial(path: Path, recipe: RecipeConfig) -> Separator:
    """Load the analog separator to train further; it grows to the recipe's sizes if it can.

    Raises:
        SpikeSepError: it is converted, or cannot grow to the recipe's architecture.
    """
    found = load_separator(path)
    if found.config == recipe.model or not can_grow(found.config, recipe.model):
        return load_analog(path, recipe)
    _check_analog(path, found)
    print(f"{path}: carried over to the model's sizes; what is new starts at random")
    remove_levels(found.network)  # training gives the larger network its own
    return grow(found, recipe.model)


def load_analog(path: Path, recipe: RecipeConfig) -> Separator:
    """Load an analog separator of the recipe's architecture.

    Raises:
        SpikeSepError: it is converted, or its architecture differs from the recipe's.
    """
    model = load_separator(path)
    _check_analog(path, model)
    _check_same(path, "model", ours=asdict(recipe.model), theirs=asdict(model.config))
    return model


def copy_analog(path: Path, exp: Path, recipe: RecipeConfig) -> None:
    """Copy an analog separator into an experiment, with settings and history if it has them.

    Raises:
        SpikeSepError: see `load_analog`.
    """
    model, settings = load_analog(path, recipe), path.parent / "settings" / "ann.json"
    if path.name == "ann" and settings.exists():
        write_json(exp / "settings" / "ann.json", read_json(settings))
        for row in History(path.parent / "history.csv").read():
            if row.stage == 0:
                History(exp / "history.csv").add(row)
    save_separator(model, exp / "ann")


def stems_from(exp: Path, path: Path) -> bool:
    """Return whether `exp/ann` is the separator at `path` or was trained further from it."""
    settings = exp / "settings" / "ann.json"
    begun = read_json(settings).get("from_ann") if settings.exists() else None
    if begun is not None and path.is_dir() and begun == hash_of_weights(path):
        return True
    one, other = (load_separator(folder).state_dict() for folder in (exp / "ann", path))
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def load_thawed(paths: Sequence[Path], recipe: RecipeConfig) -> Separator:
    """Load a spiking separator for further training, at its thresholds.

    The layers round as before the first stage. With another number of time steps, thresholds change
    such that the largest output of each neuron stays the same. Of several separators, load the mean
    of their weights (Wortsman et al., "Model soups", arXiv 2203.05482).

    Raises:
        SpikeSepError: a separator does not spike, its settings differ from the recipe's or do not
            allow further training, or several do not stem from the same one.
    """
    models = [_thawed(path, recipe) for path in paths]
    first, states = models[0], []
    for model, path in zip(models, paths, strict=True):
        match(model.network, first.network)
        state = model.state_dict()
        for name, tensor in first.state_dict().items():
            fixed = name.endswith((".threshold", ".kept"))
            if fixed and not torch.allclose(state[name].float(), tensor.float(), rtol=1e-5):
                raise SpikeSepError(
                    f"{path}: has another {name} than {paths[0]}; give separators that were "
                    "trained further from the same one"
                )
        states.append(state)
    if len(models) > 1:
        with torch.no_grad():
            for name, parameter in first.named_parameters():
                parameter.copy_(torch.stack([state[name] for state in states]).mean(0))
    return first


def match_level(model: Separator, crops: Iterable[Example]) -> float:
    """Scale the decoder such that estimates have the level of the sources, if they are far from it.

    SI-SDR says nothing about the level of an estimate, SNR does. Without this, the first steps
    with SNR teach the level alone, at the cost of what the network has learned.

    Args:
        model: any separator; changed in place.
        crops: mixtures [T] and sources [n_speakers, T]. Silent sources and estimates are passed
            over.

    Returns:
        The gain in dB, of the least squared error between each source and the estimate that
        correlates best with it; 0 within `LEVEL_TOLERANCE_DB`, where nothing changes.
    """
    product, energy = 0.0, 0.0
    for mixture, sources in crops:
        with torch.no_grad():
            estimates = model(mixture[None])[0].double()
        products, powers = sources.double() @ estimates.T, estimates.square().sum(1)
        for source, own in zip(sources, products, strict=True):
            best = int((own / powers.sqrt().clamp_min(EPSILON)).argmax())
            if source.any() and own[best] > 0:
                product, energy = product + float(own[best]), energy + float(powers[best])
    gain = product / energy if energy else 1.0
    decibels = 20 * math.log10(gain)
    if abs(decibels) <= LEVEL_TOLERANCE_DB:
        return 0.0
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(gain)
    return decibels


def hash_of_weights(*models: Path) -> str:
    """Return a hash of the files with the weights of models."""
    return hash_files(
        [model / "model.safetensors" if model.is_dir() else model for model in models]
    )


def _thawed(path: Path, recipe: RecipeConfig) -> Separator:
    model, config = load_separator(path), recipe.convert
    if model.kind != "snn":
        raise SpikeSepError(f"{path}: does not spike; give a converted separator, or --from-ann")
    _check_same(path, "model", ours=asdict(recipe.model), theirs=asdict(model.config))
    limits = model.network.limits
    kept = asdict(model.network[0].coding) | {"fan_in": limits.fan_in}
    del kept["n_steps"]
    ours = {name: getattr(config, name) for name in kept}
    _check_same(path, "convert", ours=ours, theirs=kept)
    if limits.weight_bits or config.qat_bits or config.method != "ptl" or not config.discretize:
        raise SpikeSepError(
            f"{path}: further training needs --convert.method ptl, --convert.discretize true and "
            "--convert.qat_bits 0"
        )
    if config.n_steps != model.network[0].coding.n_steps:
        set_time_steps(model.network, config.n_steps)
    model.network.thaw()
    return model


def _check_analog(path: Path, model: Separator) -> None:
    if model.kind != "ann" or model.network.n_converted:
        raise SpikeSepError(f"{path}: is converted already; give an analog separator")


def _check_same(
    path: Path, section: str, *, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    """Check that settings of a model equal those of the recipe."""
    differing = {f"{section}.{name}": theirs[name] for name in ours if theirs[name] != ours[name]}
    if differing:
        texts = (
            f"{name} = {own}, not {ours[name.partition('.')[2]]}" for name, own in differing.items()
        )
        options = (f"--{name} {str(own).replace(' ', '')}" for name, own in differing.items())
        raise SpikeSepError(
            f"{path}: has {', '.join(texts)}; give its config or {' '.join(options)}, or another "
            "network"
        )
