import json
import shutil

import pytest
import torch
from helpers.saved_models import CARD, REPORT, separator
from safetensors.torch import save_file

from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator import KIND, Separator, load_separator, save_separator
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.signal import Coding
from spikesep.training.records.model_folder import checksum, read_model


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_folder_and_file_contain_model_report_and_card(whole, name):
    saved, mixture = read_model(whole / name, KIND), torch.randn(500)
    assert (saved.report, saved.card) == (REPORT, CARD)
    assert torch.equal(
        load_separator(whole / name).separate(mixture), separator().separate(mixture)
    )


def test_single_file_is_self_contained(whole, tmp_path):
    shutil.copy(whole / "model.safetensors", tmp_path / "mailed.safetensors")
    assert load_separator(tmp_path / "mailed.safetensors").kind == "snn"


def test_pruning_masks_are_saved_as_bits(tmp_path):
    torch.manual_seed(0)
    model = Separator(SeparatorConfig(n_filters=16, n_channels=12, dilations=[1, 2])).eval()
    limits = HardwareLimits(fan_in=7)
    for layer in model.network.layers.values():
        layer.convert(0.2, Coding(4), limits=limits)
        layer.freeze()
    model.network.readout.impose(limits)
    model.network.readout.freeze()
    mixture = torch.randn(800)
    to_fixed_point(model.network, [model.encode(mixture[None])[0]])
    save_separator(model, tmp_path / "model")
    held = read_model(tmp_path / "model", KIND).tensors["network.layers.dilated1.limiter.kept"]
    assert (held.dtype, held.shape) == (torch.uint8, (12 * 12 * 3 // 8,))
    saved = read_model(tmp_path / "model", KIND)
    assert saved.settings["format"].endswith("/3")
    masks = {name: tensor for name, tensor in model.state_dict().items() if name.endswith("kept")}
    settings = {**saved.settings, "format": f"{KIND}/2"}  # as written before masks were packed
    tensors = saved.tensors | masks
    (tmp_path / "older").mkdir()
    save_file(tensors, tmp_path / "older" / "model.safetensors")
    settings["sha256"] = checksum(settings, tensors)
    (tmp_path / "older" / "config.json").write_text(json.dumps(settings))
    older = load_separator(tmp_path / "older").state_dict()
    assert all(torch.equal(older[name], mask) for name, mask in masks.items())
    loaded = load_separator(tmp_path / "model")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    (voices, cost), (again, cost_again) = (
        model.separate_with_cost(mixture),
        loaded.separate_with_cost(mixture),
    )
    assert torch.equal(voices, again)
    assert cost.to_dict() == cost_again.to_dict()


def test_saving_twice_gives_the_same_checksum(whole):
    assert (
        read_model(whole / "model", KIND).settings
        == read_model(whole / "model.safetensors", KIND).settings
    )


def test_existing_file_is_replaced(place):
    save_separator(separator(), place / "model.safetensors")
    assert read_model(place / "model.safetensors", KIND).card is None
    assert not list(place.glob(".*"))


def test_links_to_and_within_the_folder_are_followed(place):
    (place / "model" / "model.safetensors").rename(place / "model" / "weights")
    (place / "model" / "model.safetensors").symlink_to("weights")
    (place / "link").symlink_to("model")
    assert load_separator(place / "link").kind == "snn"
