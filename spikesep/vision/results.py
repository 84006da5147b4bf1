"""From the scores of runs to `results/<experiment>.json`, and from these files to the tables of `RESULTS.md`."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spikesep.files import read_json
from spikesep.provenance import provenance
from spikesep.training.records.history import History
from spikesep.vision.config import ImageRecipe
from spikesep.vision.paper import PAPER, SYNOPS_RATIO
from spikesep.vision.runs import METRICS, Run, read_scores, runs

TITLES = {
    "table1": "Table 1: classification",
    "table1_imagenet": "Table 1: classification of ImageNet",
    "table2": "Table 2: weights of few bits, imposed during conversion",
    "table3": "Table 3: reconstruction of MNIST by an autoencoder",
    "fig4": "Fig. 4: learning methods and depth",
    "fig6": "Fig. 6: time steps and patience",
    "rate": "Conversion by firing rates, without learning",
    "fan_in": "A limit on fan-in",
    "synops": "Synaptic operations: a price on spikes",
}
SETTINGS = {
    "n_steps": "N_s",
    "qat_bits": "weight bits",
    "patience": "patience T_p",
    "method": "method",
    "fan_in": "fan-in",
    "synops_weight": "price of synaptic operations",
    "deferred": "deferred",
}


def summarize(recipe: ImageRecipe, exp: Path, command: str) -> dict[str, Any]:
    """Mean and spread over seeds of every architecture and value, with all that made them.

    The figures of one architecture stand at the top, {"ann": {metric: {"mean", "std", "seeds"}}, "snn": {value: ...}},
    those of several under their names. A second varied setting has its own name in the place of "snn".
    """
    experiment = recipe.experiment
    found = {a: _architecture(recipe, exp, a) for a in experiment.architectures}
    return {
        "experiment": experiment.name,
        **(found if len(found) > 1 else next(iter(found.values()))),
        "task": experiment.task,
        "architectures": experiment.architectures,
        "varied": list(experiment.vary),
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
    found: dict[str, Any] = {
        "ann": _mean([read_scores(recipe, run, exp)[0] for run in by_seed.values()])
        | {"curve": _curve(by_seed[recipe.seed].ann_folder(exp) / "history.csv")},
        "snn": {},
    }
    for run in own:
        group = "snn" if run.setting == first_setting else run.setting.removeprefix("ptl.")
        entry = found.setdefault(group, {})
        if label(run) not in entry:
            alike = [r for r in own if (r.setting, r.value) == (run.setting, run.value)]
            scores = [read_scores(recipe, r, exp)[1] | {"epochs": _epochs(r, exp)} for r in alike]
            entry[label(run)] = _mean(scores) | {"curve": _curve(run.folder(exp) / "history.csv")}
    return found


def label(run: Run) -> str:
    """The value as a key: zero bits are float32, no limit on fan-in is none."""
    if run.value == 0:
        return {"ptl.qat_bits": "float32", "ptl.fan_in": "none"}.get(run.setting, "0")
    return str(run.value)


def _mean(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("accuracy", "top5_accuracy", "mse", "synops_ratio", "epochs"):
        values = [s[name] for s in scores if name in s]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found[name] = {"mean": statistics.fmean(values), "std": spread, "seeds": len(values)}
    return found


def _epochs(run: Run, exp: Path) -> int:
    return sum(row.epoch > 0 for row in History(run.folder(exp) / "history.csv").read())


def _curve(path: Path) -> dict[str, list]:
    """Stage and validation metric of each epoch of the first seed."""
    rows = History(path).read()
    return {"stage": [r.stage for r in rows], "metric": [round(r.valid_metric, 6) for r in rows]}


def markdown(folder: Path, task: str) -> str:
    """The whole of `RESULTS.md` of a recipe, which stands beside `folder`.

    Args:
        folder: of the files `<experiment>.json` and of the pictures that `spikesep.vision.figures.draw` made.
        task: the recipe's title.
    """
    lines = [f"# Results: {task}", ""]
    for path in sorted(folder.glob("*.json")):
        found = read_json(path)
        name = found["experiment"]
        prefix = f"{name}-" if name else ""
        own = [f"{prefix}activations", f"{prefix}reconstructions", f"{prefix}training", name]
        drawn = [
            f"{folder.name}/{picture}.png"
            for picture in own
            if (folder / f"{picture}.png").exists()
        ]
        lines += section(found, drawn)
    return "\n".join(lines)


def section(found: dict[str, Any], figures: Sequence[str] = ()) -> list[str]:
    """One experiment: title, table, what made it, figures."""
    name, task = found["experiment"], found["task"]
    reduced = f"**Reduced:** {found['note']}" if found["reduced"] else ""
    title = TITLES.get(name, name) or "Results"
    lines = [
        f"## {title}{' (reduced)' if reduced else ''}",
        "",
        *([reduced, ""] if reduced else []),
    ]
    lines += table(found)
    versions, machine = found["versions"], found["machine"]
    at = f"{machine['processor']}, {machine['cores']} cores" + (
        f", {machine['accelerator']}" if "accelerator" in machine else ""
    )
    metric = "mean square error" if METRICS[task] == "mse" else "accuracy in percent"
    lines += [
        "",
        f"Test part; {metric}, mean ± standard deviation over {found['config']['experiment']['n_seeds']} seed(s) from "
        f"{found['config']['seed']} on. SynOps ratio: synaptic operations over the analog network's "
        f"multiply-accumulates. `{found['command']}`; Python {versions['python']}, torch {versions['torch']}; {at}.",
        "",
    ]
    return lines + [line for figure in figures for line in (f"![{name}]({figure})", "")]


def table(found: dict[str, Any]) -> list[str]:
    """The Markdown table: ours, the paper's, SynOps and epochs."""
    several = len(found["architectures"]) > 1
    metric = METRICS[found["task"]]
    head = ["network", "setting", f"{metric}", "paper", "SynOps ratio", "epochs of conversion"]
    rows = []
    for architecture in found["architectures"]:
        own = found[architecture] if several else found
        rows.append(
            [
                architecture,
                "ANN",
                _pm(own["ann"][metric], metric),
                _paper(found, architecture, "ann"),
                "",
                "",
            ]
        )
        for group, short, value, scores in conversions(found, own):
            ratio = _pm(scores["synops_ratio"], "ratio")
            theirs = (
                SYNOPS_RATIO.get(found["experiment"], {}).get(value) if short == "n_steps" else None
            )
            rows.append([
                architecture, f"SNN, {SETTINGS.get(short, short)} = {value}", _pm(scores[metric], metric),
                _paper(found, architecture, value) if group == "snn" else "–",
                ratio + (f" (paper {theirs})" if theirs else ""), _pm(scores["epochs"], "epochs"),
            ])  # fmt: skip
    align = ["---", "---", "---:", "---:", "---:", "---:"]
    return [f"| {' | '.join(row)} |" for row in (head, align, *rows)]


def conversions(
    found: dict[str, Any], own: dict[str, Any]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Group, setting, value and scores of each conversion of one architecture, in the order of `experiment.vary`."""
    for setting in found["varied"]:
        short = setting.removeprefix("ptl.")
        group = "snn" if setting == found["varied"][0] else short
        yield from ((group, short, value, scores) for value, scores in own[group].items())


def _paper(found: dict[str, Any], architecture: str, value: str) -> str:
    figure = PAPER.get(found["experiment"], {}).get(architecture, {}).get(value)
    return (
        "–"
        if figure is None
        else f"{figure:.5f}"
        if found["task"] == "reconstruction"
        else f"{figure:.2f}"
    )


def _pm(score: dict[str, float], metric: str) -> str:
    decimals = {"mse": 5, "accuracy": 2, "ratio": 3, "epochs": 0}[metric]
    text = f"{score['mean']:.{decimals}f}"
    return text + (f" ± {score['std']:.{decimals}f}" if score["seeds"] > 1 else "")
