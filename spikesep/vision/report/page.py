"""Page of an image recipe's results: `RESULTS.md`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spikesep.files import read_json
from spikesep.vision.report.paper import PAPER, SYNOPS_RATIO, paper_experiment
from spikesep.vision.report.summary import conversions
from spikesep.vision.scoring import METRICS

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
    "variant": "variant",
}
DECIMALS = {"mse": 5, "accuracy": 2, "ratio": 3, "epochs": 0}


def markdown(folder: Path, task: str) -> str:
    """Return the contents of a recipe's `RESULTS.md`.

    Args:
        folder: folder of the files `<experiment>.json` and of the figures, beside the page.
        task: title of the recipe.
    """
    lines = [f"# Results: {task}", ""]
    for path in sorted(folder.glob("*.json")):
        found = read_json(path)
        name = found["experiment"]
        prefix = f"{name}-" if name else ""
        kinds = ("activations", "layers", "reconstructions", "training")
        figures = [*(f"{prefix}{kind}" for kind in kinds), name]
        drawn = [
            f"{folder.name}/{figure}.png"
            for figure in figures
            if (folder / f"{figure}.png").exists()
        ]
        lines += section(found, drawn)
    return "\n".join(lines)


def section(found: dict[str, Any], figures: Sequence[str] = ()) -> list[str]:
    """Return the lines on one experiment: title, table, provenance and figures."""
    name, task = found["experiment"], found["task"]
    reduced = f"**Reduced:** {found['note']}" if found["reduced"] else ""
    title = _title(name)
    versions, machine, config = found["versions"], found["machine"], found["config"]
    accelerator = f", {machine['accelerator']}" if "accelerator" in machine else ""
    metric = "mean square error" if METRICS[task] == "mse" else "accuracy in percent"
    return [
        f"## {title}{' (reduced)' if reduced else ''}",
        "",
        *([reduced, ""] if reduced else []),
        *table(found),
        "",
        f"Test part; {metric}, mean ± standard deviation over {config['experiment']['n_seeds']} "
        f"seed(s) from {config['seed']} on. SynOps ratio: synaptic operations over the analog "
        f"network's multiply-accumulates. `{found['command']}`; Python {versions['python']}, "
        f"torch {versions['torch']}; {machine['processor']}, {machine['cores']} cores"
        f"{accelerator}.",
        "",
        *(line for figure in figures for line in (f"![{name}]({figure})", "")),
    ]


def _title(name: str) -> str:
    """Return the title of an experiment."""
    base, _, more = name.partition("-")
    title = TITLES.get(name) or TITLES.get(base, base) or "Results"
    return f"{title} ({more})" if more and name not in TITLES else title


def table(found: dict[str, Any]) -> list[str]:
    """Return the Markdown table: our results and the paper's, cost and epochs."""
    several = len(found["architectures"]) > 1
    metric = METRICS[found["task"]]
    head = ["network", "setting", metric, "paper", "SynOps ratio", "epochs of conversion"]
    rows = []
    for architecture in found["architectures"]:
        own = found[architecture] if several else found
        ann = _mean_and_spread(own["ann"][metric], metric)
        rows.append([architecture, "ANN", ann, _paper(found, architecture, "ann"), "", ""])
        if control := own.get("train_on"):
            score, epochs = (_mean_and_spread(control[name], name) for name in (metric, "epochs"))
            rows.append([architecture, "ANN, trained on", score, "–", "", epochs])
        for group, setting, value, scores in conversions(found, own):
            rows.append(
                [
                    architecture,
                    f"SNN, {SETTINGS.get(setting, setting)} = {value}",
                    _mean_and_spread(scores[metric], metric),
                    _paper(found, architecture, value) if group == "snn" else "–",
                    _mean_and_spread(scores["synops_ratio"], "ratio")
                    + _paper_ratio(found, setting, value),
                    _mean_and_spread(scores["epochs"], "epochs"),
                ]
            )
    align = ["---", "---", "---:", "---:", "---:", "---:"]
    return [f"| {' | '.join(row)} |" for row in (head, align, *rows)]


def _paper(found: dict[str, Any], architecture: str, value: str) -> str:
    """Return the paper's result, or a dash."""
    result = PAPER.get(paper_experiment(found["experiment"]), {}).get(architecture, {}).get(value)
    if result is None:
        return "–"
    return f"{result:.5f}" if found["task"] == "reconstruction" else f"{result:.2f}"


def _paper_ratio(found: dict[str, Any], setting: str, value: str) -> str:
    """Return the paper's SynOps ratio in parentheses, if it gives one."""
    ratio = (
        SYNOPS_RATIO.get(paper_experiment(found["experiment"]), {}).get(value)
        if setting == "n_steps"
        else None
    )
    return f" (paper {ratio})" if ratio else ""


def _mean_and_spread(score: dict[str, float], metric: str) -> str:
    text = f"{score['mean']:.{DECIMALS[metric]}f}"
    return text + (f" ± {score['std']:.{DECIMALS[metric]}f}" if score["seeds"] > 1 else "")
