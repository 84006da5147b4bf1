"""Sections of the model card, as lists of Markdown paragraphs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, read_table
from spikesep.separation.experiment_data import hash_of_lists
from spikesep.separation.model.separator import Separator
from spikesep.separation.scoring.metrics import DEFINITION
from spikesep.separation.scoring.results import (
    CONDITIONS,
    METRICS,
    closed_voices_heard,
    decimal,
    energy_of,
    pesq_name,
    pruning_note,
)
from spikesep.spiking.cost.energy_text import energy_section
from spikesep.training.records.history import History
from spikesep.training.renamed import migrated_record

TABLE_METRICS = ("si_sdri", "pesq", "stoi")
SPLITS = {
    "tr": "training",
    "cv": "closed condition, which also chose the best epochs",
    "tt": "open condition",
}
SEXES = {"f": "women", "m": "men", "u": "unknown"}


def overall_means(results: dict[str, Any], condition: str, method: str) -> dict[str, float]:
    """Return the means over all utterances of a condition, for each metric that has one."""
    means = {
        metric: results[condition][method].get(metric, {}).get("overall") for metric in METRICS
    }
    return {metric: mean for metric, mean in means.items() if mean is not None}


def stage_settings(exp: Path, stage: str) -> dict[str, Any]:
    """Return the recorded settings of a stage, `ann` or `snn`; empty if there are none."""
    path = exp / "settings" / f"{stage}.json"
    return migrated_record(read_json(path), path) if path.exists() else {}


def usage_section(address: str, kind: str) -> list[str]:
    """Show how to use the model on the command line and in Python."""
    # Where both networks exist, the spiking one is the default.
    option, argument = (" --network ann", ', "ann"') if kind == "ann" else ("", "")
    return [
        "## Use",
        "With SpikeSep installed:",
        f"    spikesep-infer recording.wav --model {address}{option} --out-dir voices",
        "or in Python:",
        "    import soundfile, spikesep\n\n"
        '    wave, rate = soundfile.read("recording.wav", dtype="float32")\n'
        f'    model = spikesep.load_model("{address}"{argument})\n'
        "    voices = model.separate(wave.T, rate)    # [voices, samples]",
        "Recordings of any sample rate are resampled to the model's rate and back. Loading runs no "
        "code from the model.",
    ]


def scores_section(results: dict[str, Any]) -> list[str]:
    """Tabulate the mean scores of both networks in both conditions."""
    metrics = [metric for metric in TABLE_METRICS if metric in results["closed"]["ann"]]
    methods = {"mixture": "mixture, unprocessed", "ann": "ANN", "snn": "SNN"}
    columns = [(condition, metric) for condition in CONDITIONS for metric in metrics]
    rows = [
        ["", *(f"{CONDITIONS[c].lower()}: {METRICS[m]}" for c, m in columns)],
        ["---", *["---:"] * len(columns)],
    ]
    rows += [
        [label, *(decimal(results[c][method][m]["overall"], m) for c, m in columns)]
        for method, label in methods.items()
    ]
    n = {condition: results["n_utterances"][condition]["overall"] for condition in CONDITIONS}
    voices = (
        "Closed: new mixtures of voices that were heard in training; open: voices never heard"
        if closed_voices_heard(results)
        else "Closed: the validation set; open: the test set; no voice of either was heard in "
        "training"
    )
    return [
        "## How well it separates",
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        f"Means over {n['closed']} and {n['open']} mixtures. {voices}. {DEFINITION}. PESQ is "
        f"{pesq_name(results)}.",
    ]


def cost_section(results: dict[str, Any], table: str) -> list[str]:
    """State the operations per second of audio, and the estimated energy of their arithmetic."""
    cost = results["cost"]
    macs, first_layer, synops = (
        cost[f"{key}_per_second"] for key in ("macs", "analog_macs", "synops")
    )
    rates = cost["firing_rate"] or [0.0]
    return [
        "## What it costs",
        f"For a second of audio, the mask network performs {macs / 1e6:,.1f} million "
        f"multiply-accumulates as an ANN. As an SNN it performs {synops / 1e6:,.1f} million "
        f"synaptic operations, which are additions ({cost['synops_ratio']:.2f} per "
        f"multiply-accumulate of the ANN), and {first_layer / 1e6:,.1f} million "
        f"multiply-accumulates in its first layer.{pruning_note(cost)} The mean firing rate of its "
        f"layers is {sum(rates) / len(rates):.3f} spikes per neuron and time step.",
        *energy_section(*energy_of(results, table)),
    ]


def provenance_section(
    exp: Path,
    kind: str,
    *,
    results: dict[str, Any] | None,
    data: Path | None,
    made: str,
) -> list[str]:
    """State data, training times, versions and settings; empty if nothing is known."""
    names = ("ann", "snn") if kind == "snn" else ("ann",)
    stages = {name: settings for name in names if (settings := stage_settings(exp, name))}
    parts = ["## How it was made", *([made.strip()] if made.strip() else [])]
    if data is not None:
        # The settings of either stage name the data.
        parts.append(_speakers(exp, data, stages.get("ann") or stage_settings(exp, "snn")))
    parts += _times(exp, kind)
    if "from_ann" in stages.get("ann", {}):
        parts.append(
            "Pre-training started from the weights of another separator, whose own training is not "
            "counted here."
        )
    if "from_snn" in stages.get("snn", {}):
        parts.append(
            "Conversion started from the result of an earlier conversion, which is not counted "
            "here."
        )
    if results:
        parts.append(_scoring(results))
    for stage, settings in stages.items():
        title = {"ann": "pre-training", "snn": "conversion"}[stage]
        parts.append(f"Settings of the {title}, seed {settings['seed']}:\n\n{_indented(settings)}")
    return parts if len(parts) > 1 else []


def _scoring(results: dict[str, Any]) -> str:
    machine = results["machine"]
    command = f" with `{results['command']}`" if results["command"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    processor = machine.get("accelerator") or machine["processor"]
    return f"Scored{command}; {versions}; {processor}, {machine['cores']} cores."


def _indented(settings: dict[str, Any]) -> str:
    lines = (f"    {key}: {json.dumps(value)}" for key, value in settings.items() if key != "seed")
    return "\n".join(lines)


def _speakers(exp: Path, data: Path, trained: dict[str, Any]) -> str:
    """Count speakers, recordings and hours of each split in the table of utterances."""
    if trained.get("data", "").partition(" ")[0] != hash_of_lists(data):
        raise SpikeSepError(
            f"{data}: contains other mixtures than those {exp} was trained on; give the latter"
        )
    lines = []
    rows = read_table(data / UTTERANCE_TABLE)
    for split, meaning in SPLITS.items():
        chosen = [row for row in rows if row.split == split]
        sexes = Counter(sex for _, sex in {(row.speaker, row.sex) for row in chosen})
        counts = ", ".join(f"{label}: {sexes[sex]}" for sex, label in SEXES.items() if sexes[sex])
        hours = sum(row.duration for row in chosen) / 3600
        lines.append(
            f"- {meaning}: {sexes.total()} voices ({counts}), {len(chosen):,} recordings, "
            f"{hours:.1f} h"
        )
    return "Recordings of single voices, from which mixtures were made:\n\n" + "\n".join(lines)


def _times(exp: Path, kind: str) -> list[str]:
    """State how long pre-training and conversion took."""
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


def limits_section(model: Separator, results: dict[str, Any] | None) -> list[str]:
    """List what the model is not suited for."""
    config = model.config
    points = [
        f"It always returns {config.n_speakers} voices, however many people speak.",
        f"It separates up to {config.sample_rate / 2:g} Hz. What recordings have above is shared "
        "among the voices by a rule, and contains more of the others.",
        "Distant microphones, reverberation, background noise, music, more voices: unless the data "
        "above include such recordings, it was neither trained for them nor tested on them.",
        "It does not recognize speakers: the order of the voices is arbitrary, and may change "
        "within a long recording.",
    ]
    if results and closed_voices_heard(results):
        closed, unseen = (
            overall_means(results, condition, model.kind).get("si_sdri")
            for condition in ("closed", "open")
        )
        if closed is not None and unseen is not None and unseen < closed:
            points.insert(
                0,
                f"Unknown speakers: it gains {decimal(unseen, 'si_sdri')} dB on voices that it "
                f"never heard, {decimal(closed, 'si_sdri')} dB on those it was trained on.",
            )
    return ["## What it is not good for", "\n".join(f"- {point}" for point in points)]
