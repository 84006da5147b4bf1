"""Scoring of mixtures in several modes, with silent sources, and of conversations."""

import csv
import warnings

import numpy as np
import pytest
from helpers.experiments import make_conversations
from helpers.separators import tiny_separator
from helpers.tracks import tiny_embedder

from spikesep.errors import SpikeSepWarning
from spikesep.files import read_json
from spikesep.separation.config import MixingConfig, ScoringConfig
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.scoring import by_voices, results
from spikesep.separation.scoring.inputs import find_modes, is_scored
from spikesep.separation.scoring.score import score_experiment
from spikesep.separation.scoring.voices import TRACKS, separate
from spikesep.separation.tracks.embedder import save_embedder

QUICK = ScoringConfig(metrics=["stoi"])
MIXING = MixingConfig(n_speakers=3, modes=["both", "clean"])


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    pytest.importorskip("pyannote.metrics")
    made = make_conversations(tmp_path_factory.mktemp("talk"))
    save_embedder(tiny_embedder(spiking=True), made.exp / "tracks")
    return made


@pytest.fixture(scope="module")
def found(talk):
    modes = find_modes(talk.data, MIXING)
    return score_experiment(talk.data, talk.exp, QUICK, modes=modes, n_jobs=1)


@pytest.fixture(scope="module")
def rows(talk, found):
    with (talk.exp / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_modes_are_those_of_the_mixing(tmp_path):
    several = MixingConfig(rates=["16k"], modes=["both", "clean"])
    assert find_modes(tmp_path, several) == {
        "both": tmp_path, "clean": tmp_path / "wav16k" / "clean"
    }  # fmt: skip
    assert find_modes(tmp_path, MixingConfig(modes=["min"])) == {"": tmp_path}


def test_every_mode_condition_and_number_of_voices_has_a_row(found):
    rows = [(r["mode"], r["condition"], r["voices"], r["n"]) for r in found["by_voices"]]
    assert rows == [
        (mode, condition, n, 1)
        for mode in ("both", "clean")
        for condition in ("closed", "open")
        for n in (1, 2, 3)
    ]
    for row in found["by_voices"]:
        assert set(row["scores"]) == {"mixture", "ann", f"ann{TRACKS}", "snn", f"snn{TRACKS}"}
        tracks = row["scores"][f"snn{TRACKS}"]
        assert {"counted", "swaps", "der"} <= set(tracks)
        alone_and_clean = row["voices"] == 1 and row["mode"] == "clean"
        assert ("si_sdri_turns" in tracks) == (not alone_and_clean)
        assert ("silence" in tracks) == (row["voices"] < 3)
        assert ("quiet" in tracks) == (row["voices"] > 1)


def test_a_clean_voice_alone_has_no_gain(found):
    by_mode = {r["mode"]: r["scores"]["snn"] for r in found["by_voices"] if r["voices"] == 1}
    assert "si_sdri" not in by_mode["clean"]
    assert "si_sdri" in by_mode["both"]
    assert "si_sdr" in by_mode["clean"]


def test_the_first_table_has_the_first_mode_with_two_voices_or_more(found, rows):
    assert found["n_utterances"]["open"] == {"diff": 2, "same": 0, "overall": 2}
    chosen = [
        float(row["si_sdri"])
        for row in rows
        if (row["mode"], row["condition"], row["method"]) == ("both", "closed", "snn")
        and int(row["voices"]) > 1
    ]
    assert len(chosen) == 2
    mean = found["closed"]["snn"]["si_sdri"]["overall"]
    assert mean == pytest.approx(np.mean(chosen), abs=1e-3)
    assert found["refused"] == {}


def test_report_has_both_tables(talk, found):
    report = (talk.exp / "RESULTS.md").read_text()
    assert "Means over mixtures of two voices or more (both): closed 2" in report
    assert "## By number of voices" in report
    assert "| clean | Open | 3 | 1 | SNN, tracks |" in report
    assert "diarization error" in report
    assert by_voices.is_shown(found)
    table = by_voices.terminal_table(found)
    assert len(table.rows) == 2 * 12


def test_plain_mixtures_have_one_table(experiment):
    found = score_experiment(experiment.data, experiment.exp, QUICK, n_jobs=1)
    assert not by_voices.is_shown(found)
    assert "By number" not in (experiment.exp / "RESULTS.md").read_text()
    assert found["by_voices"][0]["scores"]["snn"]["counted"] in (0, 25, 50, 75, 100)
    assert not results.is_mixed(found)


def test_another_embedder_is_scored_anew(talk, found):
    modes = find_modes(talk.data, MIXING)
    assert is_scored(talk.data, talk.exp, QUICK, modes)
    assert not is_scored(talk.data, talk.exp, QUICK)
    before = (talk.exp / "tracks" / "model.safetensors").read_bytes()
    save_embedder(tiny_embedder(spiking=True, seed=1), talk.exp / "tracks")
    said = []
    assert not is_scored(talk.data, talk.exp, QUICK, modes, said.append)
    assert "other models" in said[0]
    (talk.exp / "tracks" / "model.safetensors").write_bytes(before)


def test_conversations_without_an_embedder_are_scored_with_a_line(tmp_path):
    made = make_conversations(tmp_path)
    config = ScoringConfig(metrics=[], max_utterances=1)
    with pytest.warns(SpikeSepWarning, match="no embedder of speakers"):
        found = score_experiment(made.data, made.exp, config, n_jobs=1)
    assert set(found["by_voices"][0]["scores"]) == {"mixture", "ann", "snn"}
    assert set(read_json(made.exp / "results.json")["model_hash"]) == {"ann", "snn"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_scored(made.data, made.exp, config)


def test_scored_voices_are_those_that_users_get():
    model, embedder = tiny_separator(n_speakers=3), tiny_embedder()
    mixture = np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32)
    found, cost = separate(model, embedder, mixture, in_turns=True)
    expected = Model(model, embedder=embedder).separate_recording(
        mixture, 8000, segment_seconds=10.0
    )
    np.testing.assert_allclose(found[TRACKS].estimates, expected.estimates, atol=1e-5)
    assert found[TRACKS].turns == expected.turns[0]
    outputs = Model(model).separate(mixture, level="none", segment_seconds=10.0)
    np.testing.assert_allclose(found[""].estimates, outputs, atol=1e-5)
    assert cost.macs == expected.cost.macs
