"""Saved models: tensors in safetensors and settings in JSON, in a folder or a single file.

Nothing in a model is executed. Files that were modified, truncated or made by other programs are
refused by name.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.fixed_point import check_fixed_point
from spikesep.spiking.integers import dequantized
from spikesep.spiking.levels.network import add_levels, levels_settings
from spikesep.tensors import hash_of_tensors
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.records.model_files import (
    CONFIG,
    FILE_SUFFIX,
    SavedModel,
    read_config,
    read_file,
    read_folder,
    write_model,
)

VERSIONS = (2, 3)
"""Versions of the format that can be read. Version 1 had no checksum, so that changes went
unnoticed. Version 2 has no packed bits and is still written for models without boolean tensors."""

Model = TypeVar("Model", bound=ConvertibleModel)


def save_model(
    model: ConvertibleModel,
    path: str | Path,
    kind: str,
    settings: dict[str, Any],
    *,
    report: list[dict] | None = None,
    card: str | None = None,
    half: bool = False,
) -> None:
    """Write `config.json`, `model.safetensors` and, if given, `report.json` and `README.md`.

    If `path` ends in `.safetensors`, write one file with all of them. The write is atomic.

    Args:
        model: a model in any stage of conversion, unless it is pruned and not yet converted.
        path: folder or file, which is replaced.
        kind: name of the kind of model.
        settings: settings to build the unconverted model from.
        report: conversion report, one entry per layer.
        card: model card, Markdown.
        half: store the kernels of an analog network in float16; readers compute with the rounded
            ones.

    Raises:
        SpikeSepError: with `half`, a layer is converted or a weight exceeds the range of float16.
    """
    if half and model.network.n_converted:
        raise SpikeSepError(
            f"{path}: a spiking network would fire other spikes with weights of 16 bits; save it "
            "in full"
        )
    state = model.state_dict()
    for key, _ in _weights_of_integers(model):
        del state[key]
    tensors = {name: to_bits(tensor.detach().cpu().contiguous()) for name, tensor in state.items()}
    if half:
        tensors = _halved(tensors, path)
    has_bits = any(tensor.dtype == torch.bool for tensor in state.values())
    version = VERSIONS[1] if has_bits else VERSIONS[0]
    settings = {
        "format": f"{kind}/{version}",
        "model": settings,
        **model.network.conversion_settings(),
    }
    if levels := levels_settings(model.network):
        settings["levels"] = levels
    settings |= {"sha256": checksum(settings, tensors)}
    write_model(SavedModel(settings, tensors, report, card), Path(path))


def _halved(tensors: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    halved = {
        name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()
    }
    for name, tensor in halved.items():
        if not tensor.isfinite().all():
            raise SpikeSepError(
                f"{path}: {name} has weights beyond 65504, the maximum of 16 bits; save it in full"
            )
    return halved


def load_model(path: str | Path, kind: str, build: Callable[[dict[str, Any]], Model]) -> Model:
    """Return a saved model, in inference mode.

    Args:
        path: folder or file.
        kind: name of the kind of model.
        build: returns the unconverted model for its settings.

    Raises:
        SpikeSepError: there is no complete and unchanged model of this kind.
    """
    saved = read_model(path, kind)
    try:
        _check_size(saved, build)
        with SkipInit():
            model = build(saved.settings["model"])
        model.network.restore_conversion(saved.settings)
        if "levels" in saved.settings:
            add_levels(model.network, **saved.settings["levels"])
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
            f"{path}: not a complete {_noun(kind)} ({reason}); train or copy it again"
        ) from error
    return model.eval()


def _check_size(saved: SavedModel, build: Callable[[dict[str, Any]], Model]) -> None:
    """Check the size of the model before memory is allocated: settings may claim any.

    Raises:
        ValueError: the settings describe a larger model than the tensors.
    """
    with torch.device("meta"), SkipInit():
        state = build(saved.settings["model"]).state_dict()
    claimed = sum(tensor.numel() for tensor in state.values())
    held = sum(tensor.numel() for tensor in saved.tensors.values())
    if claimed > 4 * held + 1000:  # folded norms have no tensors
        raise ValueError(f"its settings describe {claimed:,} numbers, it contains {held:,}")


class SkipInit(TorchFunctionMode):
    """Skip the random initialization of weights, which are loaded next.

    On `meta`, it would load torch's compiler.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Return the tensor unchanged."""
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def read_model(path: str | Path, kind: str) -> SavedModel:
    """Return the contents of a model folder or file after checking kind and checksum.

    Raises:
        SpikeSepError: there is no model, it cannot be read, is of another kind, or was modified.
    """
    path = Path(path)
    if path.is_dir():
        saved = read_folder(path, read_settings(path, kind))
    elif path.is_file():
        saved = read_file(path)
        _check_format(saved.settings, kind, path)
    else:
        raise SpikeSepError(
            f"{path}: no such model; give its folder, which contains {CONFIG}, or its "
            f"{FILE_SUFFIX} file"
        )
    _check_tensors(saved, path)
    return saved


def read_settings(folder: Path, kind: str) -> dict[str, Any]:
    """Return the settings in a model folder after checking kind and format.

    Raises:
        SpikeSepError: they are missing, or of another kind or format.
    """
    settings = read_config(folder)
    _check_format(settings, kind, folder / CONFIG)
    return settings


def _check_format(settings: Any, kind: str, path: Path) -> None:
    """Check that settings are of a model of this kind in a known version of the format."""
    found = str(settings.get("format") if isinstance(settings, dict) else None)
    name, _, version = found.partition("/")
    if name != kind:
        raise SpikeSepError(f"{path}: not a SpikeSep {_noun(kind)}; give one that spikesep wrote")
    if version == "1":
        raise SpikeSepError(
            f"{path}: is of format 1, which has no checksum to detect changes; train the model "
            "again"
        )
    if version not in map(str, VERSIONS):
        known = f"{VERSIONS[0]} to {VERSIONS[-1]}"
        raise SpikeSepError(
            f"{path}: is of format {version}, known are {known}; install a newer SpikeSep"
        )


def _check_tensors(saved: SavedModel, path: Path) -> None:
    for name, tensor in saved.tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise SpikeSepError(
                f"{path}: tensor {name} holds NaN or Inf; train or copy the model again"
            )
    if saved.settings.get("sha256") != checksum(saved.settings, saved.tensors):
        raise SpikeSepError(
            f"{path}: was modified after it was saved (its checksum differs); copy or download it "
            "again"
        )


def checksum(settings: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the settings, except a checksum among them, and of all tensors."""
    rest = {key: value for key, value in settings.items() if key != "sha256"}
    return hash_of_tensors(tensors, json.dumps(rest, sort_keys=True).encode())


def to_bits(tensor: Tensor) -> Tensor:
    """Return a boolean tensor packed into uint8 [n / 8], any other unchanged."""
    return torch.from_numpy(np.packbits(tensor.numpy())) if tensor.dtype == torch.bool else tensor


def from_bits(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the boolean tensor of this shape that `to_bits` packed."""
    bits = np.unpackbits(tensor.numpy(), count=math.prod(shape))
    return torch.from_numpy(bits).view(shape).bool()


def _noun(kind: str) -> str:
    return kind.removeprefix("spikesep-")


def _weights_of_integers(model: ConvertibleModel) -> list[tuple[str, str]]:
    """Return the names of weights that need not be saved, with the prefix of their integers."""
    layers = [
        f"network.layers.{name}"
        for name, layer in model.network.layers.items()
        if layer.fixed is not None
    ]
    return [(f"{name}.synapse.weight", f"{name}.fixed") for name in layers]


def _state_of(model: ConvertibleModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the model's state dict from the saved tensors.

    Raises:
        ValueError: a tensor is missing, superfluous, or of another dtype or shape.
    """
    state = dict(tensors)
    wanted = model.state_dict()
    for key, prefix in _weights_of_integers(model):
        if state[f"{prefix}.weight"].dtype != torch.int8:
            raise ValueError(f"{prefix}.weight is not int8")
        state[key] = dequantized(state[f"{prefix}.weight"], state[f"{prefix}.scale"])
    for key, tensor in wanted.items():
        if key not in state:
            raise ValueError(f"{key} is missing")
        state[key] = _unpacked(state[key], tensor)
        if (state[key].dtype, state[key].shape) != (tensor.dtype, tensor.shape):
            found, expected = (f"{t.dtype} {list(t.shape)}" for t in (state[key], tensor))
            raise ValueError(f"{key} is {found}, not {expected}")
    for key in state.keys() - wanted.keys():
        raise ValueError(f"there is no tensor {key} in the model")
    return state


def _unpacked(saved: Tensor, wanted: Tensor) -> Tensor:
    """Return a saved tensor in the dtype and shape of the model's, if it is float16 or bits."""
    if (saved.dtype, wanted.dtype) == (torch.float16, torch.float32):
        return saved.float()
    is_packed = (saved.dtype, wanted.dtype) == (torch.uint8, torch.bool)
    if is_packed and saved.shape == (math.ceil(wanted.numel() / 8),):
        return from_bits(saved, wanted.shape)
    return saved
