"""Examples of the listening page: sounds, scores and spike rasters of one mixture each."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import torch

from spikesep.separation.audio.files import read_audio
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.inference.output_level import set_level
from spikesep.separation.model.separator import Separator
from spikesep.separation.pages.rasters import Raster, data_url, rasters
from spikesep.separation.scoring import metrics, results
from spikesep.separation.scoring.conversation import level_below
from spikesep.spiking.cost import Cost, CostMeter

PEAK = 0.9
"""Largest magnitude in an example, relative to full scale; all its sounds share one gain."""
SEXES = {"f": "female", "m": "male", "u": ""}
LONGEST, EXCERPT = 20.0, 6.0
"""Longest mixture in seconds that is shown as a whole, and length of the part of others."""
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
class Example:
    """One mixture.

    Attributes:
        choice: the utterance.
        title: heading.
        seconds: length.
        whole_seconds: length of the mixture of which this is an excerpt, or the same.
        sample_rate: sample rate in Hz.
        mixture: clip of the mixture.
        voices: name of each voice with its clips: reference, ANN and SNN.
        rasters: spike rasters of some layers.
        work: gain and operations of each network, formatted; see `work_rows`.
    """

    choice: Choice
    title: str
    seconds: float
    whole_seconds: float
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
    whole_seconds, part = len(mixed) / sample_rate, excerpt(sources, sample_rate)
    mixed, sources = mixed[part], sources[:, part]
    waves, costs, counts = {"source": sources}, {}, {}
    for name, model in models.items():
        estimates, costs[name], counts[name] = separate_with_counts(model, mixed)
        waves[name] = order_voices(estimates, sources, mixed)
    gain = PEAK / max(1e-6, *(float(np.abs(wave).max()) for wave in (mixed, *waves.values())))

    def audio(wave: np.ndarray) -> str:
        return data_url("audio/flac", flac(gain * wave, sample_rate))

    condition = f"{results.CONDITIONS[choice.condition]} condition"
    return Example(
        choice=choice,
        title=", ".join(filter(None, (condition, GROUP_NAMES[choice.group]))),
        seconds=len(mixed) / sample_rate,
        whole_seconds=whole_seconds,
        sample_rate=sample_rate,
        mixture=_mixture_clip(number, mixed, sources, audio),
        voices=[
            _voice(
                k + 1,
                sex,
                {name: wave[k] for name, wave in waves.items()},
                mixed,
                sample_rate=sample_rate,
                audio=audio,
            )
            for k, sex in enumerate(mixture.sexes)
        ],
        rasters=rasters(counts["snn"], costs["snn"]),
        work=work_rows(costs, utterance_gains(rows, choice)),
    )


def _mixture_clip(
    number: int, mixed: np.ndarray, sources: np.ndarray, audio: Callable[[np.ndarray], str]
) -> Clip:
    """Return the clip of a mixture [T], with its SI-SDR for each source [S, T] with a voice."""
    values = [
        format_score(lambda s=source: metrics.si_sdr(mixed, s), "si_sdr")
        for source in sources
        if source.any()
    ]
    return Clip(
        key="mixture",
        label="Mixture",
        description=f"the mixture, example {number}",
        audio=audio(mixed),
        scores=[("SI-SDR", " / ".join(values) + UNIT["si_sdr"])],
    )


def _voice(
    number: int,
    sex: str,
    waves: dict[str, np.ndarray],
    mixed: np.ndarray,
    *,
    sample_rate: int,
    audio: Callable[[np.ndarray], str],
) -> tuple[str, list[Clip]]:
    """Return the name of a voice and its clips.

    Args:
        number: number of the voice, counted from 1.
        sex: `f`, `m` or `u`.
        waves: its reference, under `source`, and the estimate of each network.
        mixed: the mixture.
        sample_rate: sample rate in Hz.
        audio: encodes samples as a data URL.
    """
    clips = []
    for name, wave in waves.items():
        label, scores = "Reference", []
        if name != "source":
            label = results.METHODS[name]
            scores = voice_scores(wave, waves["source"], mixed, sample_rate)
        elif not wave.any():
            scores = [("silent", "")]
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
    if not waves["source"].any():
        return f"{title}, silent", clips
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


def flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """Encode float samples [T] as a 16-bit FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def excerpt(sources: np.ndarray, sample_rate: int) -> slice:
    """Return the part of a mixture to show, in which the quietest of its voices is loudest.

    Args:
        sources: [S, T]; silent ones do not count.
        sample_rate: sample rate in Hz.
    """
    n = round(EXCERPT * sample_rate)
    if sources.shape[1] <= LONGEST * sample_rate:
        return slice(0, sources.shape[1])
    heard = sources[sources.any(1)]
    energy = np.cumsum(np.pad(np.square(heard, dtype=np.float64), ((0, 0), (1, 0))), axis=1)
    starts = np.arange(0, sources.shape[1] - n + 1, sample_rate)
    quietest = (energy[:, starts + n] - energy[:, starts]).min(0, initial=np.inf)
    start = int(starts[np.argmax(quietest)])
    return slice(start, start + n)


def order_voices(estimates: np.ndarray, sources: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Return estimates [S, T] in the order of the sources, each at the RMS of its source.

    An estimate whose source is silent is at the level of the mixture, as users get it.
    """
    order = list(metrics.best_permutation(estimates, sources))
    as_written = set_level(estimates, mixed, "match-mix")[0]
    return np.stack(
        [
            match_rms(estimates[k], source) if source.any() else as_written[k]
            for k, source in zip(order, sources, strict=True)
        ]
    )


def match_rms(estimate: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Scale an estimate to the RMS of its source, as SI-SDR leaves its level undetermined."""
    level = math.sqrt(float(np.mean(np.square(estimate, dtype=np.float64))))
    target = math.sqrt(float(np.mean(np.square(source, dtype=np.float64))))
    return estimate * np.float32(target / level) if level > 0 else estimate


def voice_scores(
    estimate: np.ndarray, source: np.ndarray, mixed: np.ndarray, sample_rate: int
) -> list[tuple[str, str]]:
    """Return names and formatted values of SI-SDR, PESQ and STOI of one voice.

    Of an estimate whose source is silent, return its level below the mixture.
    """
    if not source.any():
        below = results.decimal(level_below(estimate, mixed), "silence")
        return [("below the mixture", f"{below}{UNIT['si_sdr']}")]
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
