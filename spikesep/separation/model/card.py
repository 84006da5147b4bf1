"""The model card of a separator, in the form of the Hugging Face hub: YAML, then Markdown.

Everything on it comes from the experiment; what is not recorded there is left out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spikesep.files import read_json
from spikesep.separation.model.card_sections import (
    cost_section,
    limits_section,
    overall_means,
    provenance_section,
    scores_section,
    stage_settings,
    usage_section,
)
from spikesep.separation.model.latency import delays_of
from spikesep.separation.model.separator import Separator
from spikesep.separation.scoring.inputs import check_scored
from spikesep.separation.scoring.results import CONDITIONS, METRICS

TAGS = ["audio-source-separation", "speech-separation", "spiking-neural-network", "asteroid"]


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
    energy_table: str = "45nm",
) -> str:
    """Write the card of `exp/ann` or `exp/snn`.

    Args:
        exp: folder of the experiment.
        model: the separator loaded from there.
        name: title of the card.
        address: what users pass as `--model`.
        data: folder of the training data, if it still exists: its table of utterances is counted.
        license: license of the weights, as the hub names it.
        languages: languages spoken in training, as ISO 639-1 codes.
        made: Markdown by the author on the data and commands the model was made with.
        energy_table: energies per operation of the estimates, a key of `ENERGY_TABLES`.

    Raises:
        SpikeSepError: `results.json` or `data` belongs to another model.
    """
    results = _read_results(exp, model.kind)
    parts = [
        f"# {name}",
        _description(exp, model),
        *usage_section(address, model.kind),
        *(scores_section(results) if results else []),
        *(cost_section(results, energy_table) if results else []),
        *provenance_section(exp, model.kind, results=results, data=data, made=made),
        *limits_section(model, results),
    ]
    head = _front_matter(model, name, results, license, languages)
    return f"---\n{head}\n---\n\n" + "\n\n".join(parts) + "\n"


def _read_results(exp: Path, kind: str) -> dict[str, Any] | None:
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
    """Return the YAML that the hub reads, with the scores as evaluation results."""
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
        for condition in (CONDITIONS if results else ())
        for metric, value in overall_means(results or {}, condition, model.kind).items()
    ]
    tags = [tag for tag in TAGS if model.kind == "snn" or not tag.startswith("spiking")]
    return ModelCardData(
        language=list(languages) or None,
        license=license,
        library_name="spikesep",
        pipeline_tag="audio-to-audio",
        tags=tags,
        metrics=sorted({result.metric_type for result in measured}) or None,
        model_name=name,
        eval_results=measured or None,
    ).to_yaml()


def _description(exp: Path, model: Separator) -> str:
    """Describe the task and the architecture in a paragraph."""
    config, network = model.config, model.network
    text = (
        f"Separates the voices of {config.n_speakers} simultaneous speakers, in one channel at "
        f"{config.sample_rate} Hz. A Conv-TasNet-like separator with {config.n_filters} filters, "
        f"whose mask network has {len(network)} layers of {config.n_channels} channels"
    )
    if model.kind == "ann":
        return f"{text}: analog, not converted to spikes.{_latency(model)}"
    weights = "float32 weights"
    if network.is_fixed_point:
        bits = stage_settings(exp, "snn").get("convert", {}).get("weight_bits")
        weights = f"{bits}-bit integer weights" if bits else "integer weights"
    fan_in = network.limits.fan_in
    is_limited = 0 < fan_in < max(part.synapse.weight[0].numel() for part in network.parts)
    limit = f", at most {fan_in} inputs per neuron" if is_limited else ""
    text += (
        f" of integrate-and-fire neurons: {network[0].coding.n_steps} time steps, {weights}{limit}."
    )
    coding = network[0].coding
    if not coding.conserves_charge:
        text += f" Neurons keep {coding.beta:g} of their potential in each step (beta)"
        text += " and a spike sets it to zero." if coding.reset == "zero" else "."
    if coding.deferred:
        text += (
            " Neurons are deferred: each waits for the whole window of its input and fires in the "
            "next one. This makes the conversion exact except for rounding, and adds a latency of "
            "one window per layer on hardware that takes the time of a frame for a window; in "
            "software a window takes no time of the signal."
        )
    return text + _latency(model)


def _latency(model: Separator) -> str:
    """State the latency of a live stream."""
    kind = "causal" if model.config.causal else "not causal"
    look_ahead = 1e3 * model.look_ahead / model.sample_rate
    return (
        f" The network is {kind}: an estimate depends on {look_ahead:.1f} ms of later sound. The "
        f"algorithmic latency of a live stream is {delays_of(model)}."
    )
