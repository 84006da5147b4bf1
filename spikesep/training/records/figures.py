"""Figures of a conversion: training history (the paper's Fig. 5), activations (Fig. 1), layers.

Each is available for light and dark pages.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from spikesep.files import atomic_path
from spikesep.spiking.conversion.report import LayerReport
from spikesep.training.records.history import Epoch

LIGHT = {
    "ink": "#24262b",
    "faint": "#8b8f98",
    "shade": "#eef0f4",
    "line": "#2f6690",
    "accent": "#c2543d",
    "page": "#ffffff",
}
DARK = {
    "ink": "#e3e4e8",
    "faint": "#868b96",
    "shade": "#23262d",
    "line": "#7fb4dc",
    "accent": "#ef8a70",
    "page": "#14161b",
}


def training_figure(
    history: Sequence[Epoch],
    path: Path,
    metric: str,
    *,
    lower_is_better: bool = False,
    dark: bool = False,
) -> None:
    """Draw the validation metric over pre-training and conversion stages, as the paper's Fig. 5.

    Args:
        history: the epochs in order, at least one.
        path: the PNG file.
        metric: name and unit of `valid_metric`.
        lower_is_better: whether the metric is an error.
        dark: whether the figure is for a dark page.
    """
    values = [row.valid_metric for row in history]
    with figure_file(path, (9.0, 3.6), dark=dark) as (figure, colours):
        axes = figure.subplots()
        _shade_stages(axes, [row.stage for row in history], colours)
        axes.plot(range(1, len(values) + 1), values, color=colours["line"], linewidth=1.4, zorder=3)
        _mark_conversions(axes, history, colours)
        pretrained = [row.valid_metric for row in history if row.stage == 0]
        if pretrained:
            axes.axhline(
                (min if lower_is_better else max)(pretrained),
                color=colours["faint"],
                linewidth=1,
                linestyle=(0, (2, 3)),
                label="best of pre-training",
            )
        has_stages = any(row.stage for row in history)
        axes.set_xlim(0.5, len(values) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=3))
        above = "validation, once an epoch (above: the layer being converted)"
        axes.set_xlabel(above if has_stages else "epoch")
        axes.set_ylabel(f"validation {metric}")
        axes.grid(axis="y", color=colours["faint"], alpha=0.25, linewidth=0.6)
        corner = "upper right" if lower_is_better else "lower right"
        axes.legend(loc=corner, frameon=False, fontsize=8.5)


def _shade_stages(axes: Axes, stages: Sequence[int], colours: dict[str, str]) -> None:
    """Label the stages and shade every second one."""
    starts = [k for k in range(len(stages)) if k == 0 or stages[k] != stages[k - 1]]
    ends = [*starts[1:], len(stages)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if number % 2:
            axes.axvspan(start + 0.5, end + 0.5, color=colours["shade"], linewidth=0, zorder=0)
        axes.text(
            (start + end + 1) / 2,
            1.02,
            str(stages[start]) if stages[start] else "pre-training",
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=colours["faint"],
            transform=axes.get_xaxis_transform(),
        )


def _mark_conversions(axes: Axes, history: Sequence[Epoch], colours: dict[str, str]) -> None:
    """Mark the validation right after each layer's conversion."""
    marked = {
        k: row.valid_metric
        for k, row in enumerate(history, start=1)
        if row.stage and row.epoch == 0
    }
    if marked:
        axes.plot(
            list(marked),
            list(marked.values()),
            "o",
            color=colours["accent"],
            markersize=3.5,
            zorder=4,
            label="right after a layer's conversion",
        )


def activation_figure(
    report: Sequence[dict[str, Any]], path: Path, n_steps: int, *, dark: bool = False
) -> None:
    """Draw histograms of each layer's activations, with the upper bound a_u dotted, as Fig. 1.

    Args:
        report: one entry per layer, with `layer`, `threshold`, `percentile`, and `histogram` with
            `edges` and `counts`.
        path: the PNG file.
        n_steps: N_s; a_u is N_s times the threshold.
        dark: whether the figure is for a dark page.
    """
    n_columns = min((4, 3, 5), key=lambda n: -len(report) % n) if len(report) > 3 else len(report)
    n_rows = -(-len(report) // n_columns)
    with figure_file(path, (9.0, 0.5 + 1.75 * n_rows), dark=dark) as (figure, colours):
        grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
        for axes, layer in zip(grid.flat, report, strict=False):
            _activations(axes, layer, n_steps, colours)
        for axes in grid.flat[len(report) :]:
            axes.set_visible(False)
        figure.supxlabel("activation", fontsize=9.5, color=colours["ink"])
        figure.supylabel("neurons", fontsize=9.5, color=colours["ink"])


def layer_figure(
    report: Sequence[LayerReport | dict[str, Any]], path: Path | str, *, dark: bool = False
) -> None:
    """Draw what conversion did to each layer: its error, spike rate and synaptic operations.

    Args:
        report: one entry per layer, as `conversion_report` returns them or as `report.json` holds
            them. Reports of earlier versions lack synaptic operations, which are then left out.
        path: the PNG file.
        dark: whether the figure is for a dark page.
    """
    layers = [row.to_dict() if isinstance(row, LayerReport) else row for row in report]
    panels = [_errors, _bars("firing_rate", "spikes per neuron and step")]
    if all(isinstance(layer.get("synops_ratio"), float) for layer in layers):
        total = sum(layer["synops_ratio"] for layer in layers)
        panels.append(_bars("synops_ratio", f"SynOps per MAC, {total:.2f} in all"))
    height = 1.1 + 0.24 * len(layers)
    with figure_file(Path(path), (9.0, height), dark=dark) as (figure, colours):
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, draw in zip(row, panels, strict=True):
            draw(axes, layers, colours)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="x", color=colours["faint"], alpha=0.25, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(axis="y", length=0)
        row[0].set_yticks(range(len(layers)), [str(layer["layer"]) for layer in layers])
        row[0].set_ylim(len(layers) - 0.4, -0.6)  # the first layer on top
        figure.legend(loc="outside lower left", frameon=False, fontsize=8, ncols=2)


def _errors(axes: Axes, layers: Sequence[dict[str, Any]], colours: dict[str, str]) -> None:
    """Draw the error of rounding, and the whole error where it was measured."""
    axes.barh(
        range(len(layers)),
        [layer["quantization_error"] for layer in layers],
        height=0.62,
        color=colours["line"],
        label="clipping and rounding",
    )
    whole = {k: layer["error"] for k, layer in enumerate(layers) if layer.get("error") is not None}
    if whole:
        axes.plot(
            list(whole.values()),
            list(whole),
            "o",
            color=colours["accent"],
            markersize=4,
            label="with timing",
        )
    axes.set_title("relative error", fontsize=9, loc="left", color=colours["ink"])


def _bars(
    name: str, title: str
) -> Callable[[Axes, Sequence[dict[str, Any]], dict[str, str]], None]:
    """Return a function that draws one figure of each layer."""

    def draw(axes: Axes, layers: Sequence[dict[str, Any]], colours: dict[str, str]) -> None:
        values = [layer[name] for layer in layers]
        axes.barh(range(len(layers)), values, height=0.62, color=colours["line"])
        axes.set_title(title, fontsize=9, loc="left", color=colours["ink"])

    return draw


@contextmanager
def figure_file(
    path: Path, size: tuple[float, float], *, dark: bool = False
) -> Iterator[tuple[Figure, dict[str, str]]]:
    """Yield a figure and the page's colours; write it to `path` at the end.

    Uses neither a display nor global state.
    """
    colours = DARK if dark else LIGHT
    style: dict[Any, Any] = {
        "font.size": 9.5,
        "axes.edgecolor": colours["faint"],
        "axes.labelcolor": colours["ink"],
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": colours["ink"],
        "xtick.color": colours["faint"],
        "ytick.color": colours["faint"],
        "xtick.labelcolor": colours["ink"],
        "ytick.labelcolor": colours["ink"],
    }
    with matplotlib.rc_context(style), atomic_path(path) as temporary:
        figure = Figure(figsize=size, facecolor=colours["page"], layout="constrained")
        yield figure, colours
        for axes in figure.axes:
            axes.set_facecolor("none")
        figure.savefig(temporary, format="png", dpi=160)


def _activations(axes: Axes, layer: dict[str, Any], n_steps: int, colours: dict[str, str]) -> None:
    """Draw the histogram of one layer."""
    edges, counts = (np.asarray(layer["histogram"][name]) for name in ("edges", "counts"))
    bound = n_steps * layer["threshold"]
    axes.stairs(counts, edges, fill=True, color=colours["line"], alpha=0.85, baseline=0.5)
    axes.axvline(bound, color=colours["accent"], linewidth=1.4, linestyle=(0, (1, 1.5)))
    axes.set_yscale("log")
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(bottom=0.5)
    axes.set_title(layer["layer"], fontsize=9, loc="left", color=colours["ink"])
    on_left = bound > 0.5 * edges[-1]
    axes.annotate(
        f"{layer['percentile']:g} %",
        (bound, 0.93),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if on_left else 4, 0),
        textcoords="offset points",
        fontsize=8,
        ha="right" if on_left else "left",
        va="top",
        color=colours["accent"],
    )
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8)
