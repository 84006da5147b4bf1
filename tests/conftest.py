"""Fixtures that several packages' tests share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

RATE = 8000

settings.register_profile("no deadline", deadline=None)  # a loaded machine is slow, not wrong
settings.load_profile("no deadline")


def pytest_collection_modifyitems(config, items):
    """Leave out what is marked `stress`, unless it is asked for."""
    if "stress" not in (config.option.markexpr or ""):
        left_out = [item for item in items if item.get_closest_marker("stress")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@dataclass(frozen=True)
class Experiment:
    """A tiny corpus of mixtures and two untrained models, the second converted."""

    data: Path
    exp: Path


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    """An experiment that the test may change."""
    return make_experiment(tmp_path)


@pytest.fixture(scope="module")
def kept_experiment(tmp_path_factory) -> Experiment:
    """An experiment that the tests of a module share, and leave as it is."""
    return make_experiment(tmp_path_factory.mktemp("kept"))


def make_experiment(folder: Path) -> Experiment:
    """Two mixtures of each group in `data/{cv,tt}`, `exp/{ann,snn}`, a training history and a conversion report."""
    torch = pytest.importorskip("torch")
    from spikesep.files import write_json
    from spikesep.separation.config import SeparatorConfig
    from spikesep.separation.model.separator import Separator, save_separator
    from spikesep.spiking.signal import Coding
    from spikesep.training.records.history import Epoch, History

    data, exp = folder / "data", folder / "exp"
    for number, name in enumerate(("cv", "tt")):
        write_mixtures(data / name, seed=number)
    torch.manual_seed(0)
    model = Separator(SeparatorConfig(n_filters=16, n_channels=8, dilations=[1, 2])).eval()
    save_separator(model, exp / "ann")
    for layer in model.network.layers.values():
        layer.convert(0.5, Coding(n_steps=4))
        layer.freeze()
    save_separator(model, exp / "snn")
    history = History(exp / "history.csv")
    for stage, epoch in ((0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (3, 0)):
        history.add(Epoch(stage, epoch, -1.0, -1.0, stage + 0.1 * epoch, 1e-3, 2.0))
    histogram = {"edges": [0.0, 1.0, 2.0, 3.0], "counts": [90, 9, 1]}
    report = [
        {"layer": f"layer{k}", "threshold": 0.5, "percentile": 99.0, "histogram": histogram}
        for k in range(3)
    ]
    write_json(exp / "snn" / "report.json", report)
    return Experiment(data, exp)


def write_mixtures(folder: Path, seed: int, n: int = 4, seconds: float = 0.9) -> None:
    """Alternately of different and of the same sex; tones in syllables, one register a voice."""
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
