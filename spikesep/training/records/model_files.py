"""Reading and writing the files of a model, without executing or trusting their contents."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, write_json, write_text

CONFIG, TENSORS, REPORT, CARD = "config.json", "model.safetensors", "report.json", "README.md"
MODEL_FOLDER = frozenset({CONFIG, TENSORS, REPORT, CARD})
FILE_SUFFIX = ".safetensors"
LARGEST_TEXT = 1 << 20
"""Maximum size of settings and card, bytes; real ones are far smaller."""
LARGEST_HEADER = 8 << 20
"""Maximum size of a safetensors header, bytes: names of tensors and, in a single file, settings,
report and card."""


@dataclass(frozen=True)
class SavedModel:
    """Contents of a model folder or file.

    Attributes:
        settings: the format, the settings of the unconverted model (`model`), how it was
            converted, and the checksum.
        tensors: the tensors by name.
        report: the conversion report, one entry per layer.
        card: the model card, Markdown.
    """

    settings: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)
    report: list[dict] | None = None
    card: str | None = None


def write_model(saved: SavedModel, path: Path) -> None:
    """Write a single file if `path` ends in `.safetensors`, otherwise a folder, atomically."""
    (_write_file if path.suffix == FILE_SUFFIX else _write_folder)(saved, path)


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
    texts = {"config": json.dumps(saved.settings)}
    if saved.report is not None:
        texts["report"] = json.dumps(saved.report)
    if saved.card is not None:
        texts["card"] = saved.card
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(saved.tensors, texts))


def read_config(folder: Path) -> Any:
    """Return the settings in a model folder, unchecked.

    Raises:
        SpikeSepError: they are missing or not JSON.
    """
    return _read_json(_inside(folder, CONFIG))


def read_folder(folder: Path, settings: dict[str, Any]) -> SavedModel:
    """Return the contents of a model folder with these settings.

    Raises:
        SpikeSepError: a file is missing, damaged, or a link out of the folder.
    """
    tensors, _ = _read_tensors(_inside(folder, TENSORS))
    report = card = None
    if (folder / REPORT).exists():
        report = _read_json(_inside(folder, REPORT), LARGEST_HEADER)
    if (folder / CARD).exists():
        card = _read_text(_inside(folder, CARD))
    return SavedModel(settings, tensors, report, card)


def read_file(path: Path) -> SavedModel:
    """Return the contents of a single-file model, with unchecked settings.

    Raises:
        SpikeSepError: the file is damaged or contains no settings.
    """
    tensors, texts = _read_tensors(path)
    if "config" not in texts:
        raise SpikeSepError(
            f"{path}: contains no settings of a model; give a file written by spikesep-export, or "
            "the model's folder"
        )
    report = _parse(texts["report"], path) if "report" in texts else None
    return SavedModel(_parse(texts["config"], path), tensors, report, texts.get("card"))


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder.

    Links must stay within the folder, or, in the cache of the Hugging Face hub, within its store.

    Raises:
        SpikeSepError: there is no such file, or it is a link to elsewhere.
    """
    path = folder / name
    if not path.is_file():
        raise SpikeSepError(f"{path}: no such file; give a complete model folder")
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
            f"{path}: is larger than {largest:,} bytes, the maximum for a model; give one that "
            "spikesep wrote"
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
        raise SpikeSepError(f"{path}: contains no valid JSON ({error}); copy it again") from error


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, and the texts in its header.

    Raises:
        SpikeSepError: the file is incomplete or in another format.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if start == b"version ":  # https://git-lfs.github.com/spec/v1
                raise SpikeSepError(
                    f"{path}: a Git LFS pointer, not the tensors; run `git lfs pull` in the clone"
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
            f"{path}: not a complete safetensors file ({reason}); train or copy it again"
        ) from error
