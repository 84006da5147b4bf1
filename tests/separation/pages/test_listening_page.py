import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.separation.audio.conditioning import condition
from spikesep.separation.config import DemoConfig, ScoringConfig
from spikesep.separation.model.separator import load_separator
from spikesep.separation.pages.listening_page import build_page, choose_examples, render
from spikesep.separation.pages.rasters import raster_picture, rasters
from spikesep.separation.pages.sounds import separate_with_counts
from spikesep.separation.scoring.score import score_experiment
from spikesep.spiking.signal import Signal
from spikesep.training.records.figures import DARK, LIGHT
from spikesep.training.records.history import History


class Page(HTMLParser):
    """The links, elements and text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.links += [
            value for name, value in attrs if name in ("src", "href", "srcset", "poster", "data")
        ]

    def handle_data(self, data):
        self.text += data

    def all(self, tag) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def scored(kept_experiment):
    config = ScoringConfig(metrics=["stoi"])
    score_experiment(kept_experiment.data, kept_experiment.exp, config, n_jobs=1)
    return kept_experiment


@pytest.fixture(scope="module")
def page(scored) -> Page:
    return Page(build_page(scored.data, scored.exp, scored.exp / "demo", DemoConfig()))


def test_page_is_a_single_file(scored, page):
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for link in page.links:
        assert link[1:] in ids if link.startswith("#") else link.startswith("data:"), link[:80]
    assert [path.name for path in (scored.exp / "demo").rglob("*")] == ["index.html"]


def test_page_makes_no_network_requests(page):
    assert not re.search(
        r"https?:|(?:src|href|srcset)\s*=\s*[\"']//|@import|url\(|fetch\(", page.source
    )
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:;")


def sounds(page) -> list[dict]:
    return [
        {
            **audio,
            "samples": soundfile.read(
                io.BytesIO(content(audio["src"], "audio/flac")), dtype="float32"
            )[0],
        }
        for audio in page.all("audio")
    ]


def content(address, kind) -> bytes:
    head, _, data = address.partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(data, validate=True)


def test_sounds_of_an_example_share_one_level(scored, page):
    assert len(page.all("article")) == 4  # closed and open, different and same sex
    found = sounds(page)
    assert len(found) == 4 * 7
    for sound in found:
        assert sound["aria-label"]
        assert np.abs(sound["samples"]).max() <= 0.901
    first = {sound["data-source"]: sound["samples"] for sound in found[:7]}
    for voice in (1, 2):
        levels = [np.mean(first[f"voice{voice}-{name}"] ** 2) for name in ("source", "ann", "snn")]
        np.testing.assert_allclose(levels, levels[0], rtol=0.01)
    np.testing.assert_allclose(
        first["mixture"], first["voice1-source"] + first["voice2-source"], atol=3e-4
    )


def test_every_sound_has_a_button(page):
    buttons = [
        (button["name"], button["value"])
        for button in page.all("input")
        if button["type"] == "radio"
    ]
    keys = [sound["data-source"] for sound in page.all("audio")]
    assert [value for _, value in buttons if value != "both"] == keys
    assert len(set(buttons)) == len(buttons) == 4 * (7 + 1)  # one plays both voices
    assert all(
        button.get("aria-label") for button in page.all("input") if button["type"] == "radio"
    )


def test_pictures_have_descriptions(page):
    images = page.all("img")
    assert images
    for image in images:
        assert image["alt"]
        assert Image.open(io.BytesIO(content(image["src"], "image/png"))).width > 50


def test_figures_have_the_colours_of_the_page(page):
    assert f"--page: light-dark({LIGHT['page']}, {DARK['page']})" in page.text


def test_rasters_show_the_spikes_of_the_network(scored):
    """Compare with the spikes of the layers, run one after the other."""
    model, rng = load_separator(scored.exp / "snn"), np.random.default_rng(0)
    mixture = (0.1 * rng.normal(size=7000)).astype(np.float32)
    estimates, cost, counts = separate_with_counts(model, mixture)
    np.testing.assert_array_equal(estimates, model.separate(torch.from_numpy(mixture)).numpy())
    conditioned = torch.from_numpy(condition(mixture, model.sample_rate)[0])
    signal = Signal(model.encode_in_float64(conditioned[None])[0])
    for name, layer in model.network.layers.items():
        signal = layer(signal)
        np.testing.assert_array_equal(counts[name], signal.trains[0].spikes.sum(0)[0].numpy())
    shown = rasters(counts, cost)
    assert [(raster.number, raster.n_layers, raster.shown, raster.neurons) for raster in shown] == [
        (1, 3, 8, 8), (2, 3, 8, 8), (3, 3, 8, 8)
    ]  # fmt: skip
    for raster, count in zip(shown, counts.values(), strict=True):
        np.testing.assert_allclose(raster.rate, count.mean() / 4)
        image = np.asarray(
            Image.open(io.BytesIO(content(raster.picture, "image/png"))).convert("RGBA")
        )
        assert not image[..., :3].any()
        np.testing.assert_array_equal(image[..., 3], 17 * np.round(15 * (count / 4) ** 0.7))


def test_large_rasters_skip_rows_and_average_frames():
    counts = np.zeros((300, 5000), dtype=np.int32)
    counts[3, :2500], counts[4] = 8, 8  # every third of 300 rows is shown
    image = np.asarray(Image.open(io.BytesIO(raster_picture(counts, 8))).convert("RGBA"))[..., 3]
    assert image.shape == (100, 1200)
    assert image[1, :600].min() == 255
    assert image[1, 601:].max() == 0
    assert image[2:].max() == image[0].max() == 0


def test_too_large_page_is_rejected(scored, tmp_path, monkeypatch):
    monkeypatch.setattr("spikesep.separation.pages.listening_page.MAX_PAGE_BYTES", 10_000)
    with pytest.raises(SpikeSepError, match=r"--demo\.examples_per_group 1: "):
        build_page(scored.data, scored.exp, tmp_path / "demo", DemoConfig())
    assert not list(tmp_path.iterdir())


def test_headings_are_nested_and_table_headers_scoped(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert page.all("th")
    assert all(th["scope"] in ("row", "col", "rowgroup", "colgroup") for th in page.all("th"))


def test_page_shows_the_results(scored, page):
    found = read_json(scored.exp / "results.json")
    assert "Figure: training" in page.source
    value = f"{round(found['open']['snn']['stoi']['overall'], 3):.3f}"
    assert value in page.text
    assert f"{found['cost']['synops_ratio']:.2f}" in page.text


def test_text_is_escaped(scored, page):
    found = read_json(scored.exp / "results.json")
    found["command"] = "spikesep-score --exp '<script>alert(1)</script>&'"
    source = render(found, [], {})
    assert "<script>alert" not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in source


def test_page_states_which_training_was_cut_short(experiment):
    history = History(experiment.exp / "history.csv")
    history.add(replace(history.read()[-1], cut_at=4))
    config = ScoringConfig(metrics=[], max_utterances=2)
    found = score_experiment(experiment.data, experiment.exp, config, n_jobs=1)
    (note,) = found["cut_short"]
    assert note in (experiment.exp / "RESULTS.md").read_text()
    assert note in render(found, [], {})


def test_page_is_reproducible(scored, page, tmp_path):
    again = build_page(scored.data, scored.exp, tmp_path / "demo", DemoConfig())
    assert again.read_text(encoding="utf-8") == page.source


def test_page_without_figures(experiment):
    (experiment.exp / "history.csv").unlink()
    (experiment.exp / "snn" / "report.json").unlink()
    score_experiment(experiment.data, experiment.exp, ScoringConfig(metrics=[]), n_jobs=1)
    built = Page(build_page(experiment.data, experiment.exp, experiment.exp / "demo", DemoConfig()))
    assert "Figure: training" not in built.source
    assert "Figure: activations" not in built.source


def test_scores_of_another_network_are_rejected(scored, tmp_path):
    exp = shutil.copytree(scored.exp, tmp_path / "exp")
    config = exp / "snn" / "config.json"
    config.write_text(json.dumps(read_json(config)))  # the same settings in other bytes
    with pytest.raises(SpikeSepError, match=r"was scored with another .*snn"):
        build_page(scored.data, exp, tmp_path / "page", DemoConfig())
    assert not (tmp_path / "page").exists()


def test_missing_scores_are_reported(experiment):
    with pytest.raises(SpikeSepError, match="spikesep-score"):
        build_page(experiment.data, experiment.exp, experiment.exp / "demo", DemoConfig())
    assert not (experiment.exp / "demo").exists()


def row(utt, condition, sexes, gain, method="snn") -> dict:
    return {"utt": utt, "condition": condition, "sexes": sexes, "method": method, "si_sdri": gain}


def test_examples_are_the_median_of_their_group():
    rows = [
        row(f"u{k}", "open", "f-m", str(gain)) for k, gain in enumerate((9.0, -3.0, 4.0, 5.0, 1.0))
    ]
    rows += [
        row("u0", "open", "f-m", "0.0", method="ann"),
        row("v", "open", "m-m", "2.0"),
        row("w", "closed", "f-m", ""),
    ]
    chosen = choose_examples(rows, 1)
    assert [(c.utt, c.group, c.rank, c.n_in_group) for c in chosen] == [
        ("u2", "diff", 3, 5),
        ("v", "same", 1, 1),
    ]
    assert [c.utt for c in choose_examples(rows, 3)] == ["u4", "u2", "u3", "v"]


def test_examples_are_the_median_of_the_condition_if_sexes_are_unknown():
    rows = [row(f"u{k}", "open", "u-u", str(k)) for k in range(3)]
    assert [(c.utt, c.group) for c in choose_examples(rows, 1)] == [("u1", None)]
