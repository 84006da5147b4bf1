"""Verified file with all images and labels of a small data set."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

SHA256 = {
    "mnist": "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
    "cifar10": "32e5966899bde482c0ef7d076bf69809b4b1488c806f657a814cfca4646ec493",
}
"""Checksums of the data sets; see `checksum`."""
PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def cache_path(name: str, data: Path) -> Path:
    """Return the path of a data set's file in the data folder."""
    return data / f"{name}.safetensors"


def read_cache(name: str, data: Path) -> dict[str, Tensor] | None:
    """Return the tensors PARTS of a data set; None if the file is missing or damaged."""
    try:
        tensors = load_file(cache_path(name, data))
        return tensors if checksum(tensors) == SHA256[name] else None
    except (SafetensorError, LookupError, OSError):
        return None


def checksum(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of all pixels and labels, one byte each, in the order of PARTS."""
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(tensors[part].to(torch.uint8).contiguous().numpy().tobytes())
    return digest.hexdigest()
