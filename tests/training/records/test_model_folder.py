import json
import pickle
import shutil
import time

import pytest
import torch
from helpers.separators import tiny_separator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from spikesep.errors import SpikeSepError
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator import KIND, Separator, load_separator, save_separator
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.signal import Coding
from spikesep.training.records.model_folder import LARGEST_HEADER, checksum, read_model

REPORT = [{"layer": "bottleneck", "threshold": 0.1}]
CARD = "---\nlicense: mit\n---\n# Zwei Stimmen 語\n"


def separator() -> Separator:
    return tiny_separator("fixed", n_steps=4, n_channels=12, identity="sum")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`model/` and `model.safetensors`, the same in both forms."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("model", "model.safetensors"):
        save_separator(separator(), folder / name, REPORT, CARD)
    return folder


@pytest.fixture
def place(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "here")
    return tmp_path / "here"


def the_refusal(path) -> str:
    with pytest.raises(SpikeSepError) as caught:
        load_separator(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def change(place, tensors=None, sealed=True, **changes):
    """Write both forms anew with other settings or tensors; with `sealed`, as somebody would who knows the format."""
    saved = read_model(place / "model", KIND)
    about, held = (
        saved.settings | changes,
        saved.tensors if tensors is None else tensors(dict(saved.tensors)),
    )
    if sealed:
        about["sha256"] = checksum(about, held)
    (place / "model" / "config.json").write_text(json.dumps(about))
    save_file(held, place / "model" / "model.safetensors")
    save_file(held, place / "model.safetensors", {"config": json.dumps(about)})


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_a_folder_and_a_file_give_back_model_report_and_card(whole, name):
    saved, mixture = read_model(whole / name, KIND), torch.randn(500)
    assert (saved.report, saved.card) == (REPORT, CARD)
    assert torch.equal(
        load_separator(whole / name).separate(mixture), separator().separate(mixture)
    )


def test_a_file_needs_nothing_beside_it(whole, tmp_path):
    shutil.copy(whole / "model.safetensors", tmp_path / "mailed.safetensors")
    assert load_separator(tmp_path / "mailed.safetensors").kind == "snn"


def test_which_inputs_were_given_up_is_kept_in_bits(tmp_path):
    model = tiny_separator(n_channels=12)
    limits = HardwareLimits(fan_in=7)
    for layer in model.network.layers.values():
        layer.convert(0.2, Coding(4), limits=limits)
        layer.freeze()
    model.network.readout.limit(limits)
    model.network.readout.freeze()
    mixture = torch.randn(800)
    to_fixed_point(model.network, [model.encode(mixture[None])[0]])
    save_separator(model, tmp_path / "model")
    held = read_model(tmp_path / "model", KIND).tensors["network.layers.dilated1.limiter.kept"]
    assert (held.dtype, held.shape) == (torch.uint8, (12 * 12 * 3 // 8,))
    saved = read_model(tmp_path / "model", KIND)
    assert saved.settings["format"].endswith("/3")
    masks = {name: tensor for name, tensor in model.state_dict().items() if name.endswith("kept")}
    settings = {**saved.settings, "format": f"{KIND}/2"}  # as it was before there were bits
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


def test_a_file_that_stood_there_is_replaced_whole(place):
    save_separator(separator(), place / "model.safetensors")
    assert read_model(place / "model.safetensors", KIND).card is None
    assert not list(place.glob(".*"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_of_any_tensor_is_refused(whole, tmp_path, data):
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
def test_a_changed_setting_is_refused(place, name, changes):
    change(place, sealed=False, **changes)
    assert "checksum differs" in the_refusal(place / name)


WITHIN = {
    "foreign": ({"format": "other-model/2"}, None, "not a SpikeSep separator"),
    "an image network": ({"format": "spikesep-image-network/2"}, None, "not a SpikeSep separator"),
    "without a seal": (
        {"format": "spikesep-separator/1"},
        None,
        "is of format 1, which has no checksum",
    ),
    "from the future": ({"format": "spikesep-separator/4"}, None, "take a newer SpikeSep"),
    "no version": ({"format": "spikesep-separator"}, None, "is of format"),
    "no settings of a network": ({"model": None}, None, "not a whole separator"),
    "an unknown setting": ({"model": {"n_ears": 2}}, None, "n_ears"),
    "a setting of another type": ({"model": {"n_filters": "many"}}, None, "not a whole separator"),
    "sizes beyond the file": (
        {"model": {"n_filters": 60_000, "n_channels": 60_000}},
        None,
        "its settings speak of",
    ),
    "layers beyond the file": (
        {"model": {"n_filters": 16, "n_channels": 64, "dilations": [1] * 99}},
        None,
        "speak of",
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
    "more layers converted": ({"n_converted": 10**9}, None, "not a whole separator"),
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
        r"norm.gain is of torch.float32 [17, 1]",
    ),
    "another type": (
        {},
        lambda t: t | {"norm.gain": t["norm.gain"].double()},
        "norm.gain is of torch.float64",
    ),
    "a tensor too many": ({}, lambda t: t | {"extra": torch.ones(1)}, "extra is no tensor of it"),
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
    "no tensors": ({}, lambda t: {}, "not a whole separator"),
}


@pytest.mark.parametrize(("changes", "tensors", "message"), WITHIN.values(), ids=WITHIN)
@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_what_is_no_such_model_is_refused_though_its_checksum_is_right(
    place, name, changes, tensors, message
):
    change(place, tensors, **changes)
    begun = time.process_time()
    assert message in the_refusal(place / name)
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
def test_sizes_without_end_are_refused_before_anything_is_built(place, monkeypatch, name):
    def built(config):
        raise AssertionError("it is built")

    change(place, model={"n_filters": 16, "n_channels": 12, name.partition(",")[0]: ENDLESS[name]})
    monkeypatch.setattr(Separator, "__init__", built)
    found = the_refusal(place / "model.safetensors")
    assert f"--model.{name.partition(',')[0]} " in found
    assert len(found) < len(str(place)) + 300


def test_sizes_of_research_are_not_refused():
    SeparatorConfig(
        sample_rate=192_000, n_filters=4096, kernel_size=512, n_channels=2048, conv_kernel_size=31
    )
    SeparatorConfig(dilations=[2**k for k in range(8)] * 12)
    SeparatorConfig(dilations=[2**20])
    SeparatorConfig(dilations=[1] * 1000)


class Bomb:
    """Unpickled, it would leave a file."""

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
    "empty": (lambda p: p.write_bytes(b""), "not a whole safetensors file"),
    "text": (lambda p: p.write_text("hello, these are no tensors"), "its header would have"),
    "oversize header": (oversize, "its header would have"),
    "a gap between tensors": (gap, "not a whole safetensors file"),
    "a header nested without end": (nested, "not a whole safetensors file"),
    "cut off": (cut, "not a whole safetensors file"),
    "longer": (longer, "not a whole safetensors file"),
    "a folder": (folder, "no such file"),
}


@pytest.mark.parametrize(("damage", "message"), FILES.values(), ids=FILES)
def test_tensors_of_another_kind_are_refused_and_nothing_runs(place, damage, message):
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
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_settings_that_cannot_be_read_are_refused_by_name(place, text):
    path = place / "model" / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpikeSepError, match=r"config\.json") as caught:
        load_separator(place / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "about", [{}, {"config": "{"}, {"config": "[" * 100_000}, {"config": "[]"}]
)
def test_a_file_without_readable_settings_is_refused(place, about):
    path = place / "model.safetensors"
    path.write_bytes(save(load_file(place / "model" / "model.safetensors"), about))
    the_refusal(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "report.json", "README.md"])
def test_a_link_out_of_the_folder_is_refused(place, name):
    (place / "model" / name).rename(place / "elsewhere")
    (place / "model" / name).symlink_to("../elsewhere")
    with pytest.raises(SpikeSepError, match="outside of its folder"):
        load_separator(place / "model")


def test_a_link_to_a_folder_and_links_within_it_are_fine(place):
    (place / "model" / "model.safetensors").rename(place / "model" / "weights")
    (place / "model" / "model.safetensors").symlink_to("weights")
    (place / "link").symlink_to("model")
    assert load_separator(place / "link").kind == "snn"


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_the_seal_cannot_be_taken_off(place, name):
    """By a number of the format that had none."""

    def changed(tensors):
        return tensors | {"norm.gain": 2 * tensors["norm.gain"]}

    change(place, changed, sealed=False, format="spikesep-separator/1", sha256=None)
    assert (
        "is of format 1, which has no checksum to see changes by; train the model again"
        in the_refusal(place / name)
    )


@pytest.mark.parametrize("name", ["model/model.safetensors", "model.safetensors"])
def test_a_git_lfs_pointer_is_told_with_the_command_that_fetches_the_file(place, name):
    (place / name).write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 700000\n"
    )
    assert "run `git lfs pull`" in the_refusal(place / name.partition("/")[0])
