"""The listening page of a scored experiment: choice of examples, and rendering.

Examples are the median ones of their group, not the best, and the page says so. The page is a
single file that contains all its data: sounds as FLAC, those of conversations as MP3, turns, and
rasters of the spikes. The browser draws waveforms and spectrograms from the sounds. The page opens
from disk and makes no network requests.
"""

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, read_json
from spikesep.separation.config import DemoConfig
from spikesep.separation.data.kaldi import Mixture, read_data_dir
from spikesep.separation.model.hub import find_tracks
from spikesep.separation.pages import assets
from spikesep.separation.pages.examples import (
    Choice,
    Example,
    ScoreRow,
    make_example,
)
from spikesep.separation.pages.rasters import data_url
from spikesep.separation.pages.sounds import Conversation
from spikesep.separation.scoring import by_voices, figures, metrics, results
from spikesep.separation.scoring.conversation import read_turns
from spikesep.separation.scoring.inputs import SETS, STAGES, check_scored
from spikesep.separation.scoring.utterance import load_models
from spikesep.separation.tracks.embedder import load_embedder

MAX_PAGE_BYTES = 10 * 10**6
"""Size of a page that is still easy to host or to send."""
PICTURE_BYTES, RASTER_BYTES = 1.5e6, 0.3e6
"""Estimates of what figures and text take of it, and the rasters of each example."""


def build_page(data: Path, exp: Path, out: Path, config: DemoConfig) -> Path:
    """Write the page as the only file of the folder `out`, atomically, and return its path.

    Args:
        data: folder of the Kaldi data directories.
        exp: folder of both models, scored.
        out: output folder, replaced if it exists.
        config: number of examples.

    Raises:
        SpikeSepError: scores, models or mixtures are missing (the message names the stage that
            makes them), or the page would be too large.
    """
    found, rows = read_scores(exp)
    choices = choose_examples(rows, config.examples_per_group, found.get("modes", [""])[0])
    page = render(found, _make_examples(data, exp, choices, rows), draw_figures(exp)).encode()
    if len(page) > MAX_PAGE_BYTES:
        raise SpikeSepError(
            f"--demo.examples_per_group {config.examples_per_group}: results in a page of "
            f"{len(page) / 1e6:.0f} MB, the limit is {MAX_PAGE_BYTES / 1e6:.0f}; show fewer "
            "examples"
        )
    with atomic_path(out) as folder:
        folder.mkdir(parents=True)
        (folder / "index.html").write_bytes(page)
    return out / "index.html"


def _make_examples(
    data: Path, exp: Path, choices: list[Choice], rows: Sequence[ScoreRow]
) -> list[Example]:
    mixtures = _find_mixtures(data, exp, choices)
    models, console = load_models(exp), Console(stderr=True)
    conversations = _find_conversations(data, exp, mixtures)
    progress = track(
        choices,
        "listening page",
        transient=True,
        console=console,
        disable=not console.is_terminal,
    )
    return [
        make_example(number, choice, mixtures[choice], models, rows, conversations.get(choice))
        for number, choice in enumerate(progress, start=1)
    ]


def _find_mixtures(data: Path, exp: Path, choices: list[Choice]) -> dict[Choice, Mixture]:
    mixtures = {
        (condition, mixture.utt_id): mixture
        for condition, folder in SETS.items()
        for mixture in read_data_dir(data / folder)
    }
    for choice in choices:
        if (choice.condition, choice.utt) not in mixtures:
            raise SpikeSepError(
                f"{data}: lacks the scored mixture {choice.utt}; score again (spikesep-score "
                f"--exp {exp})"
            )
    return {choice: mixtures[choice.condition, choice.utt] for choice in choices}


def _find_conversations(
    data: Path, exp: Path, mixtures: dict[Choice, Mixture]
) -> dict[Choice, Conversation]:
    """Return what is known about the mixtures that are conversations."""
    turns = {
        choice: found
        for condition, folder in SETS.items()
        for choice, mixture in mixtures.items()
        if choice.condition == condition
        for found in read_turns(data / folder, [mixture]).values()
    }
    tracks = find_tracks(exp / "snn") if turns else None
    embedder = None if tracks is None else load_embedder(tracks).eval()
    n = len(mixtures)
    max_bytes = max(0.0, MAX_PAGE_BYTES - PICTURE_BYTES - n * RASTER_BYTES) / max(1, n)
    return {choice: Conversation(found, embedder, max_bytes) for choice, found in turns.items()}


def draw_figures(exp: Path) -> dict[str, str]:
    """Draw the figures of the experiment, light and dark; return data URLs by name."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = [
            path for dark in (False, True) for path in figures.draw(exp, Path(folder), dark=dark)
        ]
        return {path.stem: data_url("image/png", path.read_bytes()) for path in drawn}


def read_scores(exp: Path) -> tuple[dict[str, Any], list[ScoreRow]]:
    """Read `results.json` and the rows of `scores.csv`.

    Raises:
        SpikeSepError: either is missing, or belongs to other networks than the present ones.
    """
    for name in ("results.json", "scores.csv"):
        if not (exp / name).is_file():
            raise SpikeSepError(
                f"{exp / name}: not found; run scoring first (spikesep-score --exp {exp})"
            )
    found = read_json(exp / "results.json")
    for kind in STAGES:
        check_scored(exp, found, kind)
    with (exp / "scores.csv").open(newline="", encoding="utf-8") as file:
        return found, list(csv.DictReader(file))


def choose_examples(rows: Sequence[ScoreRow], per_group: int, mode: str = "") -> list[Choice]:
    """Choose the `per_group` median utterances of a mode in each condition and sex group.

    Utterances are ranked by the SI-SDRi of the SNN. If no sex is known, each condition is one
    group.
    """
    spiking = [
        row
        for row in rows
        if row["method"] == "snn" and row["si_sdri"] and row.get("mode", mode) == mode
    ]
    group_of = {row["utt"]: results.group_of(row["sexes"].split("-")) for row in spiking}
    groups = ("diff", "same") if any(group_of.values()) else (None,)
    choices = []
    for condition in SETS:
        for group in groups:
            ranked = sorted(
                (float(row["si_sdri"]), row["utt"])
                for row in spiking
                if row["condition"] == condition and group_of[row["utt"]] == group
            )
            first = max(0, (len(ranked) - per_group) // 2)
            for rank, (_, utt) in enumerate(ranked[first : first + per_group], start=first + 1):
                choices.append(Choice(utt, condition, group, rank, len(ranked)))
    return choices


def render(found: dict[str, Any], examples: list[Example], drawn: dict[str, str]) -> str:
    """Render the page; all text except the style sheet and the scripts is escaped."""
    return assets.render(
        "page.html",
        results=found,
        names=results,
        by_voices=by_voices if by_voices.is_shown(found) else None,
        metrics=[name for name in results.METRICS if name in found["closed"]["ann"]],
        rows=results.table_rows(found),
        mean_rate=float(np.mean(found["cost"]["firing_rate"] or [0.0])),
        pruning=results.pruning_note(found["cost"]),
        definition=metrics.DEFINITION,
        examples=examples,
        figures=drawn,
    )
