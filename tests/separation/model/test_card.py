import json
import re
import shutil

import pytest
import yaml
from helpers.separators import to_spiking

from spikesep.errors import SpikeSepError
from spikesep.files import read_json, write_json
from spikesep.separation.data.corpora.table import Utterance, write_table
from spikesep.separation.experiment_data import hash_of_lists
from spikesep.separation.model.card import model_card
from spikesep.separation.model.separator import load_separator
from spikesep.separation.scoring.inputs import hash_of_model
from spikesep.spiking.cost import ENERGY_TABLES


def scores(gain):
    return {
        "si_sdr": {"overall": gain + 0.01}, "si_sdri": {"overall": gain},
        "pesq": {"overall": 1.4 + gain / 10}, "stoi": {"overall": 0.7 + gain / 100},
    }  # fmt: skip


@pytest.fixture
def scored(experiment):
    """Return an experiment with results in which all figures differ."""
    exp, data = experiment.exp, experiment.data
    (data / "tr").mkdir()
    shutil.copy(data / "cv" / "utt2spk", data / "tr")
    results = {
        "closed": {"mixture": scores(0.0), "ann": scores(7.31), "snn": scores(6.92)},
        "open": {"mixture": scores(0.0), "ann": scores(2.53), "snn": scores(2.14)},
        "cost": {
            "macs_per_second": 500e6, "analog_macs_per_second": 10e6, "synops_per_second": 250e6,
            "synops_ratio": 0.5, "firing_rate": [0.1, 0.2, 0.3], "n_steps": 4,
        },
        "n_utterances": {"closed": {"overall": 31}, "open": {"overall": 37}},
        "seed": 5, "command": "spikesep-score --exp exp/x", "closed_voices_heard": True,
        "model_hash": {name: hash_of_model(exp / name) for name in ("ann", "snn")},
        "versions": {"python": "3.11.1", "torch": "2.11.0", "spikesep": "0.1.0"},
        "machine": {"processor": "Abacus 9", "cores": 2},
    }  # fmt: skip
    write_json(exp / "results.json", results)
    trained = {
        "seed": 5,
        "data": f"{hash_of_lists(data)} more",
        "snr_db": [0.0, 5.0],
        "ann": {"epochs": 2},
    }
    write_json(exp / "settings" / "ann.json", trained)
    write_json(
        exp / "settings" / "snn.json", {"seed": 5, "convert": {"n_steps": 4, "weight_bits": 8}}
    )
    voices = [("anna", "f", "tr"), ("ben", "m", "tr"), ("anna", "f", "cv"), ("carl", "u", "tt")]
    rows = [
        Utterance(f"{who}-{split}{k}", data / f"{who}{split}{k}.wav", who, sex, split, 1800.0)
        for who, sex, split in voices
        for k in range(3)
    ]
    write_table(data / "local" / "utterances.tsv", rows)
    return experiment


def card_of(experiment, network="snn", **about):
    model = load_separator(experiment.exp / network)
    return model_card(experiment.exp, model, "Duo", "org/duo", **about)


def front_matter(card):
    _, head, text = card.split("---\n", 2)
    return yaml.safe_load(head), text


@pytest.mark.parametrize("network", ["ann", "snn"])
def test_front_matter_has_the_fields_of_the_hub(scored, network):
    head, _ = front_matter(card_of(scored, network, license="mit", languages=["en", "ru"]))
    assert (head["license"], head["language"], head["library_name"]) == (
        "mit",
        ["en", "ru"],
        "spikesep",
    )
    assert {"audio-source-separation", "asteroid"} <= set(head["tags"])
    assert ("spiking-neural-network" in head["tags"]) == (network == "snn")
    (index,) = head["model-index"]
    assert index["name"] == "Duo"
    found = {
        (result["dataset"]["config"], metric["type"]): metric["value"]
        for result in index["results"]
        for metric in result["metrics"]
    }
    measured = read_json(scored.exp / "results.json")
    assert found == {
        (condition, metric.replace("_", "-")): round(value["overall"], 3)
        for condition in ("closed", "open")
        for metric, value in measured[condition][network].items()
    }


def test_huggingface_hub_parses_the_card(scored):
    from huggingface_hub import ModelCard

    card = ModelCard(card_of(scored, license="mit"))
    assert card.data.model_name == "Duo"
    assert {result.metric_type for result in card.data.eval_results} == {
        "si-sdr",
        "si-sdri",
        "pesq",
        "stoi",
    }


def test_card_states_the_scores_of_both_networks(scored):
    card = card_of(scored)
    assert "| ANN | 7.3 | 2.13 | 0.773 | 2.5 | 1.65 | 0.725 |" in card
    assert "| SNN | 6.9 | 2.09 | 0.769 | 2.1 | 1.61 | 0.721 |" in card
    assert "Means over 31 and 37 mixtures. Closed: new mixtures of voices that were heard" in card
    assert (
        "it gains 2.1 dB on voices that it never heard, 6.9 dB on those it was trained on" in card
    )


def test_card_leads_with_the_energy_of_int8_and_names_the_source(scored):
    card = card_of(scored)
    # 250 M * 0.1 pJ + 10 M * 0.3 pJ against 500 M * 0.3 pJ; 500 M * 4.6 pJ
    assert (
        "both with 8-bit weights and 32-bit sums: 0.0280 mJ for the SNN, 0.150 mJ for the ANN, "
        "5.4 times as much as the SNN. The ratio to the ANN in float32, 82, says more" in card
    )
    assert "| ANN, float32 | 500.0 | 500.0 | 2.30 | – |" in card
    assert ENERGY_TABLES["45nm"].source in card
    assert "Estimated, not measured" in card
    assert "no memory" in card
    other = card_of(scored, energy_table="7nm")
    assert "0.00850 mJ for the SNN" in other
    assert ENERGY_TABLES["7nm"].source in other


def test_card_states_data_times_and_settings(scored):
    card = card_of(scored, data=scored.data)
    assert "- training: 2 voices (women: 1, men: 1), 6 recordings, 3.0 h" in card
    assert "- open condition: 1 voices (unknown: 1), 3 recordings, 1.5 h" in card
    assert (
        "Pre-training took 0 minutes (2 epochs). Conversion took 0 minutes (1 epochs of training "
        "in 3 stages)." in card
    )
    assert (
        "Scored with `spikesep-score --exp exp/x`; python 3.11.1, torch 2.11.0, spikesep 0.1.0; "
        "Abacus 9, 2 cores." in card
    )
    assert 'convert: {"n_steps": 4, "weight_bits": 8}' in card
    assert "seed 5" in card
    assert "in one channel at 8000 Hz" in card
    assert "4 time steps, float32 weights" in card


def test_unknown_facts_are_left_out(experiment):
    (experiment.exp / "history.csv").unlink()
    head, text = front_matter(card_of(experiment))
    assert not {"license", "language", "metrics", "model-index"} & head.keys()
    assert not re.search(
        r"SI-SDR|mJ|SynOps|synaptic operations|minutes|seed|voices \(|None|nan|Unknown speakers",
        text,
    )
    assert re.findall(r"^## (.*)$", text, re.M) == ["Use", "What it is not good for"]


def test_metrics_without_means_are_left_out(scored):
    results = read_json(scored.exp / "results.json")
    for condition in ("closed", "open"):
        for method in ("mixture", "ann", "snn"):
            del results[condition][method]["stoi"]
            results[condition][method]["pesq"] = {"overall": None}
    write_json(scored.exp / "results.json", results)
    head, text = front_matter(card_of(scored))
    assert head["metrics"] == ["si-sdr", "si-sdri"]
    assert "STOI" not in text
    assert "| SNN | 6.9 | – | 2.1 | – |" in text


def test_card_of_an_analog_network_omits_conversion(scored):
    card = card_of(scored, "ann")
    assert "Conversion took" not in card
    assert "Settings of the conversion" not in card
    assert "time steps, " not in card
    assert "it gains 2.5 dB" in card


def test_card_states_that_training_started_from_another_model(scored):
    assert "another separator" not in card_of(scored)
    path = scored.exp / "settings" / "ann.json"
    write_json(path, read_json(path) | {"from_ann": "0123456789abcdef"})
    assert "started from the weights of another separator" in card_of(scored)


def test_card_states_that_conversion_started_from_another(scored):
    assert "an earlier conversion" not in card_of(scored)
    path = scored.exp / "settings" / "snn.json"
    write_json(path, read_json(path) | {"from_snn": "0123456789abcdef"})
    assert "started from the result of an earlier conversion" in card_of(scored)
    assert "an earlier conversion" not in card_of(scored, "ann")


def test_scores_of_another_model_are_rejected(scored):
    config = scored.exp / "snn" / "config.json"
    config.write_text(json.dumps(read_json(config)))  # the same settings in other bytes
    with pytest.raises(SpikeSepError, match="was scored with another"):
        card_of(scored)
    assert "7.3" in card_of(scored, "ann")


def test_data_may_be_recorded_by_the_conversion_alone(scored):
    ann = scored.exp / "settings" / "ann.json"
    write_json(ann.with_name("snn.json"), read_json(ann))
    ann.unlink()
    assert "Recordings of single voices" in card_of(scored, data=scored.data)


def test_other_data_are_rejected(scored):
    (scored.data / "tr" / "utt2spk").write_text("x y\n")
    with pytest.raises(SpikeSepError, match="contains other mixtures than those"):
        card_of(scored, data=scored.data)


def test_card_states_the_latency_of_deferred_neurons(scored):
    model = load_separator(scored.exp / "ann")
    to_spiking(model, n_steps=4, threshold=0.5, deferred=True)
    card = model_card(scored.exp, model, "Duo", "org/duo")
    assert "adds a latency of one window per layer" in card
    assert "deferred" not in card_of(scored)
