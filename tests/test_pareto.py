"""Quality over cost: points follow from their records, and variants change what they say."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT, SHARED
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engines.stack import build_stack
from benchmarks.pareto import measure, variants
from benchmarks.pareto.figure import draw
from benchmarks.pareto.mixtures import RATE, aligned_mixtures, read_voices
from benchmarks.pareto.points import RESULTS, Point, front, read_points
from benchmarks.pareto.report import by_test_set, markdown
from spikesep.separation.audio.levels import active_level
from spikesep.spiking import set_time_steps

LIBRISPEECH = SHARED / "corpora" / "LibriSpeech"
PAGE = ROOT / "docs" / "what-a-decibel-costs.md"


@pytest.fixture(scope="module")
def points():
    return read_points()


def test_the_measured_family_has_a_curve(points):
    steps = [point for point in points if point.family == "SNN, steps"]
    assert len(steps) >= 6
    by_cost = sorted(steps, key=lambda point: point.operations)
    gains = [point.si_sdri for point in by_cost]
    assert gains == sorted(gains), "more steps cost more and separate better"


def test_every_point_has_a_source_and_every_measured_one_a_command(points):
    assert len({point.key for point in points}) == len(points)
    for point in points:
        assert point.source
        assert bool(point.command) == (point.kind != "published"), point.key


def test_recorded_figures_stand_in_their_pages():
    for point in json.loads((RESULTS / "recorded.json").read_text("utf-8"))["points"]:
        page = " ".join((ROOT / point["source"]).read_text("utf-8").split())
        for quote in point["quotes"]:
            assert " ".join(quote.split()) in page, point["key"]
        quoted = re.findall(r"[\d,]*\d(?:\.\d+)?", " ".join(point["quotes"]))
        numbers = {float(number.replace(",", "")) for number in quoted}
        if not point["note"].startswith("score of"):
            assert {point["si_sdri"]} <= numbers or point["form"] == "graded events"


def test_energies_are_operations_times_the_table(points):
    """Work out the rows of one variant by hand from its counts, at 45 nm."""
    found = json.loads((RESULTS / "measured.json").read_text("utf-8"))["variants"]["snn"]
    cost, seconds = found["cost"], found["seconds"]
    updates = 2 * 22 * sum(cost["neurons"]) + sum(cost["spikes"])
    additions = cost["synops"] + cost["analog_macs"] + updates
    spikes = next(point for point in points if point.key == "snn/snn")
    assert spikes.operations == pytest.approx(additions / seconds)
    joules = 0.1e-12 * additions + 0.2e-12 * cost["analog_macs"]
    assert spikes.millijoules == pytest.approx(joules * 1e3 / seconds)
    proxy = cost["synops"] + cost["analog_macs"] + 10 * 22 * sum(cost["neurons"])
    assert spikes.proxy == pytest.approx(proxy / seconds)
    graded = next(point for point in points if point.key == "snn/snn_graded")
    additions = cost["active_macs"] + 2 * sum(cost["neurons"])
    assert graded.operations == pytest.approx(additions / seconds)
    assert graded.si_sdri == spikes.si_sdri


costs = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(costs)
def test_the_front_is_what_no_other_point_beats(pairs):
    made = [
        Point(str(k), "", "", "ann", "", "", gain, cost, None, None, "")
        for k, (cost, gain) in enumerate(pairs)
    ]
    best = front(made, "operations")
    for k, (cost, gain) in enumerate(pairs):
        beaten = any((c < cost and g >= gain) or (c <= cost and g > gain) for c, g in pairs)
        assert (str(k) in best) != beaten
    assert front(made, "millijoules") == set()


def test_test_sets_are_kept_apart(points):
    groups = by_test_set(points)
    assert sum(map(len, groups.values())) == len(points)
    for name, group in groups.items():
        assert {point.test_set for point in group} == {name}
        assert len({point.kind == "published" for point in group}) == 1


def test_the_page_and_the_committed_table_are_those_of_the_records(points):
    text = markdown(points)
    assert (RESULTS / "pareto.md").read_text("utf-8") == text
    page = PAGE.read_text("utf-8")
    for part in text.strip().split("\n\n**"):
        assert part.partition("\n\n")[2] in page


def test_both_figures_are_drawn(points, tmp_path):
    for dark in (False, True):
        draw(points, tmp_path / f"{dark}.png", dark=dark)
    light, dark = ((tmp_path / f"{name}.png").read_bytes() for name in (False, True))
    assert light.startswith(b"\x89PNG")
    assert light != dark


def first_counts(n_steps, window):
    """Counts of the first spiking layer, which receives a constant current."""
    network, _ = build_stack(16, [1, 2], 6, 0.2, 0.1, deferred=True)
    x = torch.randn(1, 16, 80, generator=torch.Generator().manual_seed(1))
    set_time_steps(network, n_steps)
    variants.set_window(network, window)
    with torch.no_grad():
        return network.arriving(network.propagate(x, 0, 1), 1)[0].count, network(x)


def test_a_longer_window_only_moves_the_ceiling():
    usual, _ = first_counts(6, 6)
    longer, _ = first_counts(6, 12)
    assert longer.max() > 6
    assert torch.equal(longer.clamp(max=6), usual)


def test_a_shorter_window_clips():
    usual, _ = first_counts(6, 6)
    shorter, _ = first_counts(6, 3)
    assert (shorter == usual.clamp(max=3)).double().mean() > 0.99
    assert shorter.max() == 3


def test_the_window_changes_later_layers_by_clipping_alone():
    _, usual = first_counts(6, 6)
    _, longer = first_counts(6, 12)
    _, fewer = first_counts(3, 3)
    assert (longer - usual).norm() < 0.5 * (fewer - usual).norm()


def test_pruning_leaves_the_share_and_no_other_weight():
    separator = variants.pruned(0.8)
    whole = variants.pruned(1.0).network
    for part, before in zip(separator.network.parts, whole.parts, strict=True):
        share = float(part.kept.sum() / before.kept.sum())
        assert 0.8 <= share < 0.81
        assert not part.synapse.weight[~part.kept].any()
        assert torch.equal(part.synapse.weight, before.synapse.weight * part.kept)
    for layer in separator.network.layers.values():
        assert not layer.fixed.weight[~layer.kept].any()


@pytest.mark.skipif(
    not LIBRISPEECH.is_dir(), reason="no ../shared/corpora/LibriSpeech beside the checkout"
)
def test_mixtures_are_of_voices_held_out_at_the_levels_of_the_recipe():
    held_out, heard = (read_voices(LIBRISPEECH, split) for split in ("tt", "tr"))
    assert not held_out.keys() & heard.keys()
    mixtures = aligned_mixtures(held_out, 3, 1)
    for one, same in zip(mixtures, aligned_mixtures(held_out, 3, 1), strict=True):
        assert np.array_equal(one, same)
        assert one.shape[1] <= 4 * RATE
        levels = [active_level(source, RATE) for source in one]
        assert -0.1 < levels[0] - levels[1] < 5.1
        assert np.mean(levels) == pytest.approx(-25, abs=0.1)
    assert not np.array_equal(mixtures[0], aligned_mixtures(held_out, 3, 2)[0])


def test_a_completed_file_says_where_each_variant_was_measured(monkeypatch, tmp_path):
    row = {"si_sdri": 1.0, "seconds": 2.0}
    monkeypatch.setattr(measure, "read_voices", lambda *_: {})
    monkeypatch.setattr(measure, "aligned_mixtures", lambda *_: [])
    monkeypatch.setattr(measure, "measured", lambda *_: row)
    out = tmp_path / "measured.json"
    for key, machine in (("ann", "first"), ("snn", "second"), ("ann", "third")):
        monkeypatch.setattr(measure, "describe_run", lambda _, machine=machine: machine)
        options = ["--librispeech", "unused", "--only", key, "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["measure", *options])
        measure.main()
    found = json.loads(out.read_text())["variants"]
    assert found == {"ann": row | {"run": "first"}, "snn": row | {"run": "second"}}
