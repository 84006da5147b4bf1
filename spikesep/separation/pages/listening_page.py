"""Build the listening page from a scored experiment: choose examples, separate them anew, render the template.

The examples are those in the middle of their group, not the best, and the page says so. It is one file that holds all
it shows: sounds as FLAC, rasters of the spikes that were fired; the browser draws waveforms and spectrograms from the
sounds. It opens from the disk and asks nothing of a network.
"""

import base64
import csv
import io
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, read_json
from spikesep.separation.audio.files import read_audio
from spikesep.separation.config import DemoConfig
from spikesep.separation.data.kaldi import Mixture, read_data_dir
from spikesep.separation.model.separator import Separator
from spikesep.separation.pages import assets
from spikesep.separation.scoring import figures, metrics, results
from spikesep.separation.scoring.score import SETS, STAGES, check_scored, load_models
from spikesep.spiking.cost import Cost, CostMeter

LARGEST_PAGE = 10 * 10**6
"""Bytes: what can be put on a web server, or sent to somebody, without a second thought."""
PEAK = 0.9
"""Of full scale: the loudest sample of an example. One gain serves all its sounds."""
SEXES = {"f": "female", "m": "male", "u": ""}
RASTER_ROWS, RASTER_COLUMNS = 128, 1200
"""Of a raster's picture, at most."""
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
    """One sound to choose: its key, what it is, the data of its file, its scores as (name, printed value)."""

    key: str
    label: str
    described: str
    audio: str
    scores: list[tuple[str, str]]


@dataclass(frozen=True)
class Raster:
    """Layer `number` of `of`: how many of its `neurons` are shown, spikes a neuron and step, the picture's data."""

    number: int
    of: int
    shown: int
    neurons: int
    rate: float
    picture: str


@dataclass(frozen=True)
class Example:
    """One mixture with its voices (a `Sound` each for reference, ANN and SNN), rasters, and what the networks did."""

    choice: Choice
    title: str
    seconds: float
    sample_rate: int
    mixture: Sound
    voices: list[tuple[str, list[Sound]]]
    rasters: list[Raster]
    work: list[dict[str, str]]


def build_page(data: Path, exp: Path, out: Path, config: DemoConfig) -> Path:
    """Write the page, the only file of the folder `out`, whole or not at all; its path.

    Args:
        data: folder of the Kaldi data directories.
        exp: folder of both models, scored.
        out: the folder to write; one that stands there is replaced.
        config: how many examples.

    Raises:
        SpikeSepError: scores, models or mixtures are missing, and the message names the stage that makes them; or the
            page is too large.
    """
    found, rows = read_scores(exp)
    choices = choose_examples(rows, config.examples_per_group)
    mixtures = {
        condition: {m.utt_id: m for m in read_data_dir(data / name)}
        for condition, name in SETS.items()
    }
    missing = [choice.utt for choice in choices if choice.utt not in mixtures[choice.condition]]
    if missing:
        raise SpikeSepError(
            f"{data}: lacks the scored mixture {missing[0]}; score again (spikesep-score --exp {exp})"
        )
    models, console = load_models(exp), Console(stderr=True)
    examples = [
        make_example(number, choice, mixtures[choice.condition][choice.utt], models, rows)
        for number, choice in enumerate(
            track(
                choices,
                "listening page",
                transient=True,
                console=console,
                disable=not console.is_terminal,
            ),
            start=1,
        )
    ]
    page = render(found, examples, draw_figures(exp)).encode()
    if len(page) > LARGEST_PAGE:
        raise SpikeSepError(
            f"--demo.examples_per_group {config.examples_per_group}: makes a page of {len(page) / 1e6:.0f} MB, "
            f"{LARGEST_PAGE / 1e6:.0f} at most; show fewer examples"
        )
    with atomic_path(out) as folder:
        folder.mkdir(parents=True)
        (folder / "index.html").write_bytes(page)
    return out / "index.html"


def draw_figures(exp: Path) -> dict[str, str]:
    """The figures of the experiment, light and dark, as data addresses by name."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = [
            path for dark in (False, True) for path in figures.draw(exp, Path(folder), dark=dark)
        ]
        return {path.stem: data_address("image/png", path.read_bytes()) for path in drawn}


def data_address(kind: str, content: bytes) -> str:
    """The content itself as an address, so that the page needs no second file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def read_scores(exp: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What `results.json` holds, and the rows of `scores.csv`.

    Raises:
        SpikeSepError: either is missing, or is of other networks than those that are there.
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
    number: int,
    choice: Choice,
    mixture: Mixture,
    models: dict[str, Separator],
    rows: Sequence[dict],
) -> Example:
    """Separate one mixture with each model; its sounds, the spikes of the SNN, and what it cost."""
    sample_rate = models["snn"].sample_rate
    mixed = read_audio(mixture.mixture, sample_rate)
    sources = np.stack([read_audio(path, sample_rate) for path in mixture.sources])
    waves, costs, counts = {"source": sources}, {}, {}
    for name, model in models.items():
        estimates, costs[name], counts[name] = separate_watched(model, mixed)
        ordered = estimates[list(metrics.best_permutation(estimates, sources))]
        waves[name] = np.stack([at_level_of(e, s) for e, s in zip(ordered, sources, strict=True)])
    gain = PEAK / max(1e-6, *(float(np.abs(wave).max()) for wave in (mixed, *waves.values())))
    labels = {"source": "Reference", **{name: results.METHODS[name] for name in models}}

    def sound(key: str, label: str, described: str, wave: np.ndarray, scores: list) -> Sound:
        return Sound(
            key,
            label,
            described,
            data_address("audio/flac", flac(gain * wave, sample_rate)),
            scores,
        )

    voices = []
    for k, sex in enumerate(mixture.sexes):
        voice, sounds = f"Voice {k + 1}", []
        for name, label in labels.items():
            scores = (
                [] if name == "source" else voice_scores(waves[name][k], sources[k], sample_rate)
            )
            described = f"voice {k + 1}, {label if name in models else label.lower()}"
            sounds.append(sound(f"voice{k + 1}-{name}", label, described, waves[name][k], scores))
        voices.append((f"{voice}, {SEXES[sex]}" if SEXES[sex] else voice, sounds))
    before = " / ".join(
        printed(lambda s=source: metrics.si_sdr(mixed, s), "si_sdr") for source in sources
    )
    return Example(
        choice=choice,
        title=", ".join(
            filter(
                None,
                (f"{results.CONDITIONS[choice.condition]} condition", GROUP_NAMES[choice.group]),
            )
        ),
        seconds=len(mixed) / sample_rate,
        sample_rate=sample_rate,
        mixture=sound(
            "mixture",
            "Mixture",
            f"the mixture, example {number}",
            mixed,
            [("SI-SDR", f"{before}\u00a0dB")],
        ),
        voices=voices,
        rasters=rasters(counts["snn"], costs["snn"]),
        work=work_done(costs, utterance_gains(rows, choice)),
    )


def separate_watched(
    model: Separator, mixture: np.ndarray
) -> tuple[np.ndarray, Cost, dict[str, np.ndarray]]:
    """Estimates [n_speakers, T] of mixture [T], what they cost, and each spiking layer's counts [channels, frames]."""
    meter, counts = CostMeter(), {}

    def watch(name, module, signal, out):
        meter(name, module, signal, out)
        if out.is_spiking:
            counts[name] = out.count[0].numpy()

    estimates = model.separate(torch.from_numpy(mixture), watch).numpy()
    return estimates, meter.cost, counts


def rasters(counts: dict[str, np.ndarray], cost: Cost) -> list[Raster]:
    """Of the first, the middle and the last spiking layer."""
    of, layers = len(counts), list(counts.values())
    chosen = sorted({0, of // 2, of - 1}) if of else []
    return [
        Raster(k + 1, of, -(-len(layers[k]) // row_step(layers[k])), len(layers[k]), cost.firing_rate[k],
               data_address("image/png", raster_picture(layers[k], cost.n_steps)))
        for k in chosen
    ]  # fmt: skip


def row_step(counts: np.ndarray) -> int:
    """Every how many neurons of [channels, frames] one is shown."""
    return -(-len(counts) // RASTER_ROWS)


def raster_picture(counts: np.ndarray, n_steps: int) -> bytes:
    """A PNG of spike counts [channels, frames]: a row a neuron; the more spikes, the more opaque its black.

    Frames that share a column are averaged. Opacity is the 0.7th power of the share of steps with a spike, so that
    single spikes are seen.
    """
    counts = counts[:: row_step(counts)]
    columns = min(counts.shape[1], RASTER_COLUMNS)
    starts = np.arange(columns) * counts.shape[1] // columns
    lengths = np.diff(starts, append=counts.shape[1])
    share = np.add.reduceat(counts, starts, axis=1) / (lengths * n_steps)
    image = Image.fromarray(np.round(15 * share**0.7).astype(np.uint8), mode="P")
    image.putpalette(bytes(3 * 16))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, bits=4, transparency=bytes(range(0, 256, 17)))
    return buffer.getvalue()


def flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """The content of a lossless file of float samples [T], rounded to 16 bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def work_done(costs: dict[str, Cost], gains: dict[str, str]) -> list[dict[str, str]]:
    """A row each network, as printed: gain, synaptic operations, multiply-accumulates."""
    return [
        {
            "method": method,
            "gain": gains.get(method, results.decimal(None, "si_sdri")),
            "synops": f"{cost.synops / 1e6:,.0f}" if cost.n_steps else "–",
            "macs": f"{(cost.analog_macs if cost.n_steps else cost.macs) / 1e6:,.0f}",
        }
        for method, cost in costs.items()
    ]


def at_level_of(estimate: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The estimate with the root mean square of the source; SI-SDR leaves its level open."""
    level = math.sqrt(float(np.mean(np.square(estimate, dtype=np.float64))))
    wanted = math.sqrt(float(np.mean(np.square(source, dtype=np.float64))))
    return estimate * np.float32(wanted / level) if level > 0 else estimate


def voice_scores(
    estimate: np.ndarray, source: np.ndarray, sample_rate: int
) -> list[tuple[str, str]]:
    """The scores of one voice as printed: SI-SDR, PESQ and STOI, a dash where one is not defined."""
    measures = {
        "si_sdr": lambda: metrics.si_sdr(estimate, source),
        "pesq": lambda: metrics.pesq(estimate, source, sample_rate),
        "stoi": lambda: metrics.stoi(estimate, source, sample_rate),
    }
    return [
        (
            results.METRICS[name].removesuffix(" (dB)"),
            printed(measure, name) + ("\u00a0dB" if name == "si_sdr" else ""),
        )
        for name, measure in measures.items()
    ]


def printed(measure: Callable[[], float], name: str) -> str:
    """What `measure` gives, as a score of this name is printed; a dash where it is not defined."""
    try:
        return results.decimal(measure(), name)
    except metrics.RefusalError:
        return results.decimal(None, name)


def utterance_gains(rows: Sequence[dict[str, str]], choice: Choice) -> dict[str, str]:
    """The SI-SDRi of each network on the whole mixture, as `scores.csv` has it."""
    values = {
        r["method"]: r["si_sdri"]
        for r in rows
        if (r["utt"], r["condition"]) == (choice.utt, choice.condition)
    }
    return {
        method: f"{results.decimal(float(values[method]), 'si_sdri')}\u00a0dB"
        for method in ("ann", "snn")
        if values.get(method)
    }


def render(found: dict[str, Any], examples: list[Example], drawn: dict[str, str]) -> str:
    """The page. All text is escaped, but the style sheet and the scripts of this package."""
    return assets.render(
        "page.html",
        results=found,
        names=results,
        metrics=[name for name in results.METRICS if name in found["closed"]["ann"]],
        rows=results.table_rows(found),
        mean_rate=float(np.mean(found["cost"]["firing_rate"] or [0.0])),
        fewer=results.fewer_connections(found["cost"]),
        definition=metrics.DEFINITION,
        examples=examples,
        figures=drawn,
    )
