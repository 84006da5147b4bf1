"""The model card: what a separator is, how it was made, what was measured of it and what it is no good for, in the form
of the Hugging Face hub (YAML, then Markdown). All of it comes from the experiment; what is not known there is left out.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, read_table
from spikesep.separation.experiment import hash_of_lists
from spikesep.separation.model.separator import Separator
from spikesep.separation.scoring.metrics import DEFINITION
from spikesep.separation.scoring.results import (
    CONDITIONS,
    METRICS,
    closed_voices_heard,
    decimal,
    fewer_connections,
)
from spikesep.separation.scoring.score import check_scored
from spikesep.training.records.history import History

TAGS = ["audio-source-separation", "speech-separation", "spiking-neural-network", "asteroid"]
SHOWN = ("si_sdri", "pesq", "stoi")
SPLITS = {
    "tr": "training",
    "cv": "closed condition, which also chose the best epochs",
    "tt": "open condition",
}
SEXES = {"f": "women", "m": "men", "u": "unknown"}


@dataclass(frozen=True)
class Energy:
    """Joules an operation, and where the figures are from."""

    mac: float
    addition: float
    source: str


HOROWITZ = Energy(
    mac=4.6e-12,
    addition=0.9e-12,
    source="4.6 pJ a 32-bit floating-point multiply-accumulate, 0.9 pJ a 32-bit floating-point addition, 45 nm "
    "(M. Horowitz, Computing's energy problem, ISSCC 2014)",
)


def model_card(
    exp: Path,
    model: Separator,
    name: str,
    address: str,
    *,
    data: Path | None = None,
    license: str | None = None,
    languages: Sequence[str] = (),
    made: str = "",
    energy: Energy = HOROWITZ,
) -> str:
    """The card of `exp/ann` or `exp/snn`.

    Args:
        exp: the folder of the experiment.
        model: which is loaded from there.
        name: title of the card.
        address: what a user gives as `--model`.
        data: the folder of data that it was trained on, where it is still there: its table of utterances is counted.
        license: of the weights, as the hub names licenses; who publishes a model must know it.
        languages: spoken in training, as ISO 639-1 codes.
        made: of what and by which commands, Markdown, in the words of who made it.
        energy: of an operation, for the estimate.

    Raises:
        SpikeSepError: `results.json` or `data` belongs to another model.
    """
    results = _results(exp, model.kind)
    parts = [
        f"# {name}",
        _about(exp, model),
        *_usage(address, model.kind),
        *(_scores(results) if results else []),
        *(_cost(results["cost"], energy) if results else []),
        *_making(exp, model.kind, results, data, made),
        *_limits(model, results),
    ]
    return (
        f"---\n{_front_matter(model, name, results, license, languages)}\n---\n\n"
        + "\n\n".join(parts)
        + "\n"
    )


def _results(exp: Path, kind: str) -> dict[str, Any] | None:
    if not (exp / "results.json").exists():
        return None
    results = read_json(exp / "results.json")
    check_scored(exp, results, kind)
    return results


def _front_matter(
    model: Separator,
    name: str,
    results: dict[str, Any] | None,
    license: str | None,
    languages: Sequence[str],
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    measured = [
        EvalResult(
            task_type="audio-to-audio",
            task_name="Speech separation",
            dataset_type="mixtures",
            dataset_name=f"{CONDITIONS[condition]} condition",
            dataset_config=condition,
            metric_type=metric.replace("_", "-"),
            metric_name=METRICS[metric],
            metric_value=round(value, 3),
        )
        for condition in CONDITIONS
        for metric, value in (_overall(results, condition, model.kind).items() if results else ())
    ]
    return ModelCardData(
        language=list(languages) or None,
        license=license,
        library_name="spikesep",
        pipeline_tag="audio-to-audio",
        tags=TAGS
        if model.kind == "snn"
        else [tag for tag in TAGS if not tag.startswith("spiking")],
        metrics=sorted({result.metric_type for result in measured}) or None,
        model_name=name,
        eval_results=measured or None,
    ).to_yaml()


def _overall(results: dict[str, Any], condition: str, method: str) -> dict[str, float]:
    """Means over all utterances of a condition, those that there are."""
    means = {
        metric: results[condition][method].get(metric, {}).get("overall") for metric in METRICS
    }
    return {metric: mean for metric, mean in means.items() if mean is not None}


def _about(exp: Path, model: Separator) -> str:
    config, network = model.config, model.network
    text = (
        f"Separates the voices of {config.n_speakers} people who speak at once, in one channel at "
    )
    text += f"{config.sample_rate} Hz. A Conv-TasNet-like separator of {config.n_filters} filters, whose mask network has "
    text += f"{len(network)} layers of {config.n_channels} channels"
    if model.kind == "ann":
        return f"{text}: analog, not converted to spikes."
    bits = (
        _stage_settings(exp, "snn").get("ptl", {}).get("weight_bits")
        if network.is_fixed_point
        else None
    )
    weights = (
        f"integer weights{f' of {bits} bits' if bits else ''}"
        if network.is_fixed_point
        else "float32 weights"
    )
    fan_in, most = (
        network.limits.fan_in,
        max(part.synapse.weight[0].numel() for part in network.parts),
    )
    fan_in = f", {fan_in} inputs a neuron at most" if 0 < fan_in < most else ""
    text += (
        f" of integrate-and-fire neurons: {network.coding.n_steps} time steps, {weights}{fan_in}."
    )
    if network.coding.deferred:
        text += (
            " Neurons are deferred: each waits for the whole window of its input and fires in the next. That makes "
            "the conversion exact but for rounding, and costs a window of latency a layer."
        )
    return text


def _usage(address: str, kind: str) -> list[str]:
    option, argument = (
        (" --network ann", ', "ann"') if kind == "ann" else ("", "")
    )  # of two, the other is the default
    return [
        "## Use",
        "With SpikeSep installed:",
        f"    spikesep-infer recording.wav --model {address}{option} --out-dir voices",
        "or in Python:",
        "    import soundfile, spikesep\n\n"
        '    wave, rate = soundfile.read("recording.wav", dtype="float32")\n'
        f'    voices = spikesep.load_model("{address}"{argument}).separate(wave.T, rate)    # [voices, samples]',
        "Any sample rate is brought to the model's and back. Loading runs no code from the model.",
    ]


def _scores(results: dict[str, Any]) -> list[str]:
    shown = [metric for metric in SHOWN if metric in results["closed"]["ann"]]
    rows = [
        ["", *(f"{CONDITIONS[c].lower()}: {METRICS[m]}" for c in CONDITIONS for m in shown)],
        ["---", *["---:"] * (len(CONDITIONS) * len(shown))],
        *(
            [
                label,
                *(decimal(results[c][method][m]["overall"], m) for c in CONDITIONS for m in shown),
            ]
            for method, label in {
                "mixture": "mixture, unprocessed",
                "ann": "ANN",
                "snn": "SNN",
            }.items()
        ),
    ]
    n = {condition: results["n_utterances"][condition]["overall"] for condition in CONDITIONS}
    voices = "Closed: new mixtures of voices that were heard in training; open: voices never heard"
    if not closed_voices_heard(results):
        voices = "Closed: the validation set; open: the test set; no voice of either was heard in training"
    return [
        "## How well it separates",
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        f"Means over {n['closed']} and {n['open']} mixtures. {voices}. {DEFINITION}. PESQ is narrow-band P.862.1.",
    ]


def _cost(cost: dict[str, Any], energy: Energy) -> list[str]:
    macs, left, synops = (cost[f"{key}_per_second"] for key in ("macs", "analog_macs", "synops"))
    rates = cost["firing_rate"] or [0.0]
    analog, spiking = macs * energy.mac * 1e3, (synops * energy.addition + left * energy.mac) * 1e3
    return [
        "## What it costs",
        f"For a second of audio, the mask network does {macs / 1e6:,.1f} million multiply-accumulates as an ANN. As an "
        f"SNN it does {synops / 1e6:,.1f} million synaptic operations, which are additions, {cost['synops_ratio']:.2f} "
        f"for each multiply-accumulate of the ANN, and {left / 1e6:,.1f} million multiply-accumulates in its first "
        f"layer.{fewer_connections(cost)} A neuron fires {sum(rates) / len(rates):.3f} spikes a time step, mean of the "
        "layers.",
        f"An estimate of the energy of this arithmetic alone: {analog:.2f} mJ for the ANN, {spiking:.2f} mJ for the "
        f"SNN, at {energy.source}. It was not measured; moving data to and fro is not in it, nor are the encoder and "
        "decoder, which both have.",
    ]


def _making(
    exp: Path, kind: str, results: dict[str, Any] | None, data: Path | None, made: str
) -> list[str]:
    stages = {
        stage: _stage_settings(exp, stage) for stage in ("ann", "snn")[: 2 if kind == "snn" else 1]
    }
    stages = {stage: settings for stage, settings in stages.items() if settings}
    parts = ["## How it was made", *([made.strip()] if made.strip() else [])]
    if data is not None:
        parts.append(
            _voices(exp, data, stages.get("ann") or _stage_settings(exp, "snn"))
        )  # either names the data
    parts += _times(exp, kind)
    if "from_ann" in stages.get("ann", {}):
        parts.append(
            "Pre-training began with the weights of another separator, whose own training is not counted here."
        )
    if "from_snn" in stages.get("snn", {}):
        parts.append(
            "Conversion began with what an earlier one had made, which is not counted here."
        )
    if results:
        machine, command = (
            results["machine"],
            f" with `{results['command']}`" if results["command"] else "",
        )
        versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        processor = machine.get("accelerator") or machine["processor"]
        parts.append(f"Scored{command}; {versions}; {processor}, {machine['cores']} cores.")
    for stage, settings in stages.items():
        title = {"ann": "pre-training", "snn": "conversion"}[stage]
        parts.append(f"Settings of the {title}, seed {settings['seed']}:\n\n{_indented(settings)}")
    return parts if len(parts) > 1 else []


def _indented(settings: dict[str, Any]) -> str:
    lines = (f"    {key}: {json.dumps(value)}" for key, value in settings.items() if key != "seed")
    return "\n".join(lines)


def _stage_settings(exp: Path, stage: str) -> dict[str, Any]:
    path = exp / "settings" / f"{stage}.json"
    return read_json(path) if path.exists() else {}


def _voices(exp: Path, data: Path, trained: dict[str, Any]) -> str:
    """The table of utterances, counted."""
    if trained.get("data", "").partition(" ")[0] != hash_of_lists(data):
        raise SpikeSepError(
            f"{data}: holds other mixtures than those that {exp} was trained on; give theirs"
        )
    lines = []
    rows = read_table(data / UTTERANCE_TABLE)
    for split, meaning in SPLITS.items():
        chosen = [row for row in rows if row.split == split]
        sexes = Counter(sex for _, sex in {(row.speaker, row.sex) for row in chosen})
        who = ", ".join(f"{label}: {sexes[sex]}" for sex, label in SEXES.items() if sexes[sex])
        hours = sum(row.duration for row in chosen) / 3600
        lines.append(
            f"- {meaning}: {sexes.total()} voices ({who}), {len(chosen):,} recordings, {hours:.1f} h"
        )
    return "Recordings of single voices, from which mixtures were made:\n\n" + "\n".join(lines)


def _times(exp: Path, kind: str) -> list[str]:
    rows = History(exp / "history.csv").read()
    groups = {
        "Pre-training took {:,.0f} minutes ({} epochs).": [row for row in rows if row.stage == 0],
        "Conversion took {:,.0f} minutes ({} epochs of training in {} stages).": [
            row for row in rows if row.stage > 0
        ],
    }
    if kind == "ann":
        groups.popitem()
    texts = [
        text.format(
            sum(row.seconds for row in chosen) / 60,
            sum(row.epoch > 0 for row in chosen),
            len({row.stage for row in chosen}),
        )
        for text, chosen in groups.items()
        if chosen
    ]
    return [" ".join(texts)] if texts else []


def _limits(model: Separator, results: dict[str, Any] | None) -> list[str]:
    config = model.config
    points = [
        f"It always gives {config.n_speakers} voices, however many people speak.",
        f"Voices come out with nothing above {config.sample_rate / 2:g} Hz.",
        "Far microphones, reverberation, background noise, music, more voices: unless the data above say that such "
        "recordings were among them, it was neither trained for them nor tried on them.",
        "It does not know who is who: the order of the voices is arbitrary, and may change within a long recording.",
    ]
    if results and closed_voices_heard(results):
        gains = {c: _overall(results, c, model.kind).get("si_sdri") for c in CONDITIONS}
        if None not in gains.values() and gains["open"] < gains["closed"]:
            points.insert(
                0,
                f"Strangers: it gains {decimal(gains['open'], 'si_sdri')} dB on voices that it never heard, "
                f"{decimal(gains['closed'], 'si_sdri')} dB on those that it was trained on.",
            )
    return ["## What it is not good for", "\n".join(f"- {point}" for point in points)]
