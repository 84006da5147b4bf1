"""Pictures of an experiment on speech: how training went, what the layers' activations are, spectrograms of voices (the
paper's Figs. 5, 1 and 9). The first two are drawn for a light page or a dark one.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

from spikesep.files import atomic_path, read_json
from spikesep.training.figures import activation_figure, training_figure
from spikesep.training.history import History

DYNAMIC_RANGE = 70.0
"""dB of a spectrogram between the loudest point of its example and black."""
WINDOW, HOP = 256, 40  # samples: 32 ms and 5 ms at 8 kHz


def draw(exp: Path, folder: Path, *, dark: bool = False) -> list[Path]:
    """Draw, into `folder`, `training.png` and `activations.png` of those inputs that are in `exp`; their paths."""
    history, report, model = exp / "history.csv", exp / "snn" / "report.json", exp / "snn" / "config.json"
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


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """Log-magnitude spectrogram of [samples], in dB, [frequencies, frames], lowest frequency first."""
    signal = torch.as_tensor(np.asarray(samples, dtype=np.float32))
    signal = torch.nn.functional.pad(signal, (0, max(0, WINDOW - signal.numel())))
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(signal, WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True)
    return (20 * torch.log10(spectrum.abs() + 1e-8)).numpy()


def spectrogram_picture(decibels: np.ndarray, loudest: float, path: Path) -> None:
    """Write a bare spectrogram, one pixel a point, without axes: black is `DYNAMIC_RANGE` dB below `loudest`."""
    level = np.clip((decibels - loudest) / DYNAMIC_RANGE + 1, 0, 1)
    image = Image.fromarray(np.round(255 * level[::-1]).astype(np.uint8), mode="L").convert("P")
    palette = matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    image.putpalette(palette.tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)
