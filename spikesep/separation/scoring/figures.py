"""Figures of a speech experiment: history, activations (Figs. 5 and 1 of the paper), layers."""

from pathlib import Path

from spikesep.files import read_json
from spikesep.training.records.figures import activation_figure, layer_figure, training_figure
from spikesep.training.records.history import History


def draw(exp: Path, folder: Path, *, dark: bool = False) -> list[Path]:
    """Draw `training.png`, `activations.png` and `layers.png` into a folder; return the paths.

    Args:
        exp: folder of the experiment. A figure whose inputs are missing there is left out.
        folder: output folder.
        dark: draw for a dark page; file names then end in `-dark.png`.
    """
    report, model = exp / "snn" / "report.json", exp / "snn" / "config.json"
    suffix = "-dark.png" if dark else ".png"
    drawn = []
    if epochs := History(exp / "history.csv").read():
        drawn.append(folder / f"training{suffix}")
        training_figure(epochs, drawn[-1], "SI-SDRi (dB)", dark=dark)
    if report.is_file() and model.is_file():
        drawn.append(folder / f"activations{suffix}")
        n_steps = read_json(model)["coding"]["n_steps"]
        layers = read_json(report)
        activation_figure(layers, drawn[-1], n_steps, dark=dark)
        drawn.append(folder / f"layers{suffix}")
        layer_figure(layers, drawn[-1], dark=dark)
    return drawn
