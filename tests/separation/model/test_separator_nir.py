"""The mask network of a separator as a NIR file: the same voices through the plain simulator."""

import numpy as np
import pytest
import torch
from helpers.separators import tiny_separator

from spikesep.errors import SpikeSepError
from spikesep.separation.model.nir import save_nir
from spikesep.spiking import from_nir, run_nir

nir = pytest.importorskip("nir", reason="the extra nir is not installed")


@pytest.mark.parametrize("n_samples", [200, 203])
def test_file_separates_between_encoder_and_decoder(tmp_path, n_samples):
    model = tiny_separator("fixed", has_norm_statistics=True, identity="sum")
    save_nir(model, tmp_path / "network.nir", n_samples)
    graph = nir.read(tmp_path / "network.nir")
    assert (graph.metadata["sample_rate"], graph.metadata["n_samples"]) == (8000, n_samples)
    mixture = torch.randn(1, n_samples)
    expected = model.separate_conditioned(mixture[0])
    with torch.no_grad():
        features, context = model.encode_in_float64(mixture)
        potential = torch.from_numpy(run_nir(graph, features.numpy()).potential)
        np.testing.assert_allclose(model.decode(potential, context)[0], expected, atol=1e-5)
        again = model.decode(from_nir(graph)(features), context)[0]
        np.testing.assert_allclose(again, expected, atol=1e-5)


def test_analog_separator_is_refused_without_a_file(tmp_path):
    with pytest.raises(SpikeSepError, match="layer bottleneck: is analog"):
        save_nir(tiny_separator("ann"), tmp_path / "network.nir", 200)
    assert list(tmp_path.iterdir()) == []
