"""NIR graphs: the same spikes as our engines, there and back; named errors for the rest."""

import numpy as np
import pytest
import torch
from helpers.exports.nir_graphs import chain, networks, neurons, written_and_read
from helpers.stacks import converted, run
from hypothesis import given, settings
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking import (
    Coding,
    NotConvertibleError,
    Readout,
    SpikingLayer,
    from_nir,
    run_nir,
    to_fixed_point,
    to_nir,
)
from spikesep.spiking.signal import Signal

nir = pytest.importorskip("nir", reason="the extra nir is not installed")


def small(synapse=None, **options):
    """Two layers with thresholds 0.3 and 0.1 and a readout, for inputs [2, 6]."""
    torch.manual_seed(0)
    second = SpikingLayer(synapse or nn.Conv1d(3, 3, 3, padding=1), **options)
    layers = [SpikingLayer(nn.Conv1d(2, 3, 1)), second]
    return converted(layers, Readout(nn.Conv1d(3, 2, 1)), Coding(8), [0.3, 0.1])


@settings(max_examples=25)
@given(networks())
def test_plain_simulator_counts_the_spikes_of_our_engines(drawn):
    network, x, _ = drawn
    result = run_nir(to_nir(network, x.shape[1:], deferred=True), x.numpy())
    ours = run(network, x, "dense")
    potential = ours.pop("readout").value
    for name, signal in ours.items():
        np.testing.assert_array_equal(result.counts[f"neurons_{name}"], signal.count)
    np.testing.assert_allclose(result.potential, potential, atol=1e-4)


@settings(max_examples=20)
@given(networks())
def test_network_comes_back_from_a_file_with_its_spikes_and_integers(drawn):
    network, x, in_fixed_point = drawn
    graph = written_and_read(to_nir(network, x.shape[1:], deferred=True))
    back = from_nir(graph)
    ours, theirs = run(network, x, "dense"), run(back, x, "dense")
    for name, signal in ours.items():
        torch.testing.assert_close(theirs[name].value, signal.value, atol=1e-4, rtol=0)
        assert not signal.trains or torch.equal(theirs[name].count, signal.count)
    assert back.is_fixed_point == in_fixed_point
    assert back.conversion_settings() == network.conversion_settings()


def test_all_neurons_have_threshold_1_and_say_how_they_reset():
    graph = to_nir(small(identity=True), (2, 6))
    found = [node for node in graph.nodes.values() if isinstance(node, nir.IF)]
    assert all((node.v_threshold == 1).all() and (node.r == 1).all() for node in found)
    assert {node.metadata["reset"] for node in found} == {"subtract"}
    assert all((node.metadata["initial_potential"] == 0.5).all() for node in found)
    assert graph.metadata == {
        "n_steps": 8,
        "encoding": "constant",
        "initial_potential": 0.5,
        "deferred": False,
        "output": "sum over steps",
    }


def test_spikes_are_scaled_before_they_meet_spikes_of_another_threshold():
    network = small(identity=True)
    graph = to_nir(network, (2, 6))
    assert [s for s, t in graph.edges if t == "synapse_readout"] == ["scale_0", "scale_1"]
    np.testing.assert_allclose(graph.nodes["scale_0"].weight[..., 0], 0.3 * np.eye(3))
    network[0].threshold.fill_(0.1)
    graph = to_nir(network, (2, 6))
    assert [s for s, t in graph.edges if t == "synapse_readout"] == ["neurons_0", "neurons_1"]


def test_deferred_network_is_refused_unless_marked():
    network = small()
    for layer in network.layers.values():
        layer.coding = Coding(8, deferred=True)
    with pytest.raises(NotConvertibleError, match="deferred: false, or export it marked"):
        to_nir(network, (2, 6))
    graph = to_nir(network, (2, 6), deferred=True)
    marks = [graph.nodes[f"neurons_{k}"].metadata["deferred"] for k in range(2)]
    assert (graph.metadata["deferred"], marks) == (True, [False, True])


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (lambda: small(nn.ConvTranspose1d(3, 3, 3)), (2, 6), "layer 1: NIR has no transposed"),
        (
            lambda: small(nn.Conv1d(3, 3, 3, padding=1, padding_mode="reflect")),
            (2, 6),
            "layer 1: NIR pads with zeros",
        ),
        (
            lambda: small(before=nn.AvgPool1d(2, ceil_mode=True)),
            (2, 6),
            "layer 1: pooling with ceil_mode",
        ),
        (lambda: small(nn.Linear(6, 3)), (2, 6), r"layer 1: .* vectors, not \[3, 6\]"),
        (small, (5, 6), r"layer 0: Conv1d of 2 channels receives \[5, 6\]"),
        (lambda: small(before=nn.AvgPool1d(9)), (2, 6), "layer 1: pooling is larger"),
    ],
)
def test_what_nir_cannot_hold_is_named(network, shape, message):
    with pytest.raises(NotConvertibleError, match=message):
        to_nir(network(), shape)


def test_kernels_that_cannot_be_squared_and_analog_layers_are_named():
    layers = [SpikingLayer(nn.Conv2d(1, 2, (1, 2)))]
    network = converted(layers, Readout(nn.Conv2d(2, 1, 1)), Coding(4), [0.2])
    with pytest.raises(NotConvertibleError, match=r"^layer 0: NIR takes a kernel of \[1, 2\] only"):
        to_nir(network, (1, 4, 4))
    network.thaw()
    with pytest.raises(NotConvertibleError, match=r"layer 0: is discrete.*ONNX"):
        to_nir(network, (1, 4, 4))


LINEAR = {"weight": np.eye(2), "bias": np.zeros(2)}
CUBA = {"tau_syn": 1.0, "tau_mem": 1.0, "v_leak": 0.0, "w_in": 1.0}
LEAKY = {"tau": 4.0, "v_leak": 0.5, "v_reset": 0.0, "threshold": 2.0}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("CubaLIF", CUBA)], r"node cubalif \(CubaLIF\): filters its input"),
        ([("IF", {})], r"node if \(IF\): does not say how it resets.*coding=Coding"),
        ([("LIF", {"tau": 2.0, "v_leak": 0.0})], r'node lif \(LIF\): does not .* reset="zero"'),
        ([], r"node affine \(Affine\): stands before affine_1 without neurons"),
    ],
)
def test_foreign_neurons_are_named(nodes, message):
    made = [neurons(kind, 2, **numbers) for kind, numbers in nodes]
    graph = chain(nir.Affine(**LINEAR), *made, nir.Affine(**LINEAR))
    with pytest.raises(NotConvertibleError, match=message) as error:
        from_nir(graph)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_foreign_leaky_neurons_run_as_their_differential_equation_in_euler_steps(reset, initial):
    """tau dv/dt = v_leak - v + r I, by hand in Python."""
    graph = chain(nir.Affine(1.5 * np.eye(3), np.full(3, 0.25)), neurons("LIF", 3, **LEAKY))
    coding = Coding(9, initial_potential=initial, reset=reset)
    x, dt, counts = [0.6, 2.0, -1.0], 0.5, []
    network = from_nir(graph, coding, dt=dt)
    for value in x:
        v, count = initial * 2.0, 0
        for _ in range(9):
            v += dt / 4.0 * (0.5 - v + 1.5 * value + 0.25)
            if v >= 2.0:
                v, count = (0.0 if reset == "zero" else v - 2.0), count + 1
        counts.append(count)
    assert network.coding.beta == 1 - dt / 4.0
    assert network(torch.tensor([x])).tolist() == [counts]
    assert sum(counts) >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 1.0}, "its tau must be equal .* above 1, give dt"),
        ({"v_reset": 0.5}, "resets to another potential than 0; make v_reset 0"),
    ],
)
def test_leaks_that_the_core_cannot_run_are_named(change, message):
    graph = chain(nir.Affine(**LINEAR), neurons("LIF", 2, **LEAKY | change))
    with pytest.raises(NotConvertibleError, match=rf"node lif \(LIF\): {message}"):
        from_nir(graph, Coding(4, reset="zero"))
    with pytest.raises(NotConvertibleError, match=r"coding: beta 0.75: a deferred neuron"):
        from_nir(chain(nir.Affine(**LINEAR), neurons("LIF", 2, **LEAKY)), Coding(4, deferred=True))


def test_a_leak_in_integers_is_refused():
    network, x = small(), torch.rand(1, 2, 6)
    for layer in network.layers.values():
        layer.coding = Coding(8, beta=0.875)
    to_fixed_point(network, [x])
    with pytest.raises(NotConvertibleError, match=r"layer 0: a leak in integers .* weight_bits: 0"):
        to_nir(network, (2, 6))


def test_a_leaking_network_says_its_time_constant():
    network = small()
    for layer in network.layers.values():
        layer.coding = Coding(8, beta=0.75, reset="zero")
    nodes = [to_nir(network, (2, 6), reader=r).nodes["neurons_1"] for r in (None, "sinabs")]
    assert {float(node.r.flat[0]) for node in nodes} == {4.0}
    assert [float(node.tau.flat[0]) for node in nodes] == [4.0, pytest.approx(3.4761, abs=1e-4)]
    assert all(node.metadata["reset"] == "zero" and not node.v_leak.any() for node in nodes)


def test_foreign_parts_and_shapes_are_named():
    unequal = neurons("IF", 2, 3)
    unequal.v_threshold[0, 1] = 2
    conv = nir.Conv1d(3, np.ones((2, 2, 1)), 1, 0, 1, 1, np.zeros(2))
    cases = {
        r"node affine \(Affine\): stands before affine_1 without neurons": chain(
            nir.Affine(**LINEAR), nir.Affine(**LINEAR), neurons("IF", 2)
        ),
        "its thresholds must be positive, and all numbers equal": chain(conv, unequal),
        r"node scale \(Scale\): has no counterpart": chain(nir.Scale(np.ones(2)), neurons("IF", 2)),
    }
    for message, graph in cases.items():
        with pytest.raises(NotConvertibleError, match=message):
            from_nir(graph, Coding(4))
    loop = chain(nir.Affine(**LINEAR), neurons("IF", 2))
    loop.edges.append(("if", "affine"))
    with pytest.raises(SpikeSepError, match="part of a cycle"):
        from_nir(loop, Coding(4))
    severed = chain(nir.Affine(**LINEAR), neurons("IF", 2))
    severed.metadata |= {"n_steps": 4, "encoding": "constant"}
    severed.edges = [edge for edge in severed.edges if edge[1] != "affine"]
    with pytest.raises(SpikeSepError, match=r"node affine \(Affine\): reads nothing"):
        run_nir(severed, np.ones((1, 2)))
    with pytest.raises(SpikeSepError, match="no metadata n_steps"):
        run_nir(chain(nir.Affine(**LINEAR), neurons("IF", 2)), np.ones((1, 2)))


def test_graph_that_ends_in_neurons_counts_their_spikes():
    """Thresholds of 2 and resistances of 1, an input of spikes, by hand: floor(5 * 0.8 / 2)."""
    graph = chain(nir.Affine(0.8 * np.eye(2), np.zeros(2)), neurons("IF", 2, threshold=2.0))
    network = from_nir(graph, Coding(5, encoding="impulse", initial_potential=0.0))
    spikes = torch.ones(5, 1, 2, dtype=torch.bool)
    spikes[:, :, 1] = False
    assert network(Signal.from_spikes(spikes, torch.tensor(1.0))).tolist() == [[2, 0]]


def test_readers_that_would_run_another_network_are_named():
    layers = [SpikingLayer(nn.Conv2d(1, 2, 1), before=nn.AvgPool2d(2, padding=1))]
    network = converted(layers, Readout(nn.Conv2d(2, 1, 1)), Coding(4), [0.2])
    with pytest.raises(NotConvertibleError, match=r"layer 0: Sinabs pools .* in SpikingJelly"):
        to_nir(network, (1, 4, 4), reader="sinabs")
    assert isinstance(
        to_nir(network, (1, 4, 4), reader="spikingjelly").nodes["pool_0"], nir.AvgPool2d
    )
    with pytest.raises(NotConvertibleError, match=r"leaky neuron.*Sinabs or SpikingJelly"):
        to_nir(network, (1, 4, 4), reader="snntorch")
    with pytest.raises(ValueError, match="reader must be one of sinabs"):
        to_nir(network, (1, 4, 4), reader="brian")


@settings(max_examples=10)
@given(networks())
def test_sums_instead_of_means_change_no_count(drawn):
    network, x, _ = drawn
    shape = x.shape[1:]
    results = [
        run_nir(to_nir(network, shape, deferred=True, reader=reader), x.numpy())
        for reader in ("sinabs", "spikingjelly")
    ]
    for name, count in results[0].counts.items():
        np.testing.assert_array_equal(count, results[1].counts[name])


def test_damaged_integers_are_named():
    network, x = small(), torch.rand(1, 2, 6)
    to_fixed_point(network, [x])
    graph = to_nir(network, (2, 6))
    with pytest.raises(NotConvertibleError, match="leave coding out"):
        from_nir(graph, Coding(4))
    integers = graph.nodes["neurons_1"].metadata["integers"]
    integers["threshold"][0] = 0
    with pytest.raises(NotConvertibleError, match=r"layer 1: its integers are out of range"):
        from_nir(graph)
    for change in ({"scale": np.ones(7)}, {"scale": "many"}):
        graph.nodes["neurons_1"].metadata["integers"] = integers | change
        with pytest.raises(NotConvertibleError, match=r"node neurons_1 \(IF\): .* damaged"):
            from_nir(graph)
    del integers["scale"]
    graph.nodes["neurons_1"].metadata["integers"] = integers
    with pytest.raises(NotConvertibleError, match=r"node neurons_1 \(IF\): .* damaged"):
        from_nir(graph)
    del graph.nodes["neurons_1"].metadata["integers"]
    with pytest.raises(NotConvertibleError, match="fixed-point form: the graph is damaged"):
        from_nir(graph)
