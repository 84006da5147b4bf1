"""Both pages with three outputs, and with sources that are silent."""

import json

import numpy as np
import pytest
from helpers.experiments import make_conversations
from helpers.separators import tiny_separator
from helpers.web.serve import read_response, recording, send_request, serving

from spikesep.separation.config import DemoConfig, MixingConfig, ScoringConfig
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.pages import sounds
from spikesep.separation.pages.listening_page import build_page
from spikesep.separation.scoring.inputs import find_modes
from spikesep.separation.scoring.score import score_experiment


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    made = make_conversations(tmp_path_factory.mktemp("talk"), seconds=2.0)
    modes = find_modes(made.data, MixingConfig(n_speakers=3, modes=["both", "clean"]))
    score_experiment(made.data, made.exp, ScoringConfig(metrics=[]), modes=modes, n_jobs=1)
    page = build_page(made.data, made.exp, made.exp / "demo", DemoConfig())
    return page.read_text(encoding="utf-8")


def test_page_shows_silent_sources_as_such(page):
    assert page.count("<article") == 2  # two voices or more, of different sex, in each condition
    assert "Voice 3, silent" in page
    assert "below the mixture" in page
    assert "Several voices at once" in page
    assert "By number of voices" in page


def test_long_mixtures_are_shown_where_all_voices_are_heard():
    rate = 1000
    sources = np.zeros((3, 30 * rate))
    sources[0], sources[1, 17 * rate : 20 * rate] = 0.1, 0.1
    part = sounds.excerpt(sources, rate)
    assert part.stop - part.start == 6 * rate
    assert part.start <= 17 * rate
    assert part.stop >= 20 * rate
    assert sounds.excerpt(sources[:, : 20 * rate], rate) == slice(0, 20 * rate)


def test_server_returns_three_voices_and_says_how_many_it_heard():
    with serving(Model(tiny_separator(n_speakers=3))) as service:
        status, _, content = send_request(service, path="/")
        assert status == 200
        assert "up to three people" in content.decode()
        status, _, content = send_request(service, "POST", "/separate", recording())
    lines, files = read_response(content)
    assert status == 200
    assert list(files) == ["mixture", "voice1", "voice2", "voice3"]
    assert "heard" in json.dumps(lines[-1]["report"]["summary"])
