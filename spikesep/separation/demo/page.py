"""Build the listening page from a scored experiment: choose examples, separate them anew, render the template.

The examples are those in the middle of their group, not the best, and the page says so. Everything it shows lies in its
own folder: it opens from the disk and asks nothing of a network.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.progress import track

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, read_json
from spikesep.separation import figures, metrics, results
from spikesep.separation.audio import read_audio, write_wav
from spikesep.separation.config import DemoConfig
from spikesep.separation.kaldi import Mixture, read_data_dir
from spikesep.separation.model import Separator
from spikesep.separation.scoring import SETS, load_models

PEAK = 0.9
"""Of full scale: the loudest sample of an example. One gain serves all its sounds."""
SEXES = {"f": "female", "m": "male", "u": ""}
GROUP_NAMES = {"diff": "different sex", "same": "same sex", None: ""}


@dataclass(frozen=True)
class Choice:
    """An utterance to show: its condition, group (`diff`, `same` or None) and rank in the group, counted from 1."""

    utt: str
    condition: str
    group: str | None
    rank: int
    n_in_group: int


@dataclass(frozen=True)
class Sound:
    """One player: what it is, where its files lie in the page's folder, and its scores as (name, printed value)."""

    label: str
    described: str
    audio: str
    picture: str
    scores: list[tuple[str, str]]


@dataclass(frozen=True)
class Example:
    """One mixture with its voices, a `Sound` each for reference, ANN and SNN."""

    choice: Choice
    title: str
    seconds: float
    max_khz: float
    gains: list[tuple[str, str]]
    mixture: Sound
    voices: list[tuple[str, list[Sound]]]


def build_page(data: Path, exp: Path, out: Path, config: DemoConfig) -> Path:
    """Write the page's folder `out`, whole or not at all; the path of its `index.html`.

    Args:
        data: folder of the Kaldi data directories.
        exp: folder of both models, scored.
        out: the folder to write; one that stands there is replaced.
        config: how many examples.

    Raises:
        SpikeSepError: scores, models or mixtures are missing; the message names the stage that makes them.
    """
    found, rows = read_scores(exp)
    choices = choose_examples(rows, config.examples_per_group)
    mixtures = {condition: {m.utt_id: m for m in read_data_dir(data / name)} for condition, name in SETS.items()}
    missing = [choice.utt for choice in choices if choice.utt not in mixtures[choice.condition]]
    if missing:
        raise SpikeSepError(f"{data}: lacks the scored mixture {missing[0]}; score again (spikesep-score --exp {exp})")
    models, console = load_models(exp), Console(stderr=True)
    with atomic_path(out) as folder:
        for name in ("audio", "pictures"):
            (folder / name).mkdir(parents=True)
        examples = [
            make_example(number, choice, mixtures[choice.condition][choice.utt], models, rows, folder)
            for number, choice in enumerate(
                track(choices, "listening page", transient=True, console=console, disable=not console.is_terminal),
                start=1,
            )
        ]
        for dark in (False, True):
            drawn = figures.draw(exp, folder / "pictures", dark=dark)
        page = render(found, examples, {path.name.replace("-dark", "") for path in drawn})
        (folder / "index.html").write_text(page, encoding="utf-8")
    return out / "index.html"


def read_scores(exp: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What `results.json` holds, and the rows of `scores.csv`.

    Raises:
        SpikeSepError: either is missing.
    """
    for name in ("results.json", "scores.csv"):
        if not (exp / name).is_file():
            raise SpikeSepError(f"{exp / name}: not found; run scoring first (spikesep-score --exp {exp})")
    with (exp / "scores.csv").open(newline="", encoding="utf-8") as file:
        return read_json(exp / "results.json"), list(csv.DictReader(file))


def choose_examples(rows: Sequence[dict[str, str]], per_group: int) -> list[Choice]:
    """The `per_group` utterances in the middle of each condition and sex group, by the SI-SDRi of the SNN.

    Where the sexes of all voices are unknown, the middle of each condition.
    """
    spiking = [row for row in rows if row["method"] == "snn" and row["si_sdri"]]
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


def make_example(
    number: int, choice: Choice, mixture: Mixture, models: dict[str, Separator], rows: Sequence[dict], folder: Path
) -> Example:
    """Separate one mixture with each model, and write its sounds and spectrograms into `folder`."""
    sample_rate = models["snn"].sample_rate
    mixed = read_audio(mixture.mixture, sample_rate)
    sources = np.stack([read_audio(path, sample_rate) for path in mixture.sources])
    waves: dict[str, np.ndarray] = {"source": sources}
    for name, model in models.items():
        estimates = model.separate(torch.from_numpy(mixed)).numpy()
        ordered = estimates[list(metrics.best_permutation(estimates, sources))]
        waves[name] = np.stack([at_level_of(e, s) for e, s in zip(ordered, sources, strict=True)])
    gain = PEAK / max(1e-6, *(float(np.abs(wave).max()) for wave in (mixed, *waves.values())))
    pictured = {name: [figures.spectrogram(gain * voice) for voice in wave] for name, wave in waves.items()}
    mixed_picture = figures.spectrogram(gain * mixed)
    loudest = max(float(p.max()) for p in (mixed_picture, *(p for group in pictured.values() for p in group)))

    def sound(stem: str, label: str, described: str, wave: np.ndarray, picture: np.ndarray, scores: list) -> Sound:
        audio, image = f"audio/{number}-{stem}.wav", f"pictures/{number}-{stem}.png"
        write_wav(folder / audio, gain * wave, sample_rate)
        figures.spectrogram_picture(picture, loudest, folder / image)
        return Sound(label, described, audio, image, scores)

    voices = []
    for k, sex in enumerate(mixture.sexes):
        voice, sounds = f"Voice {k + 1}", []
        for name, label in {"source": "Reference", **{name: results.METHODS[name] for name in models}}.items():
            wave = waves[name][k]
            scores = [] if name == "source" else voice_scores(wave, sources[k], sample_rate)
            described = f"{voice}, {label}, example {number}"
            sounds.append(sound(f"voice{k + 1}-{name}", label, described, wave, pictured[name][k], scores))
        voices.append((f"{voice}, {SEXES[sex]}" if SEXES[sex] else voice, sounds))
    return Example(
        choice=choice,
        title=", ".join(filter(None, (f"{results.CONDITIONS[choice.condition]} condition", GROUP_NAMES[choice.group]))),
        seconds=len(mixed) / sample_rate,
        max_khz=sample_rate / 2000,
        gains=utterance_gains(rows, choice),
        mixture=sound("mixture", "Mixture", f"Mixture, example {number}", mixed, mixed_picture, []),
        voices=voices,
    )


def at_level_of(estimate: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The estimate with the root mean square of the source; SI-SDR leaves its level open."""
    level = math.sqrt(float(np.mean(np.square(estimate, dtype=np.float64))))
    wanted = math.sqrt(float(np.mean(np.square(source, dtype=np.float64))))
    return estimate * np.float32(wanted / level) if level > 0 else estimate


def voice_scores(estimate: np.ndarray, source: np.ndarray, sample_rate: int) -> list[tuple[str, str]]:
    """The scores of one voice as printed: SI-SDR, PESQ and STOI, a dash where one is not defined."""
    measures = {
        "si_sdr": lambda: metrics.si_sdr(estimate, source),
        "pesq": lambda: metrics.pesq(estimate, source, sample_rate),
        "stoi": lambda: metrics.stoi(estimate, source, sample_rate),
    }
    printed = []
    for name, measure in measures.items():
        try:
            value = measure()
        except metrics.RefusalError:
            value = None
        unit = " dB" if name == "si_sdr" else ""
        printed.append((results.METRICS[name].removesuffix(" (dB)"), results.decimal(value, name) + unit))
    return printed


def utterance_gains(rows: Sequence[dict[str, str]], choice: Choice) -> list[tuple[str, str]]:
    """The SI-SDRi of each network on the whole mixture, as `scores.csv` has it."""
    values = {r["method"]: r["si_sdri"] for r in rows if (r["utt"], r["condition"]) == (choice.utt, choice.condition)}
    return [
        (results.METHODS[method], f"{results.decimal(float(values[method]), 'si_sdri')} dB")
        for method in ("ann", "snn")
        if values.get(method)
    ]


def render(found: dict[str, Any], examples: list[Example], figure_names: set[str]) -> str:
    """The page. All text is escaped, but the style sheet and the script of this package."""
    environment = Environment(
        loader=PackageLoader("spikesep.separation.demo", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimal"] = results.decimal
    style, script = (Markup(environment.loader.get_source(environment, name)[0]) for name in ("style.css", "player.js"))
    return environment.get_template("template.html").render(
        results=found,
        names=results,
        metrics=[name for name in results.METRICS if name in found["closed"]["ann"]],
        rows=results.table_rows(found),
        mean_rate=float(np.mean(found["cost"]["firing_rate"] or [0.0])),
        definition=metrics.DEFINITION,
        dynamic_range=round(figures.DYNAMIC_RANGE),
        examples=examples,
        figures=figure_names,
        style=style,
        script=script,
    )
