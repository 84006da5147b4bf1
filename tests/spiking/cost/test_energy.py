"""Energy reports against sums worked out by hand, in pJ at 45 nm."""

from dataclasses import asdict, replace

import pytest

from spikesep.errors import SpikeSepError
from spikesep.spiking.cost import ENERGY_TABLES, Cost, Operations, energy_report, energy_table
from spikesep.spiking.cost.energy_text import energy_phrase, energy_section, lead

SNN = Cost(
    macs=1000.0, kept_macs=600.0, analog_macs=100.0, synops=500.0, n_steps=4, spikes=(10.0,),
    neurons=(20.0,), readout_synops=200.0, full_synops=700.0, active_macs=300.0, deferred=True,
    encoder=Operations(50.0, 60.0), decoder=Operations(70.0, 0.0),
)  # fmt: skip
ANN = Cost(macs=1000.0, kept_macs=1000.0, analog_macs=1000.0, active_macs=400.0)
ENERGIES = {
    "ann_float32": 1000 * (3.7 + 0.9),
    "ann_int8": 1000 * (0.2 + 0.1),
    "ann_int8_nonzero": 400 * (0.2 + 0.1),
    "pruned_ann_int8": 600 * (0.2 + 0.1),
    # 20 neurons are updated in 4 steps, with 2 additions each; 10 spikes reset one each.
    "snn": 100 * (0.2 + 0.1) + 500 * 0.1 + (2 * 80 + 10) * 0.1,
    "snn_first_layer": 100 * (0.2 + 0.1),
    "snn_synops": 300 * 0.1,
    "snn_readout": 200 * 0.1,
    "snn_neurons": 170 * 0.1,
    "snn_float32": 100 * (3.7 + 0.9) + (500 + 170) * 0.9,
    "snn_first_32bit": 100 * (3.1 + 0.1) + (500 + 170) * 0.1,
    "snn_unpruned": 100 * (0.2 + 0.1) + (700 + 170) * 0.1,
    # A neuron is updated once for each spike, and once more to find that it is silent.
    "snn_while_firing": 100 * (0.2 + 0.1) + (500 + 2 * 30 + 10) * 0.1,
    "snn_graded": 300 * (0.2 + 0.1) + 2 * 20 * 0.1,
    "encoder": 50 * 3.7 + 60 * 0.9,
    "decoder": 70 * 3.7,
}


def test_energies_are_those_worked_out_by_hand():
    report = energy_report(SNN, 1.0, ann=ANN)
    found = {row.key: row.energy * 1e12 for row in report.rows}
    assert found == pytest.approx(ENERGIES)
    assert report["ann_int8"].energy_8bit_sums * 1e12 == pytest.approx(1000 * 0.23)
    assert report["snn"].energy_8bit_sums * 1e12 == pytest.approx(100 * 0.2 + 770 * 0.03)
    assert report["ann_float32"].energy_8bit_sums is None


def test_the_parts_of_the_spiking_network_add_up():
    report = energy_report(SNN, 1.0)
    parts = [row for row in report.rows if row.part_of == "snn"]
    assert sum(row.energy for row in parts) == pytest.approx(report["snn"].energy)
    assert sum((row.operations for row in parts), Operations()) == report["snn"].operations


def test_figures_are_per_second():
    whole, half = energy_report(SNN, 1.0, ann=ANN), energy_report(SNN, 2.0, ann=ANN)
    for row in whole.rows:
        assert half[row.key].energy == pytest.approx(row.energy / 2)
    assert half.proxies["snn"] == whole.proxies["snn"] / 2


def test_the_power_proxy_weighs_a_neuron_update_as_ten_synaptic_operations():
    proxies = energy_report(SNN, 1.0).proxies
    assert proxies == {
        "ann": 1000 + 10 * 20, "pruned_ann": 600 + 10 * 20, "snn": 500 + 100 + 10 * 80,
    }  # fmt: skip


def test_the_process_can_be_chosen():
    report = energy_report(SNN, 1.0, energy_table("7nm"))
    assert report["ann_int8"].energy * 1e12 == pytest.approx(1000 * (0.07 + 0.03))
    assert report["ann_float32"].energy * 1e12 == pytest.approx(1000 * (1.31 + 0.38))
    with pytest.raises(SpikeSepError, match=r"--energy-table 3nm: .* give one of 45nm, 7nm"):
        energy_table("3nm")
    assert all(table.source for table in ENERGY_TABLES.values())


def test_what_was_not_counted_has_no_row():
    assert "ann_int8_nonzero" not in energy_report(SNN, 1.0)
    old = Cost(1000.0, 600.0, 100.0, 500.0, 4)
    report = energy_report(old, 1.0)
    missing = {"snn_readout", "snn_neurons", "snn_unpruned", "snn_graded", "encoder", "decoder"}
    assert not missing & {row.key for row in report.rows}
    assert report.proxies == {}
    assert "Neuron updates are missing" in energy_section(report, old)[-1]
    spiking = energy_report(replace(SNN, deferred=False), 1.0)
    assert "snn_graded" not in spiking
    assert "snn_while_firing" not in spiking
    unpruned = energy_report(replace(SNN, kept_macs=1000.0, full_synops=500.0), 1.0)
    assert "pruned_ann_int8" not in unpruned
    assert "snn_unpruned" not in unpruned


def test_an_analog_network_has_rows_of_its_own():
    report = energy_report(ANN, 1.0)
    assert [row.key for row in report.rows] == ["ann_float32", "ann_int8", "ann_int8_nonzero"]
    assert "in int8" in energy_phrase(report)
    assert len(energy_section(report, ANN)) == 2


def test_the_text_leads_with_int8_and_the_same_connections():
    cost = replace(SNN, synops=5000.0)
    text = lead(energy_report(cost / 1e-6, 1.0, ann=ANN / 1e-6))
    first, second, third, last = text.split(". ")
    assert "0.547 mJ for the SNN, 0.180 mJ for an ANN with the same connections" in first
    assert "less than the SNN (0.33 of it)" in first
    assert "0.120 mJ if it skips zero activations" in second
    assert "one graded event per active neuron: 0.094" in third
    assert "float32" in last
    cheaper = lead(energy_report(SNN, 1.0))
    assert "1.9 times as much as the SNN" in cheaper


def test_the_table_has_a_line_for_each_row_and_proxy():
    report = energy_report(SNN / 1e-6, 1.0)
    table = energy_section(report, SNN)[1].splitlines()
    assert len(table) == 2 + len(report.rows) + 3
    assert len({line.count("|") for line in table}) == 1
    assert "| N-DNS power proxy, SNN |  | 1,400.0 | – | – |" in table


def test_records_of_this_version_and_earlier_ones_are_read():
    assert Cost.from_dict(asdict(SNN)) == SNN
    old = {
        "macs": 100.0, "analog_macs": 10.0, "synops": 40.0, "n_steps": 8, "spikes": [16.0],
        "neurons": [10.0],
    }  # fmt: skip
    cost = Cost.from_dict(old)
    assert (cost.synops, cost.neurons, cost.active_macs) == (40.0, (10.0,), None)
    assert (cost + SNN.from_dict(old | {"active_macs": 7.0})).active_macs is None
