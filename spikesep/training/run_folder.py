"""The folder of an experiment: which settings made it, so that a run goes on only with what it began with, and its
checkpoints.
"""

import io
import pickle
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

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
    before, now = defaults | _flat(read_json(path)), _flat(settings)
    for key in sorted(before | now):
        if before.get(key) != now.get(key):
            raise SpikeSepError(
                f"{folder}: stage {stage} was begun with {key} = {before.get(key)}, not {now.get(key)}; "
                "take another --tag, or delete the folder to start anew"
            )


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
        raise SpikeSepError(f"{path}: not a whole checkpoint; remove it, with its folder, to begin anew") from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: list(value) if isinstance(value, tuple) else value}
