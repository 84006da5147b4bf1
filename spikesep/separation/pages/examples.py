"""Examples of the listening page: sounds, scores and spike rasters of one mixture each."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from PIL import Image

from spikesep.separation.audio.files import read_audio
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.model.separator import Separator
from spikesep.separation.scoring import metrics, results
from spikesep.spiking.cost import Cost, CostMeter

PEAK = 0.9
"""Largest magnitude in an example, relative to full scale; all its sounds share one gain."""
SEXES = {"f": "female", "m": "male", "u": ""}
MAX_RASTER_ROWS, MAX_RASTER_COLUMNS = 128, 1200
"""Largest size of a raster in pixels."""
GROUP_NAMES = {"diff": "different sex", "same": "same sex", None: ""}
UNIT = {"si_sdr": "\u00a0dB", "si_sdri": "\u00a0dB"}
"""Unit of a metric, after a no-break space."""

ScoreRow = dict[str, str]
"""Row of `scores.csv`."""


@dataclass(frozen=True)
class Choice:
    """An utterance to show.

    Attributes:
        utt: utterance ID.
        condition: `closed` or `open`.
        group: `diff`, `same`, or None if sexes are unknown.
        rank: rank in the group, counted from 1.
        n_in_group: size of the group.
    """

    utt: str
    condition: str
    group: str | None
    rank: int
    n_in_group: int


@dataclass(frozen=True)
class Clip:
    """A sound that can be played.

    Attributes:
        key: identifier within the example.
        label: text of its button.
        description: text for screen readers.
        audio: FLAC file as a data URL.
        scores: names and formatted values.
    """

    key: str
    label: str
    description: str
    audio: str
    scores: list[tuple[str, str]]


@dataclass(frozen=True)
class Raster:
    """Spike raster of one layer.

    Attributes:
        number: number of the spiking layer, counted from 1.
        n_layers: number of spiking layers.
        shown: number of neurons in the picture.
        neurons: number of neurons of the layer.
        rate: spikes per neuron and time step.
        picture: PNG file as a data URL.
    """

    number: int
    n_layers: int
    shown: int
    neurons: int
    rate: float
    picture: str


@dataclass(frozen=True)
class Example:
    """One mixture.

    Attributes:
        choice: the utterance.
        title: heading.
        seconds: length.
        sample_rate: sample rate in Hz.
        mixture: clip of the mixture.
        voices: name of each voice with its clips: reference, ANN and SNN.
        rasters: spike rasters of some layers.
        work: gain and operations of each network, formatted; see `work_rows`.
    """

    choice: Choice
    title: str
    seconds: float
    sample_rate: int
    mixture: Clip
    voices: list[tuple[str, list[Clip]]]
    rasters: list[Raster]
    work: list[dict[str, str]]


def make_example(
    number: int,
    choice: Choice,
    mixture: Mixture,
    models: dict[str, Separator],
    rows: Sequence[ScoreRow],
) -> Example:
    """Separate one mixture with each model, and collect its sounds, scores, rasters and costs."""
    sample_rate = models["snn"].sample_rate
    mixed = read_audio(mixture.mixture, sample_rate)
    sources = np.stack([read_audio(path, sample_rate) for path in mixture.sources])
    waves, costs, counts = {"source": sources}, {}, {}
    for name, model in models.items():
        estimates, costs[name], counts[name] = separate_with_counts(model, mixed)
        ordered = estimates[list(metrics.best_permutation(estimates, sources))]
        waves[name] = np.stack([match_rms(e, s) for e, s in zip(ordered, sources, strict=True)])
    gain = PEAK / max(1e-6, *(float(np.abs(wave).max()) for wave in (mixed, *waves.values())))

    def audio(wave: np.ndarray) -> str:
        return data_url("audio/flac", flac(gain * wave, sample_rate))

    unprocessed = " / ".join(
        format_score(lambda s=source: metrics.si_sdr(mixed, s), "si_sdr") for source in sources
    )
    condition = f"{results.CONDITIONS[choice.condition]} condition"
    return Example(
        choice=choice,
        title=", ".join(filter(None, (condition, GROUP_NAMES[choice.group]))),
        seconds=len(mixed) / sample_rate,
        sample_rate=sample_rate,
        mixture=Clip(
            key="mixture",
            label="Mixture",
            description=f"the mixture, example {number}",
            audio=audio(mixed),
            scores=[("SI-SDR", unprocessed + UNIT["si_sdr"])],
        ),
        voices=[
            _voice(k + 1, sex, {name: wave[k] for name, wave in waves.items()}, sample_rate, audio)
            for k, sex in enumerate(mixture.sexes)
        ],
        rasters=rasters(counts["snn"], costs["snn"]),
        work=work_rows(costs, utterance_gains(rows, choice)),
    )


def _voice(
    number: int,
    sex: str,
    waves: dict[str, np.ndarray],
    sample_rate: int,
    audio: Callable[[np.ndarray], str],
) -> tuple[str, list[Clip]]:
    """Return the name of a voice and its clips.

    Args:
        number: number of the voice, counted from 1.
        sex: `f`, `m` or `u`.
        waves: its reference, under `source`, and the estimate of each network.
        sample_rate: sample rate in Hz.
        audio: encodes samples as a data URL.
    """
    clips = []
    for name, wave in waves.items():
        label, scores = "Reference", []
        if name != "source":
            label = results.METHODS[name]
            scores = voice_scores(wave, waves["source"], sample_rate)
        description = f"voice {number}, {'reference' if name == 'source' else label}"
        clips.append(
            Clip(
                key=f"voice{number}-{name}",
                label=label,
                description=description,
                audio=audio(wave),
                scores=scores,
            )
        )
    title = f"Voice {number}"
    return (f"{title}, {SEXES[sex]}" if SEXES[sex] else title), clips


def separate_with_counts(
    model: Separator, mixture: np.ndarray
) -> tuple[np.ndarray, Cost, dict[str, np.ndarray]]:
    """Separate a mixture [T].

    Returns:
        Estimates [n_speakers, T], their cost, and the spike counts of each spiking layer
        [channels, frames].
    """
    meter, counts = CostMeter(), {}

    def observe(name, module, signal, out):
        meter(name, module, signal, out)
        if out.is_spiking:
            counts[name] = out.count[0].numpy()

    estimates = model.separate(torch.from_numpy(mixture), observe).numpy()
    return estimates, meter.cost, counts


def rasters(counts: dict[str, np.ndarray], cost: Cost) -> list[Raster]:
    """Draw the rasters of the first, the middle and the last spiking layer."""
    n_layers, layers = len(counts), list(counts.values())
    chosen = sorted({0, n_layers // 2, n_layers - 1}) if n_layers else []
    return [
        Raster(
            number=k + 1,
            n_layers=n_layers,
            shown=-(-len(layers[k]) // row_step(layers[k])),
            neurons=len(layers[k]),
            rate=cost.firing_rate[k],
            picture=data_url("image/png", raster_picture(layers[k], cost.n_steps)),
        )
        for k in chosen
    ]


def row_step(counts: np.ndarray) -> int:
    """Return the distance between neurons of [channels, frames] that are shown."""
    return -(-len(counts) // MAX_RASTER_ROWS)


def raster_picture(counts: np.ndarray, n_steps: int) -> bytes:
    """Draw spike counts [channels, frames] as a PNG with one row per neuron.

    Pixels are black; their opacity is the firing rate to the power of 0.7, so that single spikes
    are visible. Frames that share a column are averaged.
    """
    counts = counts[:: row_step(counts)]
    columns = min(counts.shape[1], MAX_RASTER_COLUMNS)
    starts = np.arange(columns) * counts.shape[1] // columns
    lengths = np.diff(starts, append=counts.shape[1])
    rate = np.add.reduceat(counts, starts, axis=1) / (lengths * n_steps)
    image = Image.fromarray(np.round(15 * rate**0.7).astype(np.uint8), mode="P")
    image.putpalette(bytes(3 * 16))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, bits=4, transparency=bytes(range(0, 256, 17)))
    return buffer.getvalue()


def flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """Encode float samples [T] as a 16-bit FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def data_url(content_type: str, content: bytes) -> str:
    """Encode a file as a data URL, so that the page needs no second file."""
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


def match_rms(estimate: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Scale an estimate to the RMS of its source, as SI-SDR leaves its level undetermined."""
    level = math.sqrt(float(np.mean(np.square(estimate, dtype=np.float64))))
    target = math.sqrt(float(np.mean(np.square(source, dtype=np.float64))))
    return estimate * np.float32(target / level) if level > 0 else estimate


def voice_scores(
    estimate: np.ndarray, source: np.ndarray, sample_rate: int
) -> list[tuple[str, str]]:
    """Return names and formatted values of SI-SDR, PESQ and STOI of one voice."""
    measures = {
        "si_sdr": lambda: metrics.si_sdr(estimate, source),
        "pesq": lambda: metrics.pesq(estimate, source, sample_rate),
        "stoi": lambda: metrics.stoi(estimate, source, sample_rate),
    }
    return [
        (
            results.METRICS[name].removesuffix(" (dB)"),
            format_score(measure, name) + UNIT.get(name, ""),
        )
        for name, measure in measures.items()
    ]


def format_score(measure: Callable[[], float], name: str) -> str:
    """Format the result of `measure`; a dash stands for an undefined metric."""
    try:
        return results.decimal(measure(), name)
    except metrics.UndefinedMetricError:
        return results.decimal(None, name)


def utterance_gains(rows: Sequence[ScoreRow], choice: Choice) -> dict[str, str]:
    """Return the formatted SI-SDRi of each network on the mixture, from `scores.csv`."""
    values = {
        row["method"]: row["si_sdri"]
        for row in rows
        if (row["utt"], row["condition"]) == (choice.utt, choice.condition)
    }
    return {
        method: results.decimal(float(values[method]), "si_sdri") + UNIT["si_sdri"]
        for method in ("ann", "snn")
        if values.get(method)
    }


def work_rows(costs: dict[str, Cost], gains: dict[str, str]) -> list[dict[str, str]]:
    """Format gain, synaptic operations and multiply-accumulates of each network."""
    return [
        {
            "method": method,
            "gain": gains.get(method, results.decimal(None, "si_sdri")),
            "synops": f"{cost.synops / 1e6:,.0f}" if cost.n_steps else "–",
            "macs": f"{(cost.analog_macs if cost.n_steps else cost.macs) / 1e6:,.0f}",
        }
        for method, cost in costs.items()
    ]
