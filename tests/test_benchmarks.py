"""The benchmarks run, and comparable results are the same."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

from benchmarks.engines.comparison import crossing
from benchmarks.engines.peers import PEERS
from benchmarks.live import live
from benchmarks.training.ann_training import QUICK, RECIPE, Case, conv_tasnet, macs_per_second
from benchmarks.training.conversion_depth import growth
from spikesep.separation.model.separator import Separator

KEYS = {"name", "ours_s", "peer", "peer_s", "ratio", "counts_equal"}
OWN = (
    "engines-128",
    "activity",
    "conversion-depth",
    "memory",
    "ann-training",
    "image-training",
    "separator",
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of the benchmarks that finish quickly, run in one process."""
    file = tmp_path_factory.mktemp("benchmarks") / "rows.json"
    only = [word for name in OWN for word in ("--only", name)]
    command = [sys.executable, "-m", "benchmarks", "--quick", *only, "--json", str(file)]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(file.read_text())


def test_rows_have_all_keys_and_equal_counts(rows):
    for row in rows:
        assert row.keys() >= KEYS
        assert row["counts_equal"] is not False, row["name"]
        assert (row["ratio"] or 0) > 0 or row["note"], row["name"]


def test_conversions_with_and_without_cache_are_the_same(rows):
    conversions = [row for row in rows if "layers" in row]
    assert [row["layers"] for row in conversions] == [2, 3]
    assert all(row["counts_equal"] for row in conversions)


def test_learning_through_time_needs_more_memory_than_a_stage(rows):
    surrogate = [row for row in rows if row["peer"] == "surrogate gradient through time"]
    assert surrogate
    assert all(row["peer_mib"] > row["ours_mib"] > 0 for row in surrogate)


def test_installed_peers_give_the_same_counts(rows):
    engines = {row["peer"]: row for row in rows if row["name"].startswith("4 layers, 128 channels")}
    peers = {
        name: peer for name, peer in PEERS.items() if "cpu" in peer.devices and not peer.compiles
    }
    assert list(engines) == ["dense", *peers]
    for name, peer in peers.items():
        if name == "lava-dl":
            assert engines[name]["status"] == "unsuitable"
        elif peer.is_installed:
            assert engines[name]["counts_equal"], name
            assert engines[name]["peer_s"] > 0
        else:
            assert engines[name]["peer_s"] is None
            assert engines[name]["note"] == f"not installed: {peer.install}"


def test_names_say_how_often_the_last_layer_fires_in_the_unit_of_the_network():
    for row in crossing(quick=True):
        asked, found = re.search(r"([\d.]+)\D* \(last layer ([\d.]+)\)", row["name"]).groups()
        assert float(found) == pytest.approx(float(asked), rel=0.5), row["name"]


@pytest.mark.parametrize("case", [QUICK, Case("recipe", RECIPE, 8, 1, 1)])
def test_the_training_peer_has_at_most_our_macs(case):
    ours = macs_per_second(Separator(case.config))
    theirs = macs_per_second(conv_tasnet(case, ours))
    assert 0.75 * ours < theirs <= ours


def test_macs_of_a_separator_equal_a_count_by_hand():
    config = QUICK.config
    frames = 8000 // 10 + 1
    n, c, k = config.n_filters, config.n_channels, config.conv_kernel_size
    per_frame = n * 20 + n * c + len(config.dilations) * k * c * c + 2 * n * c + 2 * n * 20
    assert macs_per_second(Separator(config)) == frames * per_frame


def test_growth_distinguishes_linear_from_quadratic():
    depths = np.array([3, 5, 7, 9, 11])
    line, square = growth(depths, 2.0 * depths), growth(depths, 0.5 * depths**2)
    assert line["power"] == pytest.approx(1)
    assert line["seconds_a_layer"] == pytest.approx(2)
    assert line["r2_of_line"] == pytest.approx(1)
    assert square["power"] == pytest.approx(2)
    assert square["r2_of_line"] < 0.99


def test_longer_blocks_of_a_live_stream_wait_longer():
    rows = live(quick=True)
    assert [row["block_s"] for row in rows] == [0.02, 0.04]
    assert rows[1]["latency_s"] - rows[0]["latency_s"] == pytest.approx(0.02)
    assert all(row["cpu_s_per_s"] > 0 and row["synops_per_s"] > 0 for row in rows)
