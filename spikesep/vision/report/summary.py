"""Results of an image experiment: `results/<experiment>.json`."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spikesep.provenance import provenance
from spikesep.training.records.history import History
from spikesep.vision.config import ImageRecipe
from spikesep.vision.runs import (
    Run,
    controls,
    read_scores,
    runs,
    settings_of,
    short_setting,
)


def summarize(recipe: ImageRecipe, exp: Path, command: str) -> dict[str, Any]:
    """Return mean and spread over seeds of every architecture and value, and their provenance.

    The scores of one architecture are at the top level, {"ann": {metric: {"mean", "std",
    "seeds"}}, "snn": {value: ...}}, those of several under their names. A second varied setting has
    its own name in place of "snn", and the control `train_on` is beside "ann".
    """
    experiment = recipe.experiment
    found = {a: _architecture(recipe, exp, a) for a in experiment.architectures}
    return {
        "experiment": experiment.name,
        **(found if len(found) > 1 else next(iter(found.values()))),
        "task": experiment.task,
        "architectures": experiment.architectures,
        "varied": list(settings_of(recipe)),
        "reduced": bool(experiment.reduced),
        "note": experiment.reduced,
        "command": command,
        "config": asdict(recipe),
        **provenance(),
    }


def _architecture(recipe: ImageRecipe, exp: Path, architecture: str) -> dict[str, Any]:
    own = [run for run in runs(recipe) if run.architecture == architecture]
    first_setting = next(iter(recipe.experiment.vary))
    by_seed = {run.seed: run for run in own}
    first_history = by_seed[recipe.seed].ann_folder(exp) / "history.csv"
    found: dict[str, Any] = {
        "ann": _mean([read_scores(recipe, run, exp, "ann") for run in by_seed.values()])
        | {"curve": _curve(first_history)},
        "snn": {},
    }
    if alike := [run for run in controls(recipe) if run.architecture == architecture]:
        found["train_on"] = _mean(
            [
                read_scores(recipe, run, exp, "train_on") | {"epochs": run.epochs(exp)}
                for run in alike
            ]
        )
    for run in own:
        group = "snn" if run.setting == first_setting else run.name
        entry = found.setdefault(group, {})
        if label(run) not in entry:
            alike = [r for r in own if (r.setting, r.value) == (run.setting, run.value)]
            scores = [read_scores(recipe, r, exp, "snn") | {"epochs": r.epochs(exp)} for r in alike]
            entry[label(run)] = _mean(scores) | {"curve": _curve(run.folder(exp) / "history.csv")}
    return found


def label(run: Run) -> str:
    """Return the key of a run's value; 0 bits are `float32`, a fan-in limit of 0 is `none`."""
    if run.value == 0 and not isinstance(run.value, bool):
        return {"qat_bits": "float32", "fan_in": "none"}.get(run.name, "0")
    return str(run.value)


def _mean(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("accuracy", "top5_accuracy", "mse", "synops_ratio", "epochs"):
        values = [s[name] for s in scores if name in s]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found[name] = {"mean": statistics.fmean(values), "std": spread, "seeds": len(values)}
    return found


def _curve(path: Path) -> dict[str, list]:
    """Return stage and validation metric of each epoch in a history."""
    rows = History(path).read()
    return {"stage": [r.stage for r in rows], "metric": [round(r.valid_metric, 6) for r in rows]}


def conversions(
    found: dict[str, Any], own: dict[str, Any]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield group, setting, value and scores of each conversion of one architecture.

    The order is that of `experiment.vary`; the settings are without section.
    """
    for setting in found["varied"]:
        short = short_setting(setting)
        group = "snn" if setting == found["varied"][0] else short
        yield from ((group, short, value, scores) for value, scores in own[group].items())
