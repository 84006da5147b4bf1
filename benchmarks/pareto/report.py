"""Figure and table of quality over cost: `python -m benchmarks --only pareto --out FOLDER`.

Draws from recorded figures alone and trains nothing. Test sets are kept apart, since their scores
are not comparable.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from benchmarks.pareto.figure import draw
from benchmarks.pareto.points import RESULTS, Point, front, read_points
from spikesep.files import write_text

COSTS = ("operations", "millijoules", "proxy")


def pareto(quick: bool, folder: Path | None = None) -> list[dict]:
    """Draw SI-SDR improvement over operations and over energy, from recorded figures alone.

    Args:
        quick: no difference.
        folder: gets `pareto-light.png`, `pareto-dark.png` and `pareto.md`; None to draw only.
    """
    points = read_points(RESULTS)
    with TemporaryDirectory() as unused:
        target = folder or Path(unused)
        target.mkdir(parents=True, exist_ok=True)
        for dark in (False, True):
            draw(points, target / f"pareto-{'dark' if dark else 'light'}.png", dark=dark)
        write_text(target / "pareto.md", markdown(points))
    return [asdict(point) for point in points]


def by_test_set(points: list[Point]) -> dict[str, list[Point]]:
    """Group points by test set, each sorted by energy, unknown ones last."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.test_set, []).append(point)
    infinite = float("inf")
    return {
        name: sorted(group, key=lambda p: infinite if p.millijoules is None else p.millijoules)
        for name, group in groups.items()
    }


def markdown(points: list[Point]) -> str:
    """Return a table per test set, with sources."""
    parts = []
    for name, group in by_test_set(points).items():
        best = {cost: front(group, cost) for cost in COSTS}
        measured = group[0].source.endswith("measured.json")
        lines = [
            f"**{name}**",
            "",
            "| network | run as | SI-SDRi, dB | M operations | mJ | M proxy | source |",
            "|---|---|---:|---:|---:|---:|---|",
        ]
        for point in group:
            cells = [_cell(getattr(point, cost), cost) for cost in COSTS]
            if measured:  # elsewhere a network is compared with itself at most
                cells = [
                    f"**{cell}**" if point.key in best[cost] else cell
                    for cell, cost in zip(cells, COSTS, strict=True)
                ]
            source = f"`{point.key.partition('/')[0]}`" if measured else point.source
            note = f"; {point.note}" if point.note else ""
            gain = f"{point.si_sdri:.{2 if measured else 1}f}"
            lines.append(
                f"| {point.model} | {point.form} | {gain} | {' | '.join(cells)} | {source}{note} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(value: float | None, cost: str) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if cost == "millijoules" else f"{value / 1e6:,.0f}"


def table(name: str, rows: list[dict]) -> Iterator[Table]:
    """Yield the table of the points for the console."""
    for test_set, group in by_test_set([Point(**row) for row in rows]).items():
        found = Table("network", "run as", "SI-SDRi", "M operations", "mJ", title=test_set)
        for point in group:
            cells = [_cell(getattr(point, cost), cost) for cost in COSTS[:2]]
            found.add_row(point.model, point.form, f"{point.si_sdri:.2f}", *cells)
        yield found
