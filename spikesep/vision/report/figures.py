"""Figures of the image experiments, as in the paper's Figs. 1, 4, 5, 6 and 8."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator

from spikesep.files import read_json
from spikesep.training.records.figures import (
    activation_figure,
    figure_file,
    layer_figure,
    training_figure,
)
from spikesep.training.records.history import History
from spikesep.vision.architectures import short_name
from spikesep.vision.config import ImageRecipe
from spikesep.vision.data.datasets import Images
from spikesep.vision.model import ImageNetwork, load_image_network
from spikesep.vision.report.paper import paper_experiment
from spikesep.vision.report.summary import conversions
from spikesep.vision.runs import VARIANT, Run, runs
from spikesep.vision.scoring import METRICS
from spikesep.vision.stages import images_of

METHODS = {
    "ann": "ANN",
    "ptl": "SNN, progressive",
    "deferred = True": "SNN, deferred",
    "deferred": "SNN, deferred",
    "tandem": "SNN, tandem end to end",
    "surrogate": "SNN, through time",
    "rate": "SNN, firing rates",
}


def draw(
    recipe: ImageRecipe, data: Path, exp: Path, found: dict[str, Any], folder: Path
) -> list[Path]:
    """Draw the figures of the experiment.

    Args:
        recipe: the settings.
        data: folder of the images.
        exp: folder of the runs.
        found: results, see `summarize`.
        folder: folder of the figures.

    Returns:
        The files.
    """
    name = recipe.experiment.name
    prefix, run = f"{name}-" if name else "", runs(recipe)[0]
    drawn = []
    own_figure = {"fig4": depth_figure, "fig6": steps_figure}.get(paper_experiment(name))
    if own_figure:
        drawn.append(folder / f"{name}.png")
        own_figure(found, drawn[-1])
    drawn.append(folder / f"{prefix}training.png")
    _draw_training(recipe, run, exp, drawn[-1])
    drawn.append(folder / f"{prefix}activations.png")
    snn = run.folder(exp) / "snn"
    n_steps = read_json(snn / "config.json")["coding"]["n_steps"]
    report = read_json(snn / "report.json")
    activation_figure(report, drawn[-1], n_steps)
    drawn.append(folder / f"{prefix}layers.png")
    layer_figure(report, drawn[-1])
    if recipe.experiment.task == "reconstruction":
        drawn.append(folder / f"{prefix}reconstructions.png")
        reconstruction_figure(load_image_network(snn), images_of(recipe, data).test, drawn[-1])
    return drawn


def _draw_training(recipe: ImageRecipe, run: Run, exp: Path, path: Path) -> None:
    """Draw the validation metric over pre-training and the stages of one conversion (Fig. 5)."""
    task = recipe.experiment.task
    histories = (run.ann_folder(exp) / "history.csv", run.folder(exp) / "history.csv")
    rows = [row for history in histories for row in History(history).read()]
    unit = " (%)" if task == "classification" else ""
    is_error = task == "reconstruction"
    training_figure(rows, path, METRICS[task] + unit, lower_is_better=is_error)


def depth_figure(found: dict[str, Any], path: Path) -> None:
    """Draw validation accuracy over epochs, a panel per method, a line per depth (Fig. 4)."""
    several = len(found["architectures"]) > 1
    curves = {a: _by_method(found, found[a] if several else found) for a in found["architectures"]}
    methods = list(next(iter(curves.values())))
    with figure_file(path, (9.0, 3.2)) as (figure, colours):
        panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
        for axes, method in zip(panels, methods, strict=True):
            for k, (architecture, own) in enumerate(curves.items()):
                curve = own[method]["curve"]["metric"]
                axes.plot(
                    range(1, len(curve) + 1),
                    curve,
                    color=colours["line"],
                    alpha=0.35 + 0.65 * k / max(1, len(curves) - 1),
                    label=short_name(architecture),
                )
            axes.set_title(METHODS.get(method, method), fontsize=8.5, color=colours["ink"])
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        panels[0].set_ylabel("validation accuracy (%)")
        panels[0].legend(frameon=False, fontsize=8, loc="lower right")


def _by_method(found: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of the ANN and of each conversion of one architecture, by method."""
    return {"ann": own["ann"]} | {
        value if group in ("snn", VARIANT) else f"{setting} = {value}": scores
        for group, setting, value, scores in conversions(found, own)
    }


def steps_figure(found: dict[str, Any], path: Path) -> None:
    """Draw accuracy and SynOps ratio over N_s, accuracy and epochs over patience (Fig. 6 A-D)."""
    panels = [
        ("snn", "accuracy", "N_s", "accuracy (%)"),
        ("snn", "synops_ratio", "N_s", "SynOps ratio"),
    ]
    if "patience" in found:
        panels += [
            ("patience", "accuracy", "T_p", "accuracy (%)"),
            ("patience", "epochs", "T_p", "epochs"),
        ]
    with figure_file(path, (9.0, 2.8)) as (figure, colours):
        for letter, axes, (group, quantity, x, y) in zip(
            "ABCD", figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=False
        ):
            points = sorted((float(k), v[quantity]) for k, v in found[group].items())
            axes.errorbar(
                [k for k, _ in points],
                [v["mean"] for _, v in points],
                [v["std"] for _, v in points],
                color=colours["line"],
                marker="o",
                markersize=3.5,
                capsize=2,
            )
            if quantity == "accuracy":
                level = found["ann"]["accuracy"]["mean"]
                axes.axhline(level, color=colours["faint"], linestyle=(0, (2, 3)), linewidth=1)
            axes.set_xlabel(x)
            axes.set_title(f"{letter}  {y}", fontsize=9, loc="left", color=colours["ink"])


def reconstruction_figure(
    model: ImageNetwork, images: Images, path: Path, *, n_columns: int = 10, n_rows: int = 3
) -> None:
    """Draw pairs of an image, on the left, and its reconstruction (Fig. 8)."""
    n_columns = min(n_columns, len(images))
    n_rows = min(n_rows, len(images) // n_columns)
    x, _ = images.batch(list(range(n_columns * n_rows)))
    with torch.inference_mode():
        again = model(x)
    pairs = torch.cat([x, again], -1).mean(1).numpy()  # [n, H, 2 W]
    rows = [
        np.concatenate(list(pairs[k : k + n_columns]), 1) for k in range(0, len(pairs), n_columns)
    ]
    with figure_file(path, (9.0, 9.0 * n_rows / (2 * n_columns))) as (figure, _):
        axes = figure.subplots()
        axes.imshow(np.concatenate(rows), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
