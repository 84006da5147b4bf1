"""The comparison of converters runs, and treats the contenders alike."""

import copy
import importlib.util
import time

import pytest
import torch
from torch import nn

from benchmarks.converters import comparison, qcfs
from benchmarks.converters.comparison import converters
from benchmarks.converters.peers import normalize
from benchmarks.converters.report import error_ratios, table, verdicts
from benchmarks.converters.simulation import Stepper, simulate
from benchmarks.converters.tasks import folded, outputs
from spikesep.spiking import Coding, CostMeter, from_module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Rows and figure of a quick run."""
    figure = tmp_path_factory.mktemp("converters") / "converters.png"
    return converters(True, figure.parent, figure), figure


def test_every_task_has_every_installed_converter(run):
    rows, figure = run
    expected = {"SpikeSep, immediate", "SpikeSep, deferred", "QCFS neurons, untrained"}
    packages = {"ann2snn": "spikingjelly", "sinabs": "sinabs"}
    expected |= {name for name, package in packages.items() if importlib.util.find_spec(package)}
    tasks = dict.fromkeys(row["task"] for row in rows)
    assert len(tasks) == 4
    for task in tasks:
        own = [row for row in rows if row["task"] == task]
        assert {row["method"] for row in own if row["group"] == "calibrated"} == expected
        tuned = {row["method"] for row in own if row["group"] == "fine-tuned"}
        assert tuned == {"SpikeSep, immediate", "SpikeSep, deferred", "QCFS"}
        assert len({row["score"] for row in own if row["group"] == "analog"}) == 1
        assert list(table("", own))
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_lists_have_an_entry_per_number_of_steps(run):
    for row in run[0]:
        if row["group"] != "analog":
            for key in ("latency", "score", "error", "spikes", "ms"):
                assert len(row[key]) == len(row["n_steps"]), (row["method"], key)
            assert max(row["spikes"]) > 0


def test_a_missing_peer_is_skipped_with_the_remedy(monkeypatch, capsys):
    def missing():
        raise ImportError("No module named 'sinabs'")

    monkeypatch.setattr(comparison, "PEERS", {"sinabs": ("sinabs", missing)})
    assert comparison._installed() == {}
    assert "sinabs: skipped, No module named 'sinabs'; pip install" in capsys.readouterr().out


def test_another_analog_network_stops_the_comparison():
    rows = [{"task": "t", "method": m, "score": s} for m, s in (("PyTorch", 90.0), ("peer", 89.0))]
    with pytest.raises(RuntimeError, match="analog network of peer scores 89"):
        comparison.require_equal(rows)


@pytest.fixture
def network():
    """Make a small CNN with batch norm, in inference mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    with torch.no_grad():
        model(torch.randn(64, 2, 4, 4) + 1)
    return model.eval()


def test_folding_and_normalizing_leave_the_output(network):
    x = torch.randn(8, 2, 4, 4)
    expected, plain = outputs(network, x), folded(copy.deepcopy(network))
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in plain)
    torch.testing.assert_close(outputs(plain, x), expected)
    normalize(plain, torch.randn(64, 2, 4, 4), 99.0)
    torch.testing.assert_close(outputs(plain, x), expected)


def test_normalizing_brings_the_percentile_to_the_threshold(network):
    plain, x = folded(network), torch.randn(256, 2, 4, 4)
    normalize(plain, x, 90.0)
    for end in (2, 6):
        assert float(outputs(plain[:end], x).quantile(0.9)) == pytest.approx(1, abs=1e-4)


def dyadic(network):
    """Round weights to a grid on which float32 sums are exact."""
    for parameter in network.parameters():
        parameter.data = (parameter.data * 16).round() / 16
    return network


def test_qcfs_neurons_fire_like_immediate_neurons(network):
    plain, n_steps = dyadic(folded(network)), 4
    x = (torch.randn(8, 2, 4, 4) * 8).round() / 8
    spiking, meter = from_module(copy.deepcopy(plain)), CostMeter()
    for layer in spiking.layers.values():
        layer.convert(1.0 / n_steps, Coding(n_steps))
        layer.freeze()
    with torch.no_grad():
        expected = spiking(x, observe=meter)
    stepper = qcfs.spiking(qcfs.quantized(plain, [1.0, 1.0], n_levels=n_steps))
    outcome = simulate(stepper, x, (n_steps,))
    torch.testing.assert_close(outcome.outputs[0], expected)
    assert outcome.spikes[0] * len(x) == pytest.approx(sum(meter.cost.spikes))


def test_reading_on_the_way_equals_runs_of_their_own(network):
    x = torch.randn(70, 2, 4, 4)  # more than a batch
    stepper = qcfs.spiking(qcfs.quantized(folded(network), [1.0, 1.0], n_levels=4))
    together = simulate(stepper, x, (1, 3, 5))
    for k, n in enumerate((1, 3, 5)):
        alone = simulate(stepper, x, (n,))
        assert torch.equal(together.outputs[k], alone.outputs[0])
        assert together.spikes[k] == alone.spikes[0]


class SlowToStart(nn.Module):
    """Takes a quarter of a second in its first call."""

    called = False

    def forward(self, x):
        time.sleep(0 if self.called else 0.25)
        self.called = True
        return x


def test_the_first_call_of_a_peer_is_not_timed():
    stepper = Stepper(SlowToStart(), [], lambda _: None)
    assert simulate(stepper, torch.zeros(4, 2), (1,)).seconds[0] < 0.1


def test_deferred_neurons_round_the_activation(network):
    plain, data = folded(network), [torch.randn(64, 2, 4, 4)]
    converted = comparison.calibrate(plain, data, n_steps=4, percentile="auto", deferred=True)
    x = torch.randn(8, 2, 4, 4)
    with torch.no_grad():
        value, modules = x, [plain[:2], plain[2:6]]
        for layer, module in zip(converted.layers.values(), modules, strict=True):
            count = (module(value) / layer.threshold + 0.5).floor().clamp(0, 4)
            value = count * layer.threshold
        torch.testing.assert_close(converted(x), plain[6:](value))


def row(method, score, error, group="calibrated", setting="least error"):
    return {
        "group": group, "method": method, "setting": setting, "n_steps": [4, 8],
        "score": score, "error": error, "higher_is_better": False,
    }  # fmt: skip


def test_verdicts_follow_the_direction_of_the_score():
    rows = [row("SpikeSep, deferred", [0.2, 0.1], [0.2, 0.1])]
    rows.append(row("ann2snn", [0.3, 0.05], [0.4, 0.05]))
    four, eight = verdicts(rows)
    assert four.endswith("at least as good")
    assert eight.endswith("WORSE")
    rows[0]["higher_is_better"] = True
    assert [line.split()[-1] for line in verdicts(rows)] == ["WORSE", "good"]
    assert next(error_ratios(rows)).endswith("2.000")
