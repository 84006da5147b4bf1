from pathlib import Path

import pytest
from rich.console import Console

from spikesep.separation.scoring import results

COST = {
    "macs": 100.0,
    "analog_macs": 10.0,
    "synops": 40.0,
    "n_steps": 8,
    "spikes": [16.0, 8.0],
    "neurons": [10.0, 10.0],
}


def record(utt, condition, sexes, value, refused=()):
    scores = {
        method: {
            "si_sdr": None if "si_sdr" in refused and method == "snn" else value + shift,
            "si_sdri": shift,
            "refused": dict.fromkeys(refused, "silent") if method == "snn" else {},
        }
        for shift, method in enumerate(("mixture", "ann", "snn"))
    }
    return {
        "utt": utt,
        "condition": condition,
        "mode": "",
        "voices": len(sexes),
        "sexes": sexes,
        "seconds": 2.0,
        "scores": scores,
        "cost": COST,
    }


RECORDS = [
    record("a", "closed", ["f", "m"], 1.0),
    record("b", "closed", ["f", "f"], 3.0),
    record("c", "closed", ["m", "u"], 8.0),
    record("d", "open", ["m", "m"], -6.0),
    record("e", "open", ["m", "m"], 0.0, refused=["si_sdr"]),
]


def full(records=RECORDS, **more) -> dict:
    about = {
        "seed": 3,
        "command": "spikesep-score --exp exp/paper",
        "versions": {"python": "3.11", "torch": "2.11", "spikesep": "0.1"},
        "machine": {"processor": "a processor", "cores": 4},
        "data_hash": "0123456789abcdef",
    }
    return {**results.summarize(records, []), **about, **more}


@pytest.mark.parametrize(
    ("sexes", "group"),
    [
        ("ff", "same"),
        ("mm", "same"),
        ("fm", "diff"),
        ("ffm", "diff"),
        ("fu", None),
        ("uu", None),
        ("f", None),
    ],
)
def test_group_is_known_if_all_sexes_are(sexes, group):
    assert results.group_of(sexes) == group


def test_overall_means_include_all_utterances():
    means = results.summarize(RECORDS, [])["closed"]["mixture"]["si_sdr"]
    assert means == {"diff": 1.0, "same": 3.0, "overall": 4.0}


def test_undefined_utterances_are_excluded_for_every_method():
    summary = results.summarize(RECORDS, [])
    assert summary["open"]["mixture"]["si_sdr"] == {"diff": None, "same": -6.0, "overall": -6.0}
    assert summary["open"]["snn"]["si_sdr"]["same"] == -4.0
    assert summary["open"]["snn"]["si_sdri"]["same"] == 2.0
    assert summary["refused"] == {"si_sdr": ["e"]}


def test_cost_is_per_second_of_audio():
    cost = results.mean_cost(RECORDS)
    assert cost["macs_per_second"] == 50
    assert cost["synops_per_second"] == 20
    assert cost["analog_macs_per_second"] == 5
    assert cost["synops_ratio"] == pytest.approx(0.4)
    assert cost["firing_rate"] == pytest.approx([0.2, 0.1])
    assert cost["n_steps"] == 8


def test_energies_are_estimated_from_the_counts_of_all_records():
    ann = {"macs": 100.0, "kept_macs": 100.0, "analog_macs": 100.0, "active_macs": 30.0}
    counted = full([each | {"ann_cost": ann} for each in RECORDS])
    report = results.energy_of(counted, "45nm")[0]
    assert report["ann_int8"].energy == pytest.approx(50 * 0.3e-12)
    assert report["ann_int8_nonzero"].energy == pytest.approx(15 * 0.3e-12)
    # Per second: 5 MACs, 20 synaptic operations, 80 updates of 2 additions, 12 resets.
    assert report["snn"].energy == pytest.approx(5 * 0.3e-12 + (20 + 160 + 12) * 0.1e-12)
    partly = full([RECORDS[0] | {"ann_cost": ann}, *RECORDS[1:]])
    assert "ann_int8_nonzero" not in results.energy_of(partly, "45nm")[0]


def test_results_of_an_earlier_version_still_have_energies():
    old = full()
    del old["cost"]["per_second"], old["ann_cost"]
    report = results.energy_of(old, "7nm")[0]
    assert report["snn"].energy == pytest.approx(5 * 0.1e-12 + 20 * 0.03e-12)
    assert "7nm" in results.markdown(old, "7nm")
    assert "Neuron updates are missing" in results.markdown(old)


def test_report_states_the_share_of_remaining_connections():
    assert "left the spiking network" not in results.markdown(full())
    fewer = full() | {
        "cost": full()["cost"] | {"macs_per_second": 50e6, "kept_macs_per_second": 30e6}
    }
    assert (
        "left the spiking network 60% of the ANN's connections; an ANN with only these"
        in results.markdown(fewer)
    )
    records = [record | {"cost": record["cost"] | {"kept_macs": 60.0}} for record in RECORDS]
    assert results.mean_cost(records)["kept_macs_per_second"] == 30


@pytest.mark.parametrize(
    ("commit", "said"),
    [
        (None, "0.1;"),
        ("0.1", "0.1;"),
        ("a" * 40, "0.1 (aaaaaaa);"),
        ("b" * 40 + "-dirty", "-dirty);"),
    ],
)
def test_report_names_the_commit(commit, said):
    versions = full()["versions"] | ({"commit": commit} if commit else {})
    assert said in results.markdown(full(versions=versions))


def test_report_has_a_row_per_condition_and_method():
    report = results.markdown(full())
    scores, energy = report.split("## Energy")
    table = [line for line in scores.splitlines() if line.startswith("|")]
    assert "| SNN |" in energy
    assert len(table) == 2 + 6
    assert len({line.count("|") for line in table}) == 1
    assert [line.split(" | ")[:2] for line in table[2:]] == [
        [f"| {c}", m] for c in ("Closed", "Open") for m in ("Mixture", "ANN", "SNN")
    ]
    assert "| Open | Mixture | – | −6.0 | −6.0 | – | 0.0 | 0.0 |" in table


def test_report_states_definitions_and_provenance():
    report = results.markdown(full())
    for needed in (
        "means were removed", "N_s = 8", "SynOps ratio 0.400", "0.200, 0.100", "`e`", "Seed 3",
        "`spikesep-score --exp exp/paper`", "torch 2.11", "a processor, 4 cores",
    ):  # fmt: skip
        assert needed in report


def test_zero_has_no_sign_and_missing_values_are_a_dash():
    assert results.decimal(-0.01, "si_sdr") == "0.0"
    assert results.decimal(-0.06, "si_sdr") == "−0.1"
    assert results.decimal(None, "stoi") == "–"


def test_terminal_table_fits_into_80_columns():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(results.terminal_table(full()))
    printed = capture.get()
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("Overall") == 6


def test_closed_voices_heard_reads_the_training_data(kept_experiment):
    from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, Utterance, write_table
    from spikesep.separation.data.kaldi import read_data_dir
    from spikesep.separation.scoring.inputs import closed_voices_heard

    data = kept_experiment.data
    mixtures = read_data_dir(data / "cv")
    speakers = sorted({speaker for mixture in mixtures for speaker in mixture.speakers})
    rows = [
        Utterance(f"{speaker}-1", Path("x.wav"), speaker, "f", "tr", 1.0) for speaker in speakers
    ]
    assert closed_voices_heard(data, mixtures)  # training data unknown
    write_table(data / UTTERANCE_TABLE, rows)
    assert closed_voices_heard(data, mixtures)
    write_table(data / UTTERANCE_TABLE, rows[1:])
    assert not closed_voices_heard(data, mixtures)


def test_report_states_which_training_was_cut_short():
    told = "Training was stopped by its time budget in epoch 12 of 40."
    assert told in results.markdown(full(cut_short=[told]))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(results.terminal_table(full(cut_short=[told])))
    assert told in " ".join(capture.get().split())
