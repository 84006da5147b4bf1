"""Listening pages of conversations, and what is in them."""

import base64
import re
from pathlib import Path

from helpers.experiments import Experiment, make_conversations
from helpers.tracks import tiny_embedder
from spikesep.separation.config import DemoConfig, MixingConfig, ScoringConfig
from spikesep.separation.pages.listening_page import build_page
from spikesep.separation.scoring.inputs import find_modes
from spikesep.separation.scoring.score import score_experiment
from spikesep.separation.tracks.embedder import save_embedder


def conversation_page(
    folder: Path, seconds: float, has_embedder: bool = True
) -> tuple[Experiment, str]:
    """Make conversations of one to three voices, score them, and build their page in `demo`.

    Returns:
        The experiment and the page.
    """
    made = make_conversations(folder, seconds)
    if has_embedder:
        save_embedder(tiny_embedder(spiking=True), made.exp / "tracks")
    modes = find_modes(made.data, MixingConfig(n_speakers=3, modes=["both", "clean"]))
    score_experiment(made.data, made.exp, ScoringConfig(metrics=[]), modes=modes, n_jobs=1)
    page = build_page(made.data, made.exp, made.exp / "demo", DemoConfig())
    return made, page.read_text(encoding="utf-8")


def data_urls(page: str, kind: str) -> list[bytes]:
    """Return the contents of all sounds of a type."""
    return [base64.b64decode(c) for c in re.findall(rf'src="data:{kind};base64,([^"]*)"', page)]


def lanes_of(page: str) -> list[list[dict[str, list[tuple[float, float]]]]]:
    """Return the bars, start and stop, of each kind in each lane of each example of a page."""
    examples = []
    for article in page.split("<article")[1:]:
        lanes = re.findall(r'class="lane".*?</svg>', article, re.DOTALL)
        examples.append(
            [{kind: _bars(lane, kind) for kind in ("reference", "found")} for lane in lanes]
        )
    return examples


def _bars(lane: str, kind: str) -> list[tuple[float, float]]:
    (group,) = re.findall(rf'<g class="{kind}">(.*?)</g>', lane, re.DOTALL)
    bars = re.findall(r'<rect x="([\d.]+)" width="([\d.]+)"', group)
    return [(float(x), float(x) + float(width)) for x, width in bars]
