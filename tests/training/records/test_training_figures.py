import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from spikesep.spiking.conversion.report import LayerReport
from spikesep.training.records import figures
from spikesep.training.records.history import Epoch

HISTORY = [
    Epoch(s, e, 0.0, 0.0, s + 0.1 * e, 1e-3, 1.0) for s in range(4) for e in range(s == 0, 4)
]
LAYER = {"layer": "dilated1", "threshold": 0.25, "percentile": 99.9,
         "histogram": {"edges": [0.0, 1.0, 2.0, 3.0], "counts": [900.0, 90.0, 10.0]}}  # fmt: skip


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def colour(name: str, palette=figures.LIGHT) -> np.ndarray:
    return np.array([int(palette[name][k : k + 2], 16) for k in (1, 3, 5)])


def columns_of(image: np.ndarray, name: str, share: float = 0.0) -> np.ndarray:
    """Columns of an image in which more than this fraction has a colour."""
    return np.flatnonzero((np.abs(image - colour(name)).sum(-1) < 12).mean(0) > share)


def test_bars_of_the_layers_are_as_long_as_their_figures(tmp_path):
    """Of reports, and of records as they are saved; old ones lack synaptic operations."""
    report = [
        LayerReport(f"layer{k}", 0.25, 99.0, 0.0, rate, 0.05, 0.0, error=0.1, synops_ratio=rate)
        for k, rate in enumerate((0.1, 0.2))
    ]
    records = [layer.to_dict() for layer in report]
    figures.layer_figure(report, tmp_path / "a.png")
    figures.layer_figure(records, tmp_path / "b.png")
    image = pixels(tmp_path / "a.png")
    assert np.array_equal(image, pixels(tmp_path / "b.png"))
    is_bar = np.abs(image - colour("line")).sum(-1) < 12
    lengths = is_bar[: -image.shape[0] // 4, image.shape[1] // 3 : 2 * image.shape[1] // 3].sum(1)
    lengths = lengths[lengths > 20]
    assert lengths[-3] == pytest.approx(2 * lengths[3], rel=0.05)
    for record in records:
        del record["synops_ratio"], record["error"]
    figures.layer_figure(records, tmp_path / "c.png")
    assert not np.array_equal(image, pixels(tmp_path / "c.png"))
    assert not columns_of(pixels(tmp_path / "c.png"), "accent").size  # not in the legend either


def test_every_second_stage_is_shaded(tmp_path):
    figures.training_figure(HISTORY, tmp_path / "t.png", "SI-SDRi (dB)")
    shaded = columns_of(pixels(tmp_path / "t.png"), "shade", share=0.1)
    assert np.sum(np.diff(shaded) > 50) == 1  # stages 1 and 3: two strips with a gap


def test_pre_training_alone_is_not_shaded(tmp_path):
    figures.training_figure(
        [row for row in HISTORY if row.stage == 0], tmp_path / "t.png", "SI-SDRi (dB)"
    )
    image = pixels(tmp_path / "t.png")
    assert columns_of(image, "line").size
    assert not columns_of(image, "shade", share=0.1).size


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_line_marks_the_best_of_pre_training(tmp_path, monkeypatch, lower_is_better):
    lines = []
    monkeypatch.setattr(Axes, "axhline", lambda axes, height, **how: lines.append(height))
    monkeypatch.setattr(Axes, "legend", lambda axes, **how: None)
    figures.training_figure(HISTORY, tmp_path / "t.png", "error", lower_is_better=lower_is_better)
    values = [row.valid_metric for row in HISTORY if row.stage == 0]
    assert lines == [min(values) if lower_is_better else max(values)]


def test_dotted_line_marks_the_upper_bound(tmp_path):
    places = {}
    for n_steps in (4, 8):  # a_u is 1 and 2, on an axis to 3
        figures.activation_figure([LAYER], tmp_path / f"{n_steps}.png", n_steps)
        image = pixels(tmp_path / f"{n_steps}.png")
        bars = columns_of(image[image.shape[0] // 2 :], "faint")
        dots = (np.abs(image - colour("accent")).sum(-1) < 60).sum(0)
        places[n_steps] = (np.argmax(dots) - bars.min()) / (bars.max() - bars.min())
    assert places[4] == pytest.approx(1 / 3, abs=0.05)
    assert places[8] == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize("n_layers", [1, 2, 7, 11])
def test_any_number_of_layers_is_drawn(tmp_path, n_layers):
    figures.activation_figure([LAYER] * n_layers, tmp_path / "a.png", 8)
    assert columns_of(pixels(tmp_path / "a.png"), "accent").size


def test_dark_figure_has_a_dark_background(tmp_path):
    figures.training_figure(HISTORY, tmp_path / "t.png", "SI-SDRi (dB)", dark=True)
    assert (pixels(tmp_path / "t.png")[2, 2] == colour("page", figures.DARK)).all()


def test_validation_right_after_a_conversion_is_marked(tmp_path):
    figures.training_figure(HISTORY, tmp_path / "t.png", "SI-SDRi (dB)")
    image = pixels(tmp_path / "t.png")[:, : 1440 * 2 // 3]  # without the legend
    marked = columns_of(image, "accent")
    assert np.sum(np.diff(marked) > 20) + 1 == 2  # stages 1 and 2; stage 3 lies to the right
    figures.training_figure(
        [row for row in HISTORY if row.epoch], tmp_path / "u.png", "SI-SDRi (dB)"
    )
    assert not columns_of(pixels(tmp_path / "u.png"), "accent").size
