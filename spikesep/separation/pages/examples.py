"""Examples of the listening page: sounds, scores and spike rasters of one mixture each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.model.separator import Separator
from spikesep.separation.pages.lanes import Lane
from spikesep.separation.pages.rasters import Raster, rasters
from spikesep.separation.pages.sounds import Conversation, read_sounds
from spikesep.separation.scoring import metrics, results
from spikesep.separation.scoring.conversation import level_below
from spikesep.separation.scoring.voices import TRACKS
from spikesep.spiking.cost import Cost

SEXES = {"f": "female", "m": "male", "u": ""}
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
        audio: FLAC or MP3 file as a data URL.
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
        lanes: turns of each voice, if it is a conversation.
        follows: whether the voices follow their speakers.
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
    lanes: tuple[Lane, ...] = ()
    follows: bool = False


def make_example(
    number: int,
    choice: Choice,
    mixture: Mixture,
    models: dict[str, Separator],
    rows: Sequence[ScoreRow],
    conversation: Conversation | None = None,
) -> Example:
    """Separate one mixture with each model, and collect its sounds, scores, rasters and costs."""
    sounds = read_sounds(mixture, models, conversation)
    mixed, sample_rate, audio = sounds.mixture, sounds.sample_rate, sounds.encoder()
    condition = f"{results.CONDITIONS[choice.condition]} condition"
    return Example(
        choice=choice,
        title=", ".join(filter(None, (condition, GROUP_NAMES[choice.group]))),
        seconds=len(mixed) / sample_rate,
        whole_seconds=sounds.whole_seconds,
        sample_rate=sample_rate,
        mixture=_mixture_clip(number, mixed, sounds.waves["source"], audio),
        voices=[
            _voice(
                k + 1,
                sex,
                {name: wave[k] for name, wave in sounds.waves.items()},
                mixed,
                sample_rate=sample_rate,
                audio=audio,
            )
            for k, sex in enumerate(mixture.sexes)
        ],
        rasters=rasters(sounds.counts, sounds.costs["snn"]),
        work=work_rows(sounds.costs, utterance_gains(rows, choice, sounds.follows)),
        lanes=sounds.lanes,
        follows=sounds.follows,
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


def utterance_gains(
    rows: Sequence[ScoreRow], choice: Choice, of_tracks: bool = False
) -> dict[str, str]:
    """Return the formatted SI-SDRi of each network on the mixture, from `scores.csv`.

    `of_tracks` asks for that of the voices that follow their speakers.
    """
    ending = TRACKS if of_tracks else ""
    values = {
        row["method"]: row["si_sdri"]
        for row in rows
        if (row["utt"], row["condition"]) == (choice.utt, choice.condition)
    }
    return {
        method: results.decimal(float(values[method + ending]), "si_sdri") + UNIT["si_sdri"]
        for method in ("ann", "snn")
        if values.get(method + ending)
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
