"""The analog network with the weights of a spiking one."""

import pytest
import torch
from helpers.separators import tiny_separator, to_spiking

from spikesep.separation.model.separator import load_separator, save_separator
from tools.analog_twin import analog_twin


@pytest.mark.parametrize("identity", ["folded", "none"])
def test_twin_of_a_converted_network_is_the_network_before_conversion(tmp_path, identity):
    model = tiny_separator(identity=identity, has_norm_statistics=True)
    mixture = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    before = model.separate(mixture)
    snn = to_spiking(model, n_steps=8, threshold=0.02)
    save_separator(analog_twin(snn), tmp_path / "twin")
    after = load_separator(tmp_path / "twin").separate(mixture)
    assert not torch.allclose(snn.separate(mixture), before, atol=1e-3)  # it clips and rounds
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
