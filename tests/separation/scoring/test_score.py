import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from spikesep.errors import SpikeSepError
from spikesep.files import read_json
from spikesep.separation.audio.files import read_audio, write_wav
from spikesep.separation.config import ScoringConfig
from spikesep.separation.data.kaldi import read_data_dir
from spikesep.separation.model.separator import load_separator
from spikesep.separation.scoring import metrics, utterance
from spikesep.separation.scoring.inputs import is_scored
from spikesep.separation.scoring.score import Shard, score_experiment

QUICK = ScoringConfig(metrics=["stoi"])


def score(experiment, config=QUICK, **options):
    return score_experiment(experiment.data, experiment.exp, config, n_jobs=1, seed=7, **options)


def test_results_have_the_documented_keys(experiment):
    found = score(experiment, ScoringConfig(), command="spikesep-score --exp exp")
    assert read_json(experiment.exp / "results.json") == json.loads(json.dumps(found))
    for condition in ("closed", "open"):
        assert set(found[condition]) == {"mixture", "ann", "snn"}
        for method in found[condition].values():
            assert set(method) == {"si_sdr", "si_sdri", "sdr", "pesq", "stoi"}
            assert all(set(means) == {"diff", "same", "overall"} for means in method.values())
        assert found[condition]["mixture"]["si_sdri"]["overall"] == pytest.approx(0)
    assert set(found["cost"]) == {
        "macs_per_second", "synops_per_second", "analog_macs_per_second", "synops_ratio",
        "firing_rate", "n_steps", "per_second",
    }  # fmt: skip
    assert found["cost"]["n_steps"] == 4
    assert len(found["cost"]["firing_rate"]) == 3
    assert found["seed"] == 7
    assert set(found["versions"]) == {"python", "torch", "spikesep", "commit"}
    assert set(found["machine"]) == {"processor", "cores"}
    assert "pesq" in found["refused"]
    assert found["config"]["scoring"]["metrics"] == ["sdr", "pesq", "stoi"]


def test_means_and_rows_equal_scores_of_the_models(experiment):
    found = score(experiment)
    with (experiment.exp / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 3
    chosen = [
        row
        for row in rows
        if (row["condition"], row["method"], row["sexes"]) == ("open", "snn", "f-m")
    ]
    assert len(chosen) == 2
    mean = np.mean([float(row["si_sdr"]) for row in chosen])
    assert found["open"]["snn"]["si_sdr"]["diff"] == pytest.approx(mean, abs=1e-3)

    mixture = next(m for m in read_data_dir(experiment.data / "tt") if m.utt_id == chosen[0]["utt"])
    sources = np.stack([read_audio(path) for path in mixture.sources])
    mixed = read_audio(mixture.mixture)
    model = load_separator(experiment.exp / "snn")
    estimates = model.separate(torch.from_numpy(mixed)).numpy()
    expected = metrics.score_utterance(estimates, sources, mixed, 8000, QUICK.metrics)
    assert float(chosen[0]["si_sdr"]) == pytest.approx(expected.si_sdr, abs=1e-3)


def test_killed_run_resumes_after_an_interrupted_line(experiment, monkeypatch):
    complete = score(experiment)
    journal = experiment.exp / "scores.partial.jsonl"
    assert not journal.exists()
    scored = []
    original = utterance.score_mixture

    def interrupt_at_the_fourth(job, *rest):
        scored.append(job.key)
        if len(scored) == 4:
            raise KeyboardInterrupt
        return original(job, *rest)

    monkeypatch.setattr(utterance, "score_mixture", interrupt_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        score(experiment)
    text = journal.read_text()
    assert len(text.splitlines()) == 4  # the key and three records
    journal.write_text(text[:-20])
    resumed = score(experiment)
    assert resumed == complete
    assert len(scored) == 4 + 6  # all eight but two complete ones


def test_shards_yield_the_same_scores(experiment):
    alone = score(experiment)
    table = (experiment.exp / "scores.csv").read_bytes()
    (experiment.exp / "results.json").unlink()
    for number in (1, 3):  # the last run scores the second
        assert score(experiment, shard=Shard.parse(f"{number}/3")) is None
    journals = sorted(experiment.exp.glob("scores.partial*"))
    assert [path.name for path in journals] == [
        "scores.partial.1of3.jsonl",
        "scores.partial.3of3.jsonl",
    ]
    assert [len(path.read_text().splitlines()) - 1 for path in journals] == [3, 2]  # of eight
    assert not (experiment.exp / "results.json").exists()
    assert score(experiment) == alone
    assert (experiment.exp / "scores.csv").read_bytes() == table
    assert not list(experiment.exp.glob("scores.partial*"))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_invalid_shards_are_rejected(text):
    with pytest.raises(SpikeSepError, match="as 2/8"):
        Shard.parse(text)


@pytest.mark.parametrize("damage", ["rate", "cut off", "missing", "not audio"])
def test_bad_files_are_named(experiment, damage):
    path = read_data_dir(experiment.data / "tt")[2].sources[1]
    if damage == "rate":
        write_wav(path, read_audio(path), 16000)
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_text("hello")
    with pytest.raises(SpikeSepError, match=path.name):
        score(experiment)
    assert not (experiment.exp / "results.json").exists()


def test_journal_of_other_models_is_ignored(experiment):
    journal = experiment.exp / "scores.partial.jsonl"
    journal.write_text(
        json.dumps({"key": "of other models"}) + "\n" + json.dumps({"condition": "closed"}) + "\n"
    )
    assert score(experiment)["n_utterances"]["closed"]["overall"] == 4


def test_scores_are_outdated_when_models_data_or_metrics_change(experiment):
    data, exp = experiment.data, experiment.exp
    assert not is_scored(data, exp, QUICK)
    score(experiment)
    assert is_scored(data, exp, QUICK)
    assert not is_scored(data, exp, ScoringConfig(metrics=["sdr"]))
    mixture = read_data_dir(data / "cv")[0].mixture
    before = mixture.read_bytes()
    write_wav(mixture, 0.5 * read_audio(mixture), 8000)
    assert not is_scored(data, exp, QUICK)
    mixture.write_bytes(before)
    assert is_scored(data, exp, QUICK)
    weights = exp / "snn" / "model.safetensors"
    weights.write_bytes((exp / "ann" / "model.safetensors").read_bytes())
    assert not is_scored(data, exp, QUICK)


def test_undefined_pesq_is_excluded_for_every_method(experiment, monkeypatch):
    bad = read_data_dir(experiment.data / "cv")[0]
    true_pesq = metrics._pesq
    reference = read_audio(bad.sources[0]).astype(np.float64)

    def undefined_for_one(rate, source, estimate, mode):
        if np.array_equal(source, reference):
            raise metrics.PesqError(b"No utterances detected")
        return true_pesq(rate, source, estimate, mode)

    monkeypatch.setattr(metrics, "_pesq", undefined_for_one)
    found = score(experiment, ScoringConfig(metrics=["pesq"]))
    assert found["refused"]["pesq"] == [bad.utt_id]
    with (experiment.exp / "scores.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["condition"] == "closed"]
    refused = [row for row in rows if row["utt"] == bad.utt_id]
    assert all(
        row["pesq"] == "" and "No utterances" in row["refused"] and row["si_sdr"] for row in refused
    )
    rest = [float(row["pesq"]) for row in rows if row["method"] == "ann" and row["pesq"]]
    assert len(rest) == 3
    assert found["closed"]["ann"]["pesq"]["overall"] == pytest.approx(np.mean(rest), abs=1e-3)


def test_silent_source_is_scored_as_undefined(experiment):
    silent = read_data_dir(experiment.data / "tt")[1]
    write_wav(silent.sources[0], np.zeros_like(read_audio(silent.mixture)), 8000)
    found = score(experiment)
    assert found["refused"]["si_sdr"] == [silent.utt_id]
    assert found["open"]["snn"]["si_sdr"]["overall"] is not None


def test_max_utterances_limits_scoring(experiment):
    found = score(experiment, ScoringConfig(metrics=[], max_utterances=1))
    assert found["n_utterances"]["open"] == {"diff": 1, "same": 0, "overall": 1}
    assert found["open"]["ann"]["si_sdr"]["same"] is None


@pytest.mark.parametrize(("missing", "stage"), [("ann", "pre-training"), ("snn", "conversion")])
def test_missing_model_is_reported_with_its_stage(experiment, missing, stage):
    (experiment.exp / missing / "model.safetensors").unlink()
    with pytest.raises(SpikeSepError, match=stage):
        score(experiment)


def test_sources_of_another_length_are_reported(experiment):
    mixture = read_data_dir(experiment.data / "tt")[0]
    write_wav(mixture.sources[1], read_audio(mixture.sources[1])[:-5], 8000)
    with pytest.raises(SpikeSepError, match=mixture.mixture.name):
        score(experiment)


def test_figures_are_drawn(experiment):
    score(experiment)
    assert (experiment.exp / "figures" / "training.png").stat().st_size > 5000
    for name in ("activations", "layers"):
        assert (experiment.exp / "figures" / f"{name}.png").stat().st_size > 5000


@pytest.mark.slow
def test_processes_give_the_same_results_and_end_with_a_killed_parent(experiment):
    alone = score(experiment)
    script = experiment.exp / "twice.py"
    script.write_text(
        "from pathlib import Path\n"
        "from spikesep.separation.scoring.score import score_experiment\n"
        "from spikesep.separation.config import ScoringConfig\n"
        "if __name__ == '__main__':\n"
        f"    data, exp = Path({str(experiment.data)!r}), Path({str(experiment.exp)!r})\n"
        "    score_experiment(\n"
        "        data, exp, ScoringConfig(['stoi']), n_jobs=2, seed=7, redo=True\n"
        "    )\n"
    )
    subprocess.run([sys.executable, script], check=True)
    together = read_json(experiment.exp / "results.json")
    for condition in ("closed", "open"):
        for method in ("mixture", "ann", "snn"):
            assert together[condition][method] == alone[condition][method]

    parent = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    children: list[int] = []
    listing = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 60
    # Two workers and the resource tracker.
    while len(children) < 3 and time.monotonic() < deadline and parent.poll() is None:
        time.sleep(0.05)
        children = [int(pid) for pid in listing.read_text().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children)
