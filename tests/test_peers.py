"""A peer is timed only if it fires our spikes, and one that fails ends nothing else."""

import json
import os
import sys
import time

import pytest
import torch

from benchmarks import __main__ as suite
from benchmarks.engines import stack
from benchmarks.engines.comparison import accelerator
from benchmarks.engines.peers import PEERS, Peer, UnsuitableError, plain_loop
from benchmarks.engines.trial import try_peers
from benchmarks.timing import describe_command
from benchmarks.training.memory import memory


@pytest.fixture(scope="module")
def network():
    """Make a small stack: its layers for peers, its input, and the counts of our dense engine."""
    network, signal = stack.build_stack(16, [1, 2], 8, 0.1, 0.1)
    with torch.no_grad():
        expected = stack.ours(network, "dense")(signal)
    return stack.plain_layers(network), signal.trains[0].spikes.float(), expected


def raises(layers):
    raise ValueError("no such\nkernel")


def refuses(layers):
    raise UnsuitableError("resets to zero")


def lacks(layers):
    raise ImportError("No module named 'cupy'")


def one_more(layers):
    run = plain_loop(layers)
    return lambda spikes: run(spikes) + 1


def crashes(layers):
    os._exit(7)


def hangs(layers):
    time.sleep(600)


@pytest.mark.slow
def test_every_way_to_fail_gets_its_reason_and_the_next_peer_runs(network):
    builds = (raises, refuses, lacks, one_more, crashes, hangs, plain_loop)
    peers = [Peer(build.__name__, build, install="pip install it") for build in builds]
    peers.append(Peer("elsewhere", plain_loop, devices=("cuda",)))
    peers.append(Peer("absent", plain_loop, package="no.such_package", install="pip install it"))
    found = try_peers(peers, *network, longest=10)
    assert list(found) == [peer.name for peer in peers]
    assert {name: verdict.status for name, verdict in found.items()} == {
        "raises": "failed",
        "refuses": "unsuitable",
        "lacks": "missing",
        "one_more": "other",
        "crashes": "failed",
        "hangs": "failed",
        "plain_loop": "same",
        "elsewhere": "unsuitable",
        "absent": "missing",
    }
    assert found["raises"].note == "ValueError: no such kernel"
    assert found["lacks"].note == "No module named 'cupy': pip install it"
    assert found["crashes"].note == "its process ended with status 7"
    assert found["hangs"].note == "took more than 10 s"
    assert found["absent"].note == "not installed: pip install it"


@pytest.mark.parametrize("name", ["plain loop over time", "float32, steps batched"])
def test_our_loops_give_the_counts_of_an_engine(network, name):
    layers, spikes, expected = network
    with torch.no_grad():
        assert torch.equal(PEERS[name].build(layers)(spikes), expected)


def test_a_batch_repeats_the_spikes_of_its_example():
    network, signal = stack.build_stack(16, [1, 2], 8, 0.1, 0.1)
    run = stack.ours(network, "dense")
    with torch.no_grad():
        expected = run(signal)
        assert torch.equal(run(stack.repeated(signal, 3, "cpu")), expected.expand(3, -1, -1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_benchmark_of_the_accelerator_runs():
    rows = accelerator(quick=True)
    assert all(row["counts_equal"] for row in rows if row["peer"] == "dense")


def test_every_peer_that_needs_a_package_says_how_to_install_it():
    for peer in PEERS.values():
        assert peer.install.startswith("pip install") == bool(peer.package), peer.name


def fails(quick):
    raise RuntimeError("broken on purpose")


def skips(quick):
    return "no accelerator here"


def works(quick):
    return [{"name": "a", "value": 1}]


def table(name, rows):
    yield f"{name}: {len(rows)} rows"


@pytest.fixture
def own_suite(monkeypatch, tmp_path):
    """Replace the benchmarks by three functions of this module; returns a folder for --out."""
    monkeypatch.setitem(sys.modules, "benchmarks.own", sys.modules[__name__])
    monkeypatch.setattr(
        suite, "BENCHMARKS", {name: f"own.{name}" for name in ("fails", "skips", "works")}
    )
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--out", str(tmp_path)])
    return tmp_path


def test_a_benchmark_that_fails_or_is_skipped_does_not_end_the_suite(own_suite, capsys):
    assert suite.main() == 1
    records = {path.stem: json.loads(path.read_text()) for path in own_suite.glob("*.json")}
    assert records["fails"]["failed"] == "failed, RuntimeError: broken on purpose"
    assert records["skips"]["skipped"] == "skipped, no accelerator here"
    assert records["works"]["rows"] == [{"name": "a", "value": 1}]
    assert "works: 1 rows" in capsys.readouterr().out


def test_a_record_says_how_it_was_measured(own_suite):
    suite.main()
    record = json.loads((own_suite / "works.json").read_text())
    assert record["command"] == "python -m benchmarks --only works"
    run = record["run"]
    assert run["seed"] == 0
    assert run["versions"]["torch"] == torch.__version__
    assert run["machine"]["isa"] == torch.backends.cpu.get_cpu_capability()
    assert run["machine"]["threads"] == torch.get_num_threads()
    assert {"processor", "cores", "masks"} <= run["machine"].keys()


def broken_table(name, rows):
    raise ValueError("no such column")
    yield


def test_rows_are_written_before_they_are_printed(own_suite, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "table", broken_table)
    with pytest.raises(ValueError, match="no such column"):
        suite.main()
    assert json.loads((own_suite / "works.json").read_text())["rows"] == works(False)


def test_a_finished_measurement_leaves_no_journal_for_the_next_to_resume(own_suite):
    for name in ("fails", "works"):
        (own_suite / f"{name}.journal.json").write_text("{}")
    suite.main()
    assert (own_suite / "fails.journal.json").exists()
    assert not (own_suite / "works.journal.json").exists()


def test_memory_is_skipped_where_it_cannot_be_measured(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux" in memory(quick=True)


def test_a_benchmark_with_a_command_of_its_own_records_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks.tracks", "--table", "my table"])
    found = describe_command("benchmarks.tracks", 3)
    assert found["command"] == "python -m benchmarks.tracks --table 'my table'"
    assert found["run"]["seed"] == 3


def test_the_list_has_a_line_for_every_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--list"])
    assert suite.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(suite.BENCHMARKS)
    assert all(len(line.split()) > 3 for line in lines)
