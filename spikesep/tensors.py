"""Tensors on disk, and hashes of them."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path


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


def load_tensors(
    path: Path,
    device: torch.device | str = "cpu",
    remedy: str = "delete it, with its folder, to start over",
) -> Any:
    """Return what `save_tensors` wrote.

    Args:
        path: the file.
        device: device of the tensors.
        remedy: what to do about a file that cannot be read.

    Raises:
        SpikeSepError: the file is incomplete.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise SpikeSepError(f"{path}: not a complete checkpoint; {remedy}") from error


def hash_of_tensors(tensors: dict[str, Tensor], start: bytes = b"") -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of all tensors, sorted by name.

    Args:
        tensors: the tensors by name.
        start: bytes to hash before them.
    """
    digest = hashlib.sha256(start)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(data.data)
    return digest.hexdigest()
