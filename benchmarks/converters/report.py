"""Table and figure of the comparison of converters."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from rich.table import Table

from benchmarks.converters.peers import SEVERAL
from spikesep.training.records.figures import figure_file

STEPS_TO_WIN = (4, 8, 16)
COLOURS = {
    "SpikeSep, deferred": "#2f6690",
    "SpikeSep, immediate": "#7fb4dc",
    "ann2snn": "#c2543d",
    "sinabs": "#d9a441",
    "QCFS neurons, untrained": "#8b8f98",
    "QCFS": "#8b8f98",
}


def table(name: str, rows: list[dict]) -> Iterator[Table | str]:
    """Yield the table of each task, and who is better at 4, 8 and 16 steps."""
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        yield _scores(own)
        yield from verdicts(own)
        yield from error_ratios(own)


def _scores(rows: list[dict]) -> Table:
    analog = rows[0]
    contenders = [row for g in ("calibrated", "fine-tuned") for row in rows if row["group"] == g]
    steps = max((row["n_steps"] for row in contenders), key=len)
    heads = [f"{n} steps" for n in steps]
    shown = max(n for n in steps if n <= 8)
    found = Table("group", "method", "setting", *heads, "latency", "spikes", "ms")
    found.title = f"{analog['task']}: {analog['metric']}; ANN {analog['score']:.4g}"
    found.caption = f"latency in steps, spikes and milliseconds per example: at {shown} steps"
    for row in contenders:
        scores = dict(zip(row["n_steps"], row["score"], strict=True))
        k = row["n_steps"].index(shown)
        found.add_row(
            row["group"],
            row["method"],
            row["setting"],
            *(f"{scores[n]:.4g}" if n in scores else "" for n in steps),
            f"{row['latency'][k]}",
            f"{row['spikes'][k]:.0f}",
            f"{row['ms'][k]:.3g}",
        )
    return found


def verdicts(rows: list[dict]) -> Iterator[str]:
    """Compare the best setting of ours with the best of the peers, chosen on the test set.

    Args:
        rows: rows of one task.
    """
    better = max if rows[0]["higher_is_better"] else min
    for group in ("calibrated", "fine-tuned"):
        members = [r for r in rows if r["group"] == group and SEVERAL not in r["setting"]]
        for n in STEPS_TO_WIN:
            found = [
                (row["score"][row["n_steps"].index(n)], row["method"], row["setting"])
                for row in members
                if n in row["n_steps"]
            ]
            ours = [entry for entry in found if entry[1].startswith("SpikeSep")]
            theirs = [entry for entry in found if not entry[1].startswith("SpikeSep")]
            if ours and theirs:
                own, peer = better(ours), better(theirs)
                word = "at least as good" if better(own, peer)[0] == own[0] else "WORSE"
                yield (
                    f"{group}, {n} steps: {own[1]} ({own[2]}) {own[0]:.4g}, "
                    f"best peer {peer[1]} ({peer[2]}) {peer[0]:.4g}: {word}"
                )


def error_ratios(rows: list[dict], n: int = 8) -> Iterator[str]:
    """Compare the error of our default, deferred with the least error, with each of `ann2snn`.

    Args:
        rows: rows of one task.
        n: number of steps.
    """
    errors = {
        (row["method"], row["setting"]): row["error"][row["n_steps"].index(n)]
        for row in rows
        if row["group"] == "calibrated" and n in row["n_steps"]
    }
    for (method, setting), error in errors.items():
        if method == "ann2snn":
            ours = errors["SpikeSep, deferred", "least error"]
            ratio = f"ours / {method} ({setting}) {ours / error:.3f}"
            yield f"squared distance from the ANN's predictions, {n} steps: {ratio}"


def draw(rows: list[dict], path: Path) -> None:
    """Draw the score over the number of steps, a panel per task.

    A line is the best setting of a method without fine-tuning at each number of steps; squares are
    fine-tuned.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    with figure_file(path, (9.0, 6.0)) as (figure, colours):
        for axes, task in zip(figure.subplots(2, 2).flat, tasks, strict=True):
            own = [row for row in rows if row["task"] == task]
            _panel(axes, own)
            axes.axhline(own[0]["score"], color=colours["faint"], linestyle=(0, (2, 3)))
            axes.set_title(f"{task}: {own[0]['metric']}", fontsize=9.5, loc="left")
            axes.set_xscale("log", base=2)
            axes.set_xlabel("time steps")
        figure.axes[0].legend(frameon=False, fontsize=8)


def _panel(axes: Axes, rows: list[dict]) -> None:
    better = max if rows[0]["higher_is_better"] else min
    for group, style in (("calibrated", "o-"), ("fine-tuned", "s")):
        for method, colour in COLOURS.items():
            found = [
                row
                for row in rows
                if (row["group"], row["method"]) == (group, method)
                and SEVERAL not in row["setting"]
            ]
            if found:
                steps = found[0]["n_steps"]
                best = [better(row["score"][k] for row in found) for k in range(len(steps))]
                label = method if group == "calibrated" else f"{method}, fine-tuned"
                axes.plot(steps, best, style, color=colour, markersize=3.5, label=label)
    if not rows[0]["higher_is_better"]:
        axes.set_yscale("log")
