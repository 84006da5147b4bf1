"""Models that were modified, truncated, or made by something else."""

import json
import pickle
import time
from pathlib import Path

import pytest
import torch
from helpers.saved_models import change, refusal_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from spikesep.errors import SpikeSepError
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator import Separator, load_separator
from spikesep.training.records.model_files import LARGEST_HEADER


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_changed_byte_of_a_tensor_is_refused(whole, tmp_path, data):
    file = bytearray((whole / "model.safetensors").read_bytes())
    first = 8 + int.from_bytes(file[:8], "little")
    file[data.draw(st.integers(first, len(file) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "changed.safetensors").write_bytes(file)
    with pytest.raises(
        SpikeSepError, match=r"changed\.safetensors: .*(checksum differs|holds NaN)"
    ):
        load_separator(tmp_path / "changed.safetensors")


CHANGES = {
    "n_steps": {
        "coding": {
            "n_steps": 8,
            "encoding": "constant",
            "initial_potential": 0.5,
            "deferred": False,
        }
    },
    "sample rate": {
        "model": {"n_filters": 16, "n_channels": 12, "dilations": [1, 2], "sample_rate": 16000}
    },
    "one more": {"comment": "trust me"},
    "checksum": {"sha256": "0" * 64},
    "no checksum": {"sha256": None},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_changed_setting_is_refused(place, name, changes):
    change(place, sealed=False, **changes)
    assert "checksum differs" in refusal_of(place / name)


WITHIN = {
    "foreign": ({"format": "other-model/2"}, None, "not a SpikeSep separator"),
    "an image network": ({"format": "spikesep-image-network/2"}, None, "not a SpikeSep separator"),
    "without a seal": (
        {"format": "spikesep-separator/1"},
        None,
        "is of format 1, which has no checksum",
    ),
    "from the future": ({"format": "spikesep-separator/4"}, None, "install a newer SpikeSep"),
    "no version": ({"format": "spikesep-separator"}, None, "is of format"),
    "no settings of a network": ({"model": None}, None, "not a complete separator"),
    "an unknown setting": ({"model": {"n_ears": 2}}, None, "n_ears"),
    "a setting of another type": (
        {"model": {"n_filters": "many"}},
        None,
        "not a complete separator",
    ),
    "sizes beyond the file": (
        {"model": {"n_filters": 60_000, "n_channels": 60_000}},
        None,
        "its settings describe",
    ),
    "layers beyond the file": (
        {"model": {"n_filters": 16, "n_channels": 64, "dilations": [1] * 99}},
        None,
        "describe",
    ),
    "a window without end": (
        {
            "coding": {
                "n_steps": 10**9,
                "encoding": "constant",
                "initial_potential": 0.5,
                "deferred": False,
            }
        },
        None,
        "n_steps must be at least 1 and at most 65536",
    ),
    "more layers converted": ({"n_converted": 10**9}, None, "not a complete separator"),
    "a coding that cannot be": ({"coding": {"n_steps": -1}}, None, "n_steps"),
    "NaN": (
        {},
        lambda t: t | {"norm.gain": t["norm.gain"] * float("nan")},
        "norm.gain holds NaN or Inf",
    ),
    "Inf": ({}, lambda t: t | {"norm.gain": t["norm.gain"] / 0}, "norm.gain holds NaN or Inf"),
    "another shape": (
        {},
        lambda t: t | {"norm.gain": torch.ones(17, 1)},
        r"norm.gain is torch.float32 [17, 1]",
    ),
    "another type": (
        {},
        lambda t: t | {"norm.gain": t["norm.gain"].double()},
        "norm.gain is torch.float64",
    ),
    "a tensor too many": ({}, lambda t: t | {"extra": torch.ones(1)}, "no tensor extra"),
    "a tensor missing": (
        {},
        lambda t: {k: v for k, v in t.items() if k != "norm.bias"},
        "norm.bias is missing",
    ),
    "integers missing": (
        {},
        lambda t: {k: v for k, v in t.items() if k != "network.layers.dilated2.fixed.weight"},
        "network.layers.dilated2.fixed.weight",
    ),
    "no tensors": ({}, lambda t: {}, "not a complete separator"),
}


@pytest.mark.parametrize(("changes", "tensors", "message"), WITHIN.values(), ids=WITHIN)
@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_invalid_model_with_a_valid_checksum_is_refused(place, name, changes, tensors, message):
    change(place, tensors, **changes)
    begun = time.process_time()
    assert message in refusal_of(place / name)
    assert time.process_time() - begun < 10


ENDLESS = {
    "n_filters": 10**30,
    "n_channels": 10**6,
    "kernel_size": 10**9,
    "conv_kernel_size": 10**9 + 1,
    "n_speakers": 10**9,
    "sample_rate": 10**12,
    "identity": "sum" * 10**5,
    "dilations": [1] * 100_000,
    "dilations, one large": [10**9],
    "dilations, all together": [2**20] * 100,
    "dilations, no numbers": [1.0, "2"],
}


@pytest.mark.parametrize("name", ENDLESS)
def test_excessive_sizes_are_refused_before_building(place, monkeypatch, name):
    def built(config):
        raise AssertionError("it is built")

    change(place, model={"n_filters": 16, "n_channels": 12, name.partition(",")[0]: ENDLESS[name]})
    monkeypatch.setattr(Separator, "__init__", built)
    found = refusal_of(place / "model.safetensors")
    assert f"--model.{name.partition(',')[0]} " in found
    assert len(found) < len(str(place)) + 300


def test_large_realistic_sizes_are_accepted():
    SeparatorConfig(
        sample_rate=192_000, n_filters=4096, kernel_size=512, n_channels=2048, conv_kernel_size=31
    )
    SeparatorConfig(dilations=[2**k for k in range(8)] * 12)
    SeparatorConfig(dilations=[2**20])
    SeparatorConfig(dilations=[1] * 1000)


class Bomb:
    """An object that writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def oversize(path):
    path.write_bytes((LARGEST_HEADER + 8).to_bytes(8, "little") + b"{}" + b" " * LARGEST_HEADER)


def gap(path):
    header = json.dumps(
        {"norm.gain": {"dtype": "F32", "shape": [1], "data_offsets": [64, 68]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(68))


def nested(path):
    header = b'{"a":' * 100_000
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


def folder(path):
    path.unlink()
    path.mkdir()


FILES = {
    "pickle": (lambda p: p.write_bytes(pickle.dumps(Bomb(p.parent / "ran"))), "is a pickle"),
    "old pickle": (lambda p: p.write_bytes(pickle.dumps(Bomb(p.parent / "ran"), 2)), "is a pickle"),
    "torch.save": (
        lambda p: torch.save({"x": torch.ones(1), "b": Bomb(p.parent / "ran")}, p),
        "is a pickle",
    ),
    "empty": (lambda p: p.write_bytes(b""), "not a complete safetensors file"),
    "text": (lambda p: p.write_text("hello, these are no tensors"), "its header would have"),
    "oversize header": (oversize, "its header would have"),
    "a gap between tensors": (gap, "not a complete safetensors file"),
    "a header nested without end": (nested, "not a complete safetensors file"),
    "cut off": (cut, "not a complete safetensors file"),
    "longer": (longer, "not a complete safetensors file"),
    "a folder": (folder, "no such file"),
    "missing": (Path.unlink, "no such file"),
}


@pytest.mark.parametrize(("damage", "message"), FILES.values(), ids=FILES)
def test_other_tensor_files_are_refused_without_execution(place, damage, message):
    damage(place / "model" / "model.safetensors")
    with pytest.raises(SpikeSepError, match=message) as caught:
        load_separator(place / "model")
    assert "\n" not in str(caught.value)
    assert "model.safetensors" in str(caught.value)
    assert not (place / "model" / "ran").exists()


TEXTS = {
    "nested without end": "[" * 100_000,
    "a number without end": '{"format": ' + "9" * 5000 + "}",
    "too long": '{"format": "spikesep-separator/2", "x": "' + "a" * (1 << 20) + '"}',
    "no text": b"\xff\xfe\x00\x01",
    "a list": "[]",
    "null": "null",
    "empty": "",
    "missing": None,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_unreadable_settings_are_refused_by_name(place, text):
    path = place / "model" / "config.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpikeSepError, match=r"config\.json") as caught:
        load_separator(place / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "about", [{}, {"config": "{"}, {"config": "[" * 100_000}, {"config": "[]"}]
)
def test_single_file_without_settings_is_refused(place, about):
    path = place / "model.safetensors"
    path.write_bytes(save(load_file(place / "model" / "model.safetensors"), about))
    refusal_of(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "report.json", "README.md"])
def test_link_out_of_the_folder_is_refused(place, name):
    (place / "model" / name).rename(place / "elsewhere")
    (place / "model" / name).symlink_to("../elsewhere")
    with pytest.raises(SpikeSepError, match="outside of its folder"):
        load_separator(place / "model")


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_checksum_cannot_be_omitted(place, name):
    """By claiming a version of the format without checksum."""

    def changed(tensors):
        return tensors | {"norm.gain": 2 * tensors["norm.gain"]}

    change(place, changed, sealed=False, format="spikesep-separator/1", sha256=None)
    assert (
        "is of format 1, which has no checksum to detect changes; train the model again"
        in refusal_of(place / name)
    )


@pytest.mark.parametrize("name", ["model/model.safetensors", "model.safetensors"])
def test_git_lfs_pointer_error_names_the_command(place, name):
    (place / name).write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 700000\n"
    )
    assert "run `git lfs pull`" in refusal_of(place / name.partition("/")[0])
