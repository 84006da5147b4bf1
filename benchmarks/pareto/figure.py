"""The figure of quality over cost: above, one test set and the curves; below, all other sets."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.pareto.points import Point
from spikesep.training.records.figures import figure_file

COLUMNS = {
    "operations": ("operations a second of sound, million", 1e-6),
    "millijoules": ("mJ a second of sound (45 nm, arithmetic only)", 1.0),
    "proxy": ("N-DNS power proxy, million", 1e-6),
}
COLOURS = {
    "ANN": ("#8a8f98", "#a7adb8"),
    "SNN, steps": ("#c2410c", "#fb923c"),
    "SNN, steps, graded": ("#0e7490", "#22d3ee"),
    "SNN, thresholds scaled": ("#a16207", "#facc15"),
    "SNN, thresholds scaled, graded": ("#0e7490", "#22d3ee"),
    "SNN, fewer connections": ("#9d174d", "#f472b6"),
    "SNN, fewer connections, graded": ("#0e7490", "#22d3ee"),
    "ANN calibrated, not trained": ("#6d28d9", "#a78bfa"),
    "ANN calibrated, not trained, graded": ("#0e7490", "#22d3ee"),
}
"""Colours of the families, on a light and on a dark page."""
LABELS = {
    "ANN": "ANN: float32, int8, zeros skipped",
    "SNN, steps": "SNN, spikes: 3 to 32 steps",
    "SNN, steps, graded": "the same sums as graded events",
    "SNN, thresholds scaled": "SNN, thresholds scaled",
    "SNN, fewer connections": "SNN, fewer connections",
    "ANN calibrated, not trained": "ANN calibrated, not trained",
}
MARKERS = {
    "ANN": "s",
    "SNN, thresholds scaled": "^",
    "SNN, thresholds scaled, graded": "^",
    "SNN, fewer connections": "v",
    "SNN, fewer connections, graded": "v",
    "ANN calibrated, not trained": "P",
    "ANN calibrated, not trained, graded": "P",
}
SETS = "oD^vsP"


def draw(points: list[Point], path: Path, *, dark: bool) -> None:
    """Draw SI-SDR improvement over each cost.

    Args:
        points: all points.
        path: PNG file.
        dark: draw for a dark page.
    """
    own = [point for point in points if point.family]
    others = [point for point in points if not point.family]
    with figure_file(path, (13.0, 8.6), dark=dark) as (figure, colours):
        grid = figure.subplots(2, 3)
        for axes, (cost, (label, unit)) in zip(grid[0], COLUMNS.items(), strict=True):
            _families(axes, own, cost, unit, dark)
            axes.set_xlabel(label)
        for axes, (cost, (label, unit)) in zip(grid[1][:2], COLUMNS.items(), strict=False):
            _sets(axes, others, cost, unit, dark)
            axes.set_xlabel(label)
            axes.margins(x=0.2)
        for axes in (*grid[0], *grid[1][:2]):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.25, linewidth=0.6)
        for row in grid:
            row[0].set_ylabel("SI-SDR improvement, dB")
        title = own[0].test_set if own else ""
        grid[0][0].set_title(f"Measured: {title}", loc="left", fontsize=10)
        grid[1][0].set_title(
            "Other test sets: compare only points of one shape", loc="left", fontsize=10
        )
        grid[1][2].axis("off")
        first = grid[0][0].get_legend_handles_labels()
        second = grid[1][0].get_legend_handles_labels()
        options = {"frameon": False, "fontsize": 8.5, "labelcolor": colours["ink"]}
        upper = grid[1][2].legend(*first, loc="upper left", title="upper row", **options)
        grid[1][2].add_artist(upper)
        grid[1][2].legend(*second, loc="lower left", title="lower row", **options)


def _families(axes: Axes, points: list[Point], cost: str, unit: float, dark: bool) -> None:
    """Draw the curves of one test set."""
    for family in dict.fromkeys(point.family for point in points):
        found = [
            point for point in points if point.family == family and getattr(point, cost) is not None
        ]
        if not found:
            continue
        found.sort(key=lambda point: getattr(point, cost))
        x = [getattr(point, cost) * unit for point in found]
        axes.plot(
            x,
            [point.si_sdri for point in found],
            MARKERS.get(family, "o"),
            linestyle="-" if family.startswith("SNN, steps") else "none",
            color=COLOURS[family][dark],
            markersize=5,
            label=LABELS.get(family),
        )
        if family == "SNN, steps":
            for place, point in zip(x, found, strict=True):
                axes.annotate(
                    point.model.split(" ")[1],
                    (place, point.si_sdri),
                    xytext=(4, -9),
                    textcoords="offset points",
                    fontsize=7,
                    color=COLOURS[family][dark],
                )


def _sets(axes: Axes, points: list[Point], cost: str, unit: float, dark: bool) -> None:
    """Draw the points of other test sets: a shape per set, hollow if published."""
    colours = {"ann": "ANN", "snn": "SNN, steps", "published": "ANN"}
    for marker, test_set in zip(SETS, dict.fromkeys(p.test_set for p in points), strict=False):
        label: str | None = f"{test_set}{', published' if _published(points, test_set) else ''}"
        for point in points:
            if point.test_set != test_set or getattr(point, cost) is None:
                continue
            colour = COLOURS[colours[point.kind]][dark]
            place = getattr(point, cost) * unit
            axes.plot(
                place,
                point.si_sdri,
                marker,
                color=colour,
                markerfacecolor="none" if point.kind == "published" else colour,
                markersize=6,
                linestyle="none",
                label=label,
            )
            label = None
            published, spikes = point.kind == "published", point.kind == "snn"
            below = not spikes and not test_set.startswith("WSJ0")
            axes.annotate(
                point.model if published else point.form,
                (place, point.si_sdri),
                xytext=(4, -3) if below else (4, 4),
                va="top" if below else "bottom",
                rotation=0 if published else -35 if below else 35,
                rotation_mode="anchor",
                textcoords="offset points",
                fontsize=6.5,
                color=colour,
            )


def _published(points: list[Point], test_set: str) -> bool:
    return any(point.kind == "published" for point in points if point.test_set == test_set)
