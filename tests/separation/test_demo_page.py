import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.separation import scoring
from spikesep.separation.audio import read_audio
from spikesep.separation.config import DemoConfig, ScoringConfig
from spikesep.separation.demo import build_page
from spikesep.separation.demo.page import choose_examples, render


class Page(HTMLParser):
    """Every address, every id, the elements with their attributes, and the text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "poster", "data")]

    def handle_data(self, data):
        self.text += data

    def all(self, tag) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def scored(kept_experiment):
    scoring.score(kept_experiment.data, kept_experiment.exp, ScoringConfig(metrics=["stoi"]), 1)
    return kept_experiment


@pytest.fixture(scope="module")
def page(scored) -> Page:
    return Page(build_page(scored.data, scored.exp, scored.exp / "demo", DemoConfig()))


def test_every_link_resolves_within_the_folder_and_every_file_is_used(scored, page):
    folder = scored.exp / "demo"
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    files = set()
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert (folder / link).resolve().is_relative_to(folder.resolve())
            assert (folder / link).is_file(), link
            files.add(folder / link)
    assert files == {path for path in folder.rglob("*") if path.is_file()} - {folder / "index.html"}


def test_nothing_on_the_page_asks_a_network(page):
    assert not re.search(r"https?:|(?:src|href|srcset)\s*=\s*[\"']//|@import|url\(", page.source)


def test_each_example_has_mixture_references_and_both_estimates_at_one_level_unclipped(scored, page):
    assert len(page.all("article")) == 4  # closed and open, different and same sex
    assert len(page.all("audio")) == 4 * 7
    for audio in page.all("audio"):
        assert audio["aria-label"]
        samples = soundfile.read(scored.exp / "demo" / audio["src"])[0]
        assert np.abs(samples).max() <= 0.901
    for voice in (1, 2):
        levels = [
            np.mean(read_audio(scored.exp / "demo" / "audio" / f"1-voice{voice}-{name}.wav") ** 2)
            for name in ("source", "ann", "snn")
        ]
        np.testing.assert_allclose(levels, levels[0], rtol=0.01)


def test_spectrograms_are_pictures_with_a_description(scored, page):
    for image in page.all("img"):
        assert image["alt"]
        assert Image.open(scored.exp / "demo" / image["src"]).width > 50


def test_headings_descend_one_level_at_a_time_and_tables_have_scoped_headers(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert page.all("th")
    assert all(th["scope"] in ("row", "col", "rowgroup", "colgroup") for th in page.all("th"))


def test_the_numbers_on_the_page_are_those_of_the_results(scored, page):
    found = read_json(scored.exp / "results.json")
    value = f"{round(found['open']['snn']['stoi']['overall'], 3):.3f}"
    assert value in page.text
    assert f"{found['cost']['synops_ratio']:.2f}" in page.text


def test_text_is_escaped(scored, page):
    found = read_json(scored.exp / "results.json")
    found["command"] = "spikesep-score --exp '<script>alert(1)</script>&'"
    source = render(found, [], set())
    assert "<script>alert" not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in source


def test_the_page_is_the_same_each_time(scored, page, tmp_path):
    again = build_page(scored.data, scored.exp, tmp_path / "demo", DemoConfig())
    assert again.read_text(encoding="utf-8") == page.source


def test_a_page_without_figures_links_to_none(experiment):
    (experiment.exp / "history.csv").unlink()
    (experiment.exp / "snn" / "report.json").unlink()
    scoring.score(experiment.data, experiment.exp, ScoringConfig(metrics=[]), 1)
    built = Page(build_page(experiment.data, experiment.exp, experiment.exp / "demo", DemoConfig()))
    assert not [link for link in built.links if "training" in link or "activations" in link]


def test_without_scores_the_error_names_the_stage_and_nothing_is_left(experiment):
    with pytest.raises(SpikeSepError, match="spikesep-score"):
        build_page(experiment.data, experiment.exp, experiment.exp / "demo", DemoConfig())
    assert not (experiment.exp / "demo").exists()


def row(utt, condition, sexes, gain, method="snn") -> dict:
    return {"utt": utt, "condition": condition, "sexes": sexes, "method": method, "si_sdri": gain}


def test_examples_are_the_median_of_their_group_by_the_gain_of_the_snn():
    rows = [row(f"u{k}", "open", "f-m", str(gain)) for k, gain in enumerate((9.0, -3.0, 4.0, 5.0, 1.0))]
    rows += [
        row("u0", "open", "f-m", "0.0", method="ann"),
        row("v", "open", "m-m", "2.0"),
        row("w", "closed", "f-m", ""),
    ]
    chosen = choose_examples(rows, 1)
    assert [(c.utt, c.group, c.rank, c.n_in_group) for c in chosen] == [("u2", "diff", 3, 5), ("v", "same", 1, 1)]
    assert [c.utt for c in choose_examples(rows, 3)] == ["u4", "u2", "u3", "v"]


def test_where_sexes_are_unknown_the_median_of_the_condition_is_taken():
    rows = [row(f"u{k}", "open", "u-u", str(k)) for k in range(3)]
    assert [(c.utt, c.group) for c in choose_examples(rows, 1)] == [("u1", None)]
