"""The folder of an experiment: which settings made it, so that a run goes on only with what it began with, and its
checkpoints.
"""

import hashlib
import io
import pickle
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, read_json, write_json


def claim(folder: Path, stage: str, settings: dict[str, Any]) -> None:
    """Note the settings of a stage when it first begins; later, see that they are the same.

    A setting that the version which began did not know is the same at its default.

    Args:
        folder: of the experiment.
        stage: its name.
        settings: plain values, and records (dataclasses) whose defaults those of new settings are.

    Raises:
        SpikeSepError: the folder was made with other settings; the first that differs is named.
    """
    path = folder / "settings" / f"{stage}.json"
    records = {key: value for key, value in settings.items() if is_dataclass(value)}
    settings = settings | {key: asdict(record) for key, record in records.items()}
    if not path.exists():
        write_json(path, settings)
        return
    defaults = _flat({key: asdict(type(record)()) for key, record in records.items()})
    different = first_difference(defaults | _flat(read_json(path)), settings)
    if different:
        raise SpikeSepError(
            f"{folder}: stage {stage} was begun with {different}; "
            "take another --tag, or delete the folder to start anew"
        )


def first_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first setting by name that differs, as `name = before, not now`; None where all agree."""
    before, now = _flat(before), _flat(now)
    for key in sorted(before | now):
        if before.get(key) != now.get(key):
            return f"{key} = {before.get(key)}, not {now.get(key)}"
    return None


def save_tensors(path: Path, state: Any) -> None:
    """Write what `torch.load` reads, whole or not at all."""
    written = io.BytesIO()  # straight to a full disk, torch would fail with no word of it
    torch.save(state, written)
    with atomic_path(path) as temporary:
        temporary.write_bytes(written.getbuffer())


def load_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read what `save_tensors` wrote.

    Raises:
        SpikeSepError: it is not whole.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise SpikeSepError(
            f"{path}: not a whole checkpoint; remove it, with its folder, to begin anew"
        ) from error


def hash_of_tensors(tensors: dict[str, Tensor], start: bytes = b"") -> str:
    """SHA-256 of all tensors' names, types, shapes and bytes, in order of their names."""
    digest = hashlib.sha256(start)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v
            for key, item in value.items()
            for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: list(value) if isinstance(value, tuple) else value}
