"""A saved model: tensors in safetensors and settings as JSON, in a folder, or all in one `.safetensors` file. Nothing
in it is executed, and what was changed, cut off or made by something else is refused by name.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, write_json, write_text
from spikesep.spiking.conversion.fixed_point import check_fixed_point
from spikesep.spiking.integers import dequantized
from spikesep.training.convert import ConvertibleModel
from spikesep.training.records.run_folder import hash_of_tensors

CONFIG, TENSORS, REPORT, CARD = "config.json", "model.safetensors", "report.json", "README.md"
MODEL_FOLDER = frozenset({CONFIG, TENSORS, REPORT, CARD})
FILE_SUFFIX = ".safetensors"
VERSIONS = (2, 3)
"""Of the format, that are read. Version 1 had no checksum: a model of it could have changed without notice. Version 2
has no bits, and is still written for a model without any."""
LARGEST_TEXT = 1 << 20
"""Bytes: more than any settings or card has, and few enough to be parsed in no time."""
LARGEST_HEADER = 8 << 20
"""Bytes of a safetensors header: names of tensors and, in one file, settings, report and card."""

Model = TypeVar("Model", bound=ConvertibleModel)


@dataclass(frozen=True)
class SavedModel:
    """What a folder or file holds.

    Attributes:
        settings: the format, what the unconverted model is built from (`model`), how it was converted, the checksum.
        tensors: by name.
        report: of the conversion, a layer each.
        card: Markdown for people.
    """

    settings: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)
    report: list[dict] | None = None
    card: str | None = None


def save_model(
    model: ConvertibleModel,
    path: str | Path,
    kind: str,
    settings: dict[str, Any],
    report: list[dict] | None = None,
    card: str | None = None,
    half: bool = False,
) -> None:
    """Write a folder of `config.json`, `model.safetensors` and, if given, `report.json` and `README.md`; or, where
    `path` ends in `.safetensors`, one file with all of that. It appears whole or not at all.

    Args:
        model: analog, or in any stage of conversion but those of a network that was pruned as a whole.
        path: what stood there is replaced.
        kind: of model, a name.
        settings: what the unconverted model is built from.
        report: of the conversion, a layer each.
        card: a description for people, Markdown.
        half: keep 16 bits of each kernel of an analog network; who reads it computes with the rounded ones.

    Raises:
        SpikeSepError: by half, a layer of the network is converted, or a weight is past what 16 bits hold.
    """
    if half and model.network.n_converted:
        raise SpikeSepError(
            f"{path}: a network that spikes would fire other spikes by half (16 bits); save it whole"
        )
    state = model.state_dict()
    for key, _ in _weights_of_integers(model):
        del state[key]
    tensors = {name: to_bits(tensor.detach().cpu().contiguous()) for name, tensor in state.items()}
    if half:
        tensors = {
            name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()
        }
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise SpikeSepError(
                    f"{path}: {name} has weights past 65504, the most of 16 bits; save it whole"
                )
    has_bits = any(tensor.dtype == torch.bool for tensor in state.values())
    version = VERSIONS[1] if has_bits else VERSIONS[0]
    settings = {
        "format": f"{kind}/{version}",
        "model": settings,
        **model.network.conversion_settings(),
    }
    saved = SavedModel({**settings, "sha256": checksum(settings, tensors)}, tensors, report, card)
    (_write_file if Path(path).suffix == FILE_SUFFIX else _write_folder)(saved, Path(path))


def load_model(path: str | Path, kind: str, build: Callable[[dict[str, Any]], Model]) -> Model:
    """Read what `save_model` wrote, in inference mode; `build` makes the unconverted model from its settings.

    Raises:
        SpikeSepError: there is nothing, or not a whole, unchanged model of this kind.
    """
    saved = read_model(path, kind)
    try:
        with torch.device("meta"), Undrawn():  # sizes without memory: settings may claim any
            claimed = sum(
                tensor.numel() for tensor in build(saved.settings["model"]).state_dict().values()
            )
        held = sum(tensor.numel() for tensor in saved.tensors.values())
        if claimed > 4 * held + 1000:  # norms that were folded are no longer there
            raise ValueError(f"its settings speak of {claimed:,} numbers, it holds {held:,}")
        model = build(saved.settings["model"])
        model.network.restore_conversion(saved.settings)
        model.load_state_dict(_state_of(model, saved.tensors))
        if model.network.is_fixed_point:
            check_fixed_point(model.network)
    except (
        SpikeSepError,
        RuntimeError,
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise SpikeSepError(
            f"{path}: not a whole {_what(kind)} ({reason}); train or copy it again"
        ) from error
    return model.eval()


class Undrawn(TorchFunctionMode):
    """Where weights that are thrown away are not drawn: on the device `meta` that would load torch's compiler first."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Leave the tensor as it is."""
        if function in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return function(*args, **(kwargs or {}))


def read_model(path: str | Path, kind: str) -> SavedModel:
    """Read a folder or file as it stands, and see that it is of this kind and as it was written.

    Raises:
        SpikeSepError: there is nothing, it cannot be read, is something else, or has changed since it was saved.
    """
    path = Path(path)
    if path.is_dir():
        settings = read_settings(path, kind)
        tensors, _ = _read_tensors(_inside(path, TENSORS))
        report = (
            _read_json(_inside(path, REPORT), LARGEST_HEADER) if (path / REPORT).exists() else None
        )
        card = _read_text(_inside(path, CARD)) if (path / CARD).exists() else None
        saved = SavedModel(settings, tensors, report, card)
    elif path.is_file():
        saved = _read_file(path, kind)
    else:
        raise SpikeSepError(
            f"{path}: no such model; give its folder, which holds {CONFIG}, or its {FILE_SUFFIX} file"
        )
    _check_tensors(saved, path)
    return saved


def read_settings(folder: Path, kind: str) -> dict[str, Any]:
    """The settings alone of a model of this kind, in a format that is known.

    Raises:
        SpikeSepError: they are not there, or of something else.
    """
    return _checked(_read_json(_inside(folder, CONFIG)), kind, folder / CONFIG)


def _checked(settings: Any, kind: str, path: Path) -> dict[str, Any]:
    name, _, version = str(
        settings.get("format") if isinstance(settings, dict) else None
    ).partition("/")
    if name != kind:
        raise SpikeSepError(f"{path}: not a SpikeSep {_what(kind)}; give one that spikesep wrote")
    if version == "1":
        raise SpikeSepError(
            f"{path}: is of format 1, which has no checksum to see changes by; train the model again"
        )
    if version not in map(str, VERSIONS):
        known = f"{VERSIONS[0]} to {VERSIONS[-1]}"
        raise SpikeSepError(
            f"{path}: is of format {version}, known are {known}; take a newer SpikeSep"
        )
    return settings


def checksum(settings: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the settings, but for a checksum among them, and of all tensors' names, types, shapes and bytes."""
    rest = {key: value for key, value in settings.items() if key != "sha256"}
    return hash_of_tensors(tensors, json.dumps(rest, sort_keys=True).encode())


def to_bits(tensor: Tensor) -> Tensor:
    """A tensor of bool as bits, eight in a byte of uint8 [n / 8]; any other as it is."""
    return torch.from_numpy(np.packbits(tensor.numpy())) if tensor.dtype == torch.bool else tensor


def from_bits(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The bool of this shape that `to_bits` took."""
    return (
        torch.from_numpy(np.unpackbits(tensor.numpy(), count=math.prod(shape))).view(shape).bool()
    )


def _what(kind: str) -> str:
    return kind.removeprefix("spikesep-")


def _weights_of_integers(model: ConvertibleModel) -> list[tuple[str, str]]:
    """The float weights that a file need not hold, and where their integers are, by name."""
    layers = [
        f"network.layers.{name}"
        for name, layer in model.network.layers.items()
        if layer.fixed is not None
    ]
    return [(f"{name}.synapse.weight", f"{name}.fixed") for name in layers]


def _state_of(model: ConvertibleModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's whole state from what was saved, or a ValueError that names the tensor that cannot be."""
    state = dict(tensors)
    wanted = model.state_dict()
    for key, prefix in _weights_of_integers(model):
        if state[f"{prefix}.weight"].dtype != torch.int8:
            raise ValueError(f"{prefix}.weight is not of int8")
        state[key] = dequantized(state[f"{prefix}.weight"], state[f"{prefix}.scale"])
    for key, tensor in wanted.items():
        if key not in state:
            raise ValueError(f"{key} is missing")
        if (state[key].dtype, tensor.dtype) == (torch.float16, torch.float32):  # saved by half
            state[key] = state[key].float()
        in_bits = (state[key].dtype, tensor.dtype) == (torch.uint8, torch.bool)
        if in_bits and state[key].shape == (math.ceil(tensor.numel() / 8),):
            state[key] = from_bits(state[key], tensor.shape)
        if (state[key].dtype, state[key].shape) != (tensor.dtype, tensor.shape):
            found, expected = (f"{t.dtype} {list(t.shape)}" for t in (state[key], tensor))
            raise ValueError(f"{key} is of {found}, not {expected}")
    for key in state.keys() - wanted.keys():
        raise ValueError(f"{key} is no tensor of it")
    return state


def _write_folder(saved: SavedModel, folder: Path) -> None:
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / CONFIG, saved.settings)
        if saved.report is not None:
            write_json(temporary / REPORT, saved.report)
        if saved.card is not None:
            write_text(temporary / CARD, saved.card)
        (temporary / TENSORS).write_bytes(save(saved.tensors))


def _write_file(saved: SavedModel, path: Path) -> None:
    about = {"config": json.dumps(saved.settings)}
    if saved.report is not None:
        about["report"] = json.dumps(saved.report)
    if saved.card is not None:
        about["card"] = saved.card
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(saved.tensors, about))


def _read_file(path: Path, kind: str) -> SavedModel:
    tensors, about = _read_tensors(path)
    if "config" not in about:
        raise SpikeSepError(
            f"{path}: holds no settings of a model; give a file of spikesep-export, or the model's folder"
        )
    settings = _checked(_parse(about["config"], path), kind, path)
    report = _parse(about["report"], path) if "report" in about else None
    return SavedModel(settings, tensors, report, about.get("card"))


def _check_tensors(saved: SavedModel, path: Path) -> None:
    for name, tensor in saved.tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise SpikeSepError(
                f"{path}: tensor {name} holds NaN or Inf; train or copy the model again"
            )
    if saved.settings.get("sha256") != checksum(saved.settings, saved.tensors):
        raise SpikeSepError(
            f"{path}: is not as it was saved (its checksum differs); copy or download it again"
        )


def _inside(folder: Path, name: str) -> Path:
    """A file of a folder; a link may not lead out of it. The cache of the hub links to its own store beside."""
    path = folder / name
    if not path.is_file():
        raise SpikeSepError(f"{path}: no such file; give a whole model folder")
    home = folder.resolve()
    home = home.parents[1] if home.parent.name == "snapshots" else home
    if not path.resolve().is_relative_to(home):
        raise SpikeSepError(
            f"{path}: is a link to {path.resolve()}, outside of its folder; put a copy in its place"
        )
    return path


def _read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    if path.stat().st_size > largest:
        raise SpikeSepError(
            f"{path}: has more than {largest:,} bytes, which no model's has; give one that spikesep wrote"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SpikeSepError(f"{path}: cannot be read ({error}); copy it again") from error


def _read_json(path: Path, largest: int = LARGEST_TEXT) -> Any:
    return _parse(_read_text(path, largest), path)


def _parse(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpikeSepError(f"{path}: holds no readable JSON ({error}); copy it again") from error


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and the texts in its header."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if start == b"version ":  # https://git-lfs.github.com/spec/v1
                raise SpikeSepError(
                    f"{path}: a Git LFS pointer, not the tensors; run `git lfs pull` where it was cloned"
                )
            length = int.from_bytes(start, "little")
            if length > LARGEST_HEADER and (start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"):
                raise ValueError("it is a pickle, which could run code and is never read")
            if not 2 <= length <= LARGEST_HEADER:
                raise ValueError(f"its header would have {length:,} bytes")
            header = file.read(length)
            return load(start + header + file.read()), json.loads(header).get("__metadata__", {})
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise SpikeSepError(
            f"{path}: not a whole safetensors file ({reason}); train or copy it again"
        ) from error
