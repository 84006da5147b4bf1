"""A saved model: one folder with its tensors in safetensors and its settings as JSON. Nothing in it is executed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, read_json, write_json
from spikesep.spiking.fixed_point import check_fixed_point
from spikesep.spiking.integers import dequantized
from spikesep.training.convert import ConvertibleModel

Model = TypeVar("Model", bound=ConvertibleModel)


def save_model(
    model: ConvertibleModel, folder: str | Path, kind: str, settings: dict[str, Any], report: list[dict] | None = None
) -> None:
    """Write `config.json`, `model.safetensors` and, if given, `report.json`; the folder appears whole or not at all.

    Args:
        model: in any stage of conversion.
        folder: a folder that stood there is replaced.
        kind: the format's name and version.
        settings: what the unconverted model is built from.
        report: of the conversion, a layer each.
    """
    state = model.state_dict()
    for key, _ in _weights_of_integers(model):
        del state[key]
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_json(
            temporary / "config.json", {"format": kind, "model": settings, **model.network.conversion_settings()}
        )
        if report is not None:
            write_json(temporary / "report.json", report)
        tensors = save({k: v.contiguous() for k, v in state.items()})
        (temporary / "model.safetensors").write_bytes(tensors)


def load_model(folder: str | Path, kind: str, build: Callable[[dict[str, Any]], Model]) -> Model:
    """Read what `save_model` wrote, in inference mode; `build` makes the unconverted model from its settings.

    Raises:
        SpikeSepError: the folder is missing, or not a whole model of this kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SpikeSepError(f"{folder}: no such model folder; give the folder that holds config.json")
    settings = read_json(folder / "config.json")
    what = kind.partition("/")[0].removeprefix("spikesep-")
    if not isinstance(settings, dict) or settings.get("format") != kind:
        raise SpikeSepError(f"{folder / 'config.json'}: not a SpikeSep {what} of format {kind}")
    try:
        model = build(settings["model"])
        model.network.restore_conversion(settings)
        state = load_file(folder / "model.safetensors")
        for key, prefix in _weights_of_integers(model):
            if state[f"{prefix}.weight"].dtype != torch.int8:
                raise ValueError(f"{prefix}.weight is not of int8")
            state[key] = dequantized(state[f"{prefix}.weight"], state[f"{prefix}.scale"])
        for key, tensor in model.state_dict().items():
            if key in state and state[key].dtype != tensor.dtype:
                raise ValueError(f"{key} is of {state[key].dtype}, not {tensor.dtype}")
        model.load_state_dict(state)
        if model.network.is_fixed_point:
            check_fixed_point(model.network)
    except (OSError, SafetensorError, RuntimeError, LookupError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SpikeSepError(f"{folder}: not a whole {what} ({reason}); train or copy it again") from error
    return model.eval()


def _weights_of_integers(model: ConvertibleModel) -> list[tuple[str, str]]:
    """The float weights that a file need not hold, and where their integers are, by name."""
    layers = [f"network.layers.{name}" for name, layer in model.network.layers.items() if layer.fixed is not None]
    return [(f"{name}.synapse.weight", f"{name}.fixed") for name in layers]
