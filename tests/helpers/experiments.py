"""Tiny experiments: mixtures of tones, and two untrained models."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

RATE = 8000


@dataclass(frozen=True)
class Experiment:
    """A tiny corpus of mixtures and two untrained models, of which the second is converted.

    Attributes:
        data: folder of the Kaldi data directories `cv` and `tt`.
        exp: folder of the models `ann` and `snn`.
    """

    data: Path
    exp: Path


def make_experiment(folder: Path) -> Experiment:
    """Make an experiment of four mixtures per condition, two models, a history and a report."""
    pytest.importorskip("torch")
    from helpers.separators import tiny_separator, to_spiking
    from spikesep.separation.model.separator import save_separator
    from spikesep.training.records.history import Epoch, History

    data, exp = folder / "data", folder / "exp"
    for number, name in enumerate(("cv", "tt")):
        write_mixtures(data / name, seed=number)
    model = tiny_separator()
    save_separator(model, exp / "ann")
    save_separator(to_spiking(model, n_steps=4, threshold=0.5), exp / "snn")
    history = History(exp / "history.csv")
    for stage, epoch in ((0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (3, 0)):
        history.add(Epoch(stage, epoch, -1.0, -1.0, stage + 0.1 * epoch, 1e-3, 2.0))
    write_report(exp / "snn", n_layers=3)
    return Experiment(data, exp)


def write_report(folder: Path, n_layers: int) -> None:
    """Write a conversion report with what pages and figures read of it."""
    from spikesep.files import write_json

    layer = {
        "threshold": 0.5,
        "percentile": 99.0,
        "quantization_error": 0.1,
        "firing_rate": 0.2,
        "histogram": {"edges": [0.0, 1.0, 2.0, 3.0], "counts": [90, 9, 1]},
    }
    write_json(folder / "report.json", [{"layer": f"layer{k}", **layer} for k in range(n_layers)])


def write_mixtures(folder: Path, seed: int, n: int = 4, seconds: float = 0.9) -> None:
    """Write a data directory of `n` mixtures, alternately of different and of the same sex.

    Voices are tones in syllables; the first voice is lower than the second.
    """
    from spikesep.separation.audio.files import write_wav
    from spikesep.separation.data.kaldi import Mixture, write_data_dir

    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    mixtures = []
    for k in range(n):
        sources = [
            0.2
            * np.sin(2 * np.pi * rng.uniform(low, 2 * low) * time * (1 + 0.1 * time))
            * np.sin(9 * time + k) ** 2
            + 0.01 * rng.normal(size=time.size)
            for low in (200, 900)
        ]
        utt = f"anna_{'ben' if k % 2 == 0 else 'clara'}-{k}"
        paths = [folder / "wav" / f"{utt}-{part}.wav" for part in ("mix", "s1", "s2")]
        for path, samples in zip(paths, (sum(sources), *sources), strict=True):
            write_wav(path, samples.astype(np.float32), RATE)
        speakers, sexes = tuple(utt.partition("-")[0].split("_")), ("f", "m" if k % 2 == 0 else "f")
        mixtures.append(Mixture(utt, paths[0], tuple(paths[1:]), speakers, sexes))
    write_data_dir(folder, mixtures)


def make_conversations(folder: Path, seconds: float = 4.0) -> Experiment:
    """Make an experiment of conversations in the modes `both` and `clean`, and two tiny models.

    Of three sources, one to three have a voice.
    """
    from helpers.separators import save_tiny_experiment

    data, exp = folder / "data", save_tiny_experiment(folder / "exp", n_speakers=3)
    for number, split in enumerate(("cv", "tt")):
        for mode, home in (("both", data), ("clean", data / "wav8k" / "clean")):
            write_conversations(home / split, number, seconds, noise=0.01 * (mode == "both"))
    write_report(exp / "snn", n_layers=1)
    return Experiment(data, exp)


def write_conversations(folder: Path, seed: int, seconds: float, noise: float) -> None:
    """Write conversations of one, two and three speakers; `rttm` has their turns of 1 s."""
    from spikesep.separation.audio.files import to_pcm16, write_wav
    from spikesep.separation.data.corpora.table import ABSENT
    from spikesep.separation.data.kaldi import Mixture, write_data_dir

    rng, mixtures, lines = np.random.default_rng(seed), [], []
    for n_voices in (1, 2, 3):
        names = [*("anna", "ben", "carl")[:n_voices], *[ABSENT] * (3 - n_voices)]
        sexes = ["fmm"[k] if k < n_voices else "u" for k in range(3)]
        utt = f"{'_'.join(names)}-0"
        sources = np.zeros((3, round(seconds * RATE)))
        for k, start in enumerate(np.arange(0, seconds)):
            part = slice(round(start * RATE), round((start + 1) * RATE))
            tone = np.sin(2 * np.pi * (200 + 300 * (k % n_voices)) * np.arange(RATE) / RATE)
            sources[k % n_voices, part] = 0.1 * tone + rng.normal(0, 0.03, tone.size)
            lines.append(f"SPEAKER {utt} 1 {start} 1 <NA> <NA> {names[k % n_voices]} <NA> <NA>")
        signals = [to_pcm16(source) / 32768 for source in sources]
        signals.insert(0, np.sum(signals, 0) + noise * rng.normal(size=sources.shape[1]))
        paths = [folder / "wav" / f"{utt}-{part}.wav" for part in ("mix", "s1", "s2", "s3")]
        for path, samples in zip(paths, signals, strict=True):
            write_wav(path, samples.astype(np.float32), RATE)
        mixtures.append(Mixture(utt, paths[0], tuple(paths[1:]), tuple(names), tuple(sexes)))
    write_data_dir(folder, mixtures)
    (folder / "rttm").write_text("\n".join(lines) + "\n")
