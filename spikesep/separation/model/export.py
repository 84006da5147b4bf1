"""Checks before a separator is exported."""

from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.separation.model.separator import KIND, Separator
from spikesep.training.records.model_files import MODEL_FOLDER
from spikesep.training.records.model_folder import read_model


def check_replaceable(path: Path, overwrite: bool) -> None:
    """Check that an existing output is a separator that may be replaced.

    Raises:
        SpikeSepError: `overwrite` is false, or `path` is not a complete separator, or its folder
            contains other files.
    """
    if not overwrite:
        raise SpikeSepError(f"{path}: already exists; give --overwrite, or another --out")
    try:
        read_model(path, KIND)
    except SpikeSepError as error:
        raise SpikeSepError(
            f"{path}: is not a complete separator, so it is not replaced; give another --out"
        ) from error
    others = {file.name for file in path.iterdir()} - MODEL_FOLDER if path.is_dir() else set()
    if others:
        raise SpikeSepError(
            f"{path}: also contains {min(others)}, so it is not replaced; give another --out"
        )


def check_half(model: Separator, path: Path) -> None:
    """Check that a separator may be stored with 16-bit weights.

    Raises:
        SpikeSepError: it spikes, and rounded weights would change its spikes.
    """
    if model.network.n_converted:
        raise SpikeSepError(
            f"--half: {path} is a spiking network, whose spikes would change; leave it out, or "
            "give --network ann"
        )
