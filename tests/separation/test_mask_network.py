"""Blocks of the mask network: what they compute, cost and become."""

import pytest
import torch
from helpers.separators import tiny_config, tiny_separator
from torch.nn import functional as F

from spikesep.errors import SpikeSepError
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.growth import grow
from spikesep.separation.model.nir import save_nir
from spikesep.separation.model.separator import Separator, load_separator, save_separator
from spikesep.separation.model.stream import SeparatorStream
from spikesep.spiking import measure, run_nir

SEPARABLE = {"block": "separable", "hidden_channels": 12, "has_norm_statistics": True}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("identity", ["none", "sum", "folded"])
def test_separable_blocks_compute_what_their_convolutions_do(identity, causal):
    """Against plain convolutions, norms and sums of torch, written out."""
    model = tiny_separator(identity=identity, causal=causal, **SEPARABLE)
    network, x = model.network, torch.randn(2, 16, 50)

    def layer(name, x, padding=0, **options):
        part = network.layers[name]
        margins = (2 * padding, 0) if causal else (padding, padding)
        y = F.conv1d(F.pad(x, margins), part.synapse.weight, **options)
        n = part.norm
        y = F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, eps=n.eps)
        keeps = y.shape == x.shape and name != "bottleneck"
        return F.relu(y + x if identity == "folded" and keeps else y)

    with torch.no_grad():
        y = layer("bottleneck", x)
        for k, dilation in enumerate(model.config.dilations, 1):
            inner = layer(f"expand{k}", y)
            inner = layer(f"depthwise{k}", inner, dilation, dilation=dilation, groups=12)
            out = layer(f"project{k}", inner)
            y = y + out if identity == "sum" else out
        synapse = network.readout.synapse
        wanted = F.conv1d(y, synapse.weight, synapse.bias)
        torch.testing.assert_close(network(x), wanted, rtol=1e-4, atol=1e-5)


def test_macs_of_separable_blocks_are_those_counted_by_hand():
    n, c, h, frames = 16, 8, 12, 50
    config = tiny_config(block="separable", hidden_channels=h, dilations=[1, 2])
    _, cost = measure(Separator(config).eval().network, torch.randn(1, n, frames))
    depthwise = sum(3 * frames - 2 * d for d in (1, 2)) * h  # taps on padding are not counted
    assert cost.macs == frames * (n * c + 2 * 2 * c * h + c * 2 * n) + depthwise


@pytest.mark.parametrize("kind", ["ann", "snn", "fixed"])
@pytest.mark.parametrize("identity", ["none", "sum", "folded"])
@pytest.mark.parametrize("causal", [False, True])
def test_streams_of_separable_blocks_equal_one_pass(kind, identity, causal):
    model = tiny_separator(kind, identity=identity, causal=causal, **SEPARABLE)
    mixture = torch.randn(1237)
    stream = SeparatorStream(model)
    pieces = [stream.push(mixture[start : start + 80]) for start in range(0, 1237, 80)]
    found = torch.cat([*pieces, stream.flush()], 1)
    expected = model.separate_conditioned(mixture)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if kind != "fixed" else 0)


def test_context_of_separable_blocks_is_that_of_their_dilations():
    dense, separable = tiny_separator(), tiny_separator(**SEPARABLE)
    assert dense.context == separable.context
    assert dense.look_ahead == separable.look_ahead


@pytest.mark.parametrize("identity", ["none", "sum", "folded"])
def test_engines_fire_the_same_spikes_in_separable_blocks(identity):
    model = tiny_separator("fixed", identity=identity, threshold=0.05, **SEPARABLE)
    x, found = torch.randn(2, 16, 60), {}
    for engine in ("dense", "event"):
        model.network.use_engine(engine)
        counts = {}
        with torch.no_grad():
            model.network(x, lambda name, _, given, out, c=counts: c.setdefault(name, out))
        found[engine] = counts
    assert sum(out.trains[0].n_spikes for out in found["dense"].values() if out.trains) > 0
    for name in model.network.names:
        assert torch.equal(found["dense"][name].count, found["event"][name].count), name


@pytest.mark.parametrize("identity", ["none", "sum", "folded"])
def test_separable_models_are_saved_loaded_and_grown(tmp_path, identity):
    model = tiny_separator(identity=identity, **SEPARABLE)
    save_separator(model, tmp_path / "ann")
    loaded, mixture = load_separator(tmp_path / "ann"), torch.randn(1, 800)
    with torch.no_grad():
        assert torch.equal(loaded(mixture), model(mixture))
        sizes = {"block": "separable", "hidden_channels": 12, "identity": identity}
        grown = grow(model, tiny_config(n_speakers=3, **sizes)).eval()
        torch.testing.assert_close(grown(mixture)[:, :2], model(mixture), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("identity", ["none", "sum", "folded"])
def test_nir_graphs_of_separable_blocks_run_as_the_network_does(tmp_path, identity):
    nir = pytest.importorskip("nir")
    model = tiny_separator("fixed", identity=identity, threshold=0.05, **SEPARABLE)
    save_nir(model, tmp_path / "net.nir", 800)
    with torch.no_grad():
        features, _ = model.encode_in_float64(torch.randn(1, 800))
        found = torch.from_numpy(
            run_nir(nir.read(tmp_path / "net.nir"), features.numpy()).potential
        )
        torch.testing.assert_close(found.float(), model.network(features), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"block": "multi"}, "--model.block multi: must be dense or separable"),
        ({"hidden_channels": 4}, "--model.hidden_channels: needs --model.block separable"),
        ({"block": "separable", "hidden_channels": -1}, "--model.hidden_channels -1: must be"),
    ],
)
def test_blocks_that_do_not_exist_are_refused(sizes, message):
    with pytest.raises(SpikeSepError, match=message):
        SeparatorConfig(**sizes)
