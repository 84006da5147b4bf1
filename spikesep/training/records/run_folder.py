"""Records of a run: the settings it was begun with."""

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from spikesep.errors import SpikeSepError
from spikesep.files import read_json, write_json
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
