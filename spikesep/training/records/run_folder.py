"""Records of a run: the settings it was begun with, and tensors on disk."""

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
from spikesep.training.renamed import migrated_record


def claim(folder: Path, stage: str, settings: dict[str, Any]) -> None:
    """Record the settings of a stage when it first starts; later, check that they are the same.

    A setting that the record lacks, as it was written by an earlier release, counts as having its
    default.

    Args:
        folder: folder of the experiment.
        stage: name of the stage.
        settings: plain values, and dataclasses, whose defaults are used as described.

    Raises:
        SpikeSepError: the stage was begun with other settings; names the first that differs.
    """
    path = folder / "settings" / f"{stage}.json"
    configs = {
        key: value
        for key, value in settings.items()
        if is_dataclass(value) and not isinstance(value, type)
    }
    settings = settings | {key: asdict(config) for key, config in configs.items()}
    if not path.exists():
        write_json(path, settings)
        return
    defaults = flattened({key: asdict(type(config)()) for key, config in configs.items()})
    before = flattened(migrated_record(read_json(path), path))
    different = first_difference(defaults | before, settings)
    if different:
        raise SpikeSepError(
            f"{folder}: stage {stage} was begun with {different}; "
            "give another --tag, or delete the folder to start over"
        )


def first_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return the first differing setting as `name = before, not now`; None if all are equal."""
    before, now = flattened(before), flattened(now)
    for key in sorted(before | now):
        if before.get(key) != now.get(key):
            return f"{key} = {before.get(key)}, not {now.get(key)}"
    return None


def flattened(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one mapping with dotted names; tuples become lists."""
    if isinstance(settings, dict):
        return {
            name: value
            for key, item in settings.items()
            for name, value in flattened(item, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: list(settings) if isinstance(settings, tuple) else settings}


def save_tensors(path: Path, state: Any) -> None:
    """Write `state` with `torch.save`, atomically.

    Raises:
        SpikeSepError: the disk is full.
    """
    # Through memory: when the disk is full, torch.save to a file fails without naming the cause.
    written = io.BytesIO()
    torch.save(state, written)
    with atomic_path(path) as temporary:
        temporary.write_bytes(written.getbuffer())


def load_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """Return what `save_tensors` wrote.

    Raises:
        SpikeSepError: the file is incomplete.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise SpikeSepError(
            f"{path}: not a complete checkpoint; delete it, with its folder, to start over"
        ) from error


def hash_of_tensors(tensors: dict[str, Tensor], start: bytes = b"") -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of all tensors, sorted by name."""
    digest = hashlib.sha256(start)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(data.data)
    return digest.hexdigest()
