"""Other simulators that read our NIR graphs fire the same spikes, to the count."""

import re

import numpy as np
import pytest
import torch
from helpers.exports.simulators import sinabs_model, sinabs_run, spikingjelly_run
from helpers.paths import ROOT
from helpers.separators import tiny_separator
from helpers.stacks import converted
from torch import nn

from spikesep.spiking import (
    Coding,
    Readout,
    SpikingLayer,
    from_nir,
    run_nir,
    to_fixed_point,
    to_nir,
)

pytest.importorskip("nir", reason="the extra nir is not installed")
pytest.importorskip("nirtorch", reason="nirtorch is not installed")

LANGUAGES = ("python", "py")
"""Blocks of the guide that always run, and those of other simulators."""
SIMULATORS = {
    "sinabs": (sinabs_run, "sinabs.nir"),
    "spikingjelly": (spikingjelly_run, "spikingjelly.activation_based.nir_exchange"),
}
NEURONS = ({}, {"reset": "zero"}, {"beta": 0.9}, {"beta": 0.75, "reset": "zero"})


@pytest.fixture(params=list(SIMULATORS))
def simulate(request):
    run, module = SIMULATORS[request.param]
    pytest.importorskip(module, reason=f"{request.param} with NIR is not installed")
    return run


def assert_same(simulate, network, x, **options):
    package = simulate.__name__.removesuffix("_run")
    graph = to_nir(network, x.shape[1:], **{"reader": package} | options)
    counts, potential = simulate(graph, x.numpy())
    ours = run_nir(graph, x.numpy())
    assert counts.keys() == ours.counts.keys()
    for name, count in ours.counts.items():
        np.testing.assert_array_equal(counts[name], count, err_msg=name)
        assert count.any()
    np.testing.assert_allclose(potential, ours.potential, atol=1e-6)
    captured = {}
    with torch.no_grad():
        network(x, lambda name, layer, signal, out: captured.setdefault(name, out))
    for name in network.names:
        np.testing.assert_array_equal(counts[f"neurons_{name}"], captured[name].count)


@pytest.mark.parametrize("kind", ["snn", "fixed"])
@pytest.mark.parametrize("identity", ["none", "sum", "folded"])
def test_separator_fires_the_same_spikes(simulate, kind, identity):
    separator = tiny_separator(kind, has_norm_statistics=True, identity=identity)
    with torch.no_grad():
        features, _ = separator.encode_in_float64(torch.randn(2, 300))
    assert_same(simulate, separator.network, features)


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_random_networks_with_identity_paths_fire_the_same_spikes(simulate, seed, neuron):
    torch.manual_seed(seed)
    layers = [SpikingLayer(nn.Conv1d(3, 6, 1))]
    for dilation in (1, 2, 4):
        synapse = nn.Conv1d(6, 6, 3, padding=dilation, dilation=dilation, groups=1 + seed)
        layers.append(SpikingLayer(synapse, nn.BatchNorm1d(6), identity=True))
    coding = Coding(7, ["constant", "impulse"][seed % 2], [0.5, 0.3, 0.0][seed], **neuron)
    readout = Readout(nn.Conv1d(6, 2, 1), nn.AvgPool1d(3))
    network = converted(layers, readout, coding, [0.4, 0.2, 0.3, 0.2])
    assert_same(simulate, network, torch.randn(2, 3, 12))


def test_images_with_pooling_fire_the_same_spikes(simulate):
    torch.manual_seed(1)
    layers = [
        SpikingLayer(nn.Conv2d(2, 4, 3, padding=1)),
        SpikingLayer(
            nn.Conv2d(4, 6, (1, 3), padding=(0, 2), dilation=(1, 2)), before=nn.AvgPool2d(2)
        ),
        SpikingLayer(nn.Linear(24, 9), before=nn.Sequential(nn.AvgPool2d(2), nn.Flatten())),
    ]
    network = converted(layers, Readout(nn.Linear(9, 3)), Coding(8), [0.3, 0.2, 0.1])
    x = torch.rand(3, 2, 8, 8)
    to_fixed_point(network, [x])
    assert_same(simulate, network, x)


def test_code_of_the_guide_gives_the_same_potential(simulate, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "other-simulators.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (first, *_), others = (
        re.findall(rf"^```{k}\n(.*?)^```$", page, re.M | re.S) for k in LANGUAGES
    )
    package = simulate.__name__.removesuffix("_run")
    (own,) = [code for code in others if package in code]
    names: dict = {}
    exec(compile(first, "docs/other-simulators.md", "exec"), names)
    expected = names["potential"].numpy()
    exec(compile(own, "docs/other-simulators.md", "exec"), names)
    np.testing.assert_allclose(names["potential"].detach().numpy(), expected, atol=1e-5)


def test_network_of_sinabs_comes_in_with_its_spikes():
    sinabs_nir = pytest.importorskip("sinabs.nir", reason="sinabs is not installed")
    torch.manual_seed(0)
    model, n_steps, batch = sinabs_model(), 12, 3
    x = 4 * torch.rand(batch, 2, 6, 6)
    steps = x[:, None].expand(-1, n_steps, -1, -1, -1).flatten(0, 1)
    with torch.no_grad():
        theirs = model(steps).unflatten(0, (batch, n_steps)).sum(1)
    graph = sinabs_nir.to_nir(model, steps)
    network = from_nir(graph, Coding(n_steps, initial_potential=0.0))
    assert theirs.sum() >= 10
    assert torch.equal(network(x), theirs)
