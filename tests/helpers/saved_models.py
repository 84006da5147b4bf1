"""A small fixed-point separator, saved as a folder and as a single file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from spikesep.errors import SpikeSepError
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator import KIND, Separator, load_separator, save_separator
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.signal import Coding
from spikesep.training.records.model_folder import checksum, read_model

REPORT = [{"layer": "bottleneck", "threshold": 0.1}]
CARD = "---\nlicense: mit\n---\n# Zwei Stimmen 語\n"


def separator() -> Separator:
    torch.manual_seed(0)
    model = Separator(
        SeparatorConfig(n_filters=16, n_channels=12, dilations=[1, 2], identity="sum")
    ).eval()
    for layer in model.network.layers.values():
        layer.convert(0.2, Coding(4))
        layer.freeze()
    to_fixed_point(model.network, [model.encode(torch.randn(1, 800))[0]])
    return model


def save_both(folder):
    """Save the same model as folder `model/` and file `model.safetensors`."""
    for name in ("model", "model.safetensors"):
        save_separator(separator(), folder / name, REPORT, CARD)
    return folder


def refusal_of(path) -> str:
    with pytest.raises(SpikeSepError) as caught:
        load_separator(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def change(place, tensors=None, sealed=True, **changes):
    """Rewrite folder and file with other settings or tensors, with a new checksum if `sealed`."""
    saved = read_model(place / "model", KIND)
    settings = saved.settings | changes
    held = saved.tensors if tensors is None else tensors(dict(saved.tensors))
    if sealed:
        settings["sha256"] = checksum(settings, held)
    (place / "model" / "config.json").write_text(json.dumps(settings))
    save_file(held, place / "model" / "model.safetensors")
    save_file(held, place / "model.safetensors", {"config": json.dumps(settings)})
