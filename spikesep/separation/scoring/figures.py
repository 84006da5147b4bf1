"""Pictures of an experiment on speech: how training went, what the layers' activations are (the paper's Figs. 5 and 1),
for a light page or a dark one.
"""

from pathlib import Path

from spikesep.files import read_json
from spikesep.training.records.figures import activation_figure, training_figure
from spikesep.training.records.history import History


def draw(exp: Path, folder: Path, *, dark: bool = False) -> list[Path]:
    """Draw, into `folder`, `training.png` and `activations.png` of those inputs that are in `exp`; their paths."""
    history, report, model = (
        exp / "history.csv",
        exp / "snn" / "report.json",
        exp / "snn" / "config.json",
    )
    suffix = "-dark.png" if dark else ".png"
    drawn = []
    if epochs := History(history).read():
        drawn.append(folder / f"training{suffix}")
        training_figure(epochs, drawn[-1], "SI-SDRi (dB)", dark=dark)
    if report.is_file() and model.is_file():
        drawn.append(folder / f"activations{suffix}")
        n_steps = read_json(model)["coding"]["n_steps"]
        activation_figure(read_json(report), drawn[-1], n_steps, dark=dark)
    return drawn
