"""Settings that earlier releases named differently or had in addition.

Options, config files and the records of experiments, data folders, models and checkpoints are
still read under the old names. Each reading warns once with the new names.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from spikesep.errors import SpikeSepError, SpikeSepWarning
from spikesep.files import read_json

SECTIONS = {"ann": "train", "ptl": "convert"}
"""New names of sections; their settings keep their names unless SETTINGS says otherwise."""

SETTINGS = {
    "ptl.synops_budget": "convert.budget.synops",
    "ptl.synops_weight": "convert.budget.synops_weight",
    "ptl.cache_gib": "convert.cache.memory_gib",
    "ptl.cache_disk_gib": "convert.cache.disk_gib",
    "ann.on_the_fly": "mixing.dynamic.examples",
    "ann.speeds": "mixing.dynamic.speeds",
    "ann.by_amount": "mixing.dynamic.speaker_weighting",
    "ann.remix": "mixing.dynamic.remix",
    "ann.channel": "mixing.dynamic.channel",
}
"""New names of settings that moved to another section."""

IN_RECORDS = {
    name.partition(".")[2]: new for name, new in SETTINGS.items() if name.startswith("ann.")
}
"""New names of top-level keys in the records of conversions."""

REMOVED: dict[str, Any] = {
    "ann.clip_norm": 5.0,
    "ptl.clip_norm": 5.0,
    "ptl.optimizer": "adam",
    "corpus.closed_share": 0.1,
    "corpus.max_seconds_per_speaker": 0.0,
}
"""Settings that no longer exist and the only value that is still accepted."""


def current_name(name: str) -> str:
    """Return the present dotted name of a setting or section."""
    if name in SETTINGS:
        return SETTINGS[name]
    section, dot, rest = name.partition(".")
    return f"{SECTIONS.get(section, section)}{dot}{rest}"


def migrated(settings: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Return the nested settings of a config file under their present names.

    A removed setting is dropped if it has its only accepted value, and kept otherwise, so that the
    reader refuses it. Warns if anything changed.

    Args:
        settings: mapping of sections and settings, nested as in a config file.
        source: file name for the warning.
    """
    return _migrated(settings, source, {})


def migrated_record(settings: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Return the settings in the record of an experiment or data folder under present names."""
    return _migrated(settings, source, IN_RECORDS)


def migrated_names(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a mapping from dotted names of settings under their present names."""
    changes: dict[str, str | None] = {
        name: current_name(name) for name in settings if current_name(name) != name
    }
    _warn(source, changes)
    return {current_name(name): value for name, value in settings.items()}


def is_record(path: str | Path, value: Any) -> bool:
    """Return whether the JSON file exists and holds `value`, apart from renamed settings."""
    try:
        found = migrated_record(read_json(path), path)
    except (SpikeSepError, AttributeError):
        return False
    return found == json.loads(json.dumps(value))


def migrated_arguments(argv: Sequence[str]) -> list[str]:
    """Return command-line arguments with the present names of options, warning once of old ones.

    Raises:
        SpikeSepError: a removed setting has another value than the one still accepted.
    """
    arguments: list[str] = []
    changes: dict[str, str | None] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments += [word, *rest]
            break
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").removesuffix("+")
        if not option.startswith("--") or not _is_old(name):
            arguments.append(word)
        elif name in REMOVED or name in SECTIONS:
            if not equals:
                value = rest.pop(0) if rest else ""
            arguments += _replacement(name, value, changes)
        else:
            current = changes[name] = current_name(name)
            arguments.append(word.replace(name, current, 1))
    _warn("options", changes, "--")
    return arguments


def _is_old(name: str) -> bool:
    return name in REMOVED or current_name(name) != name


def _replacement(name: str, value: str, changes: dict[str, str | None]) -> list[str]:
    """Return the arguments that replace a removed setting or a section given as one mapping."""
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    if name in REMOVED:
        if parsed != REMOVED[name]:
            raise SpikeSepError(
                f"--{name} {value}: no longer exists, is always {REMOVED[name]}; leave it out"
            )
        changes[name] = None
        return []
    if not isinstance(parsed, dict):
        return [f"--{SECTIONS[name]}", value]
    settings = _leaves(_renamed({name: parsed}, {}, changes))
    return [
        word
        for key, leaf in settings
        for word in (f"--{key}", leaf if isinstance(leaf, str) else json.dumps(leaf))
    ]


def _migrated(
    settings: Mapping[str, Any], source: str | Path, top_level: Mapping[str, str]
) -> dict[str, Any]:
    changes: dict[str, str | None] = {}
    found = _renamed(settings, top_level, changes)
    _warn(str(source), changes)
    return found


def _renamed(
    settings: Mapping[str, Any], top_level: Mapping[str, str], changes: dict[str, str | None]
) -> dict[str, Any]:
    """Return nested settings under their present names; record old and new names in `changes`."""
    found: dict[str, Any] = {}
    for name, value in _leaves(settings):
        if name not in REMOVED:
            new = top_level.get(name) or current_name(name)
            if new != name:
                changes[name] = new
            _put(found, new, value)
        elif value == REMOVED[name]:
            changes[name] = None
        else:
            _put(found, name, value)
    return found


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every setting in nested settings."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        is_section = isinstance(value, dict) and value and not any("." in str(k) for k in value)
        if is_section:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    """Set the value of a dotted name in nested settings."""
    *sections, last = name.split(".")
    for section in sections:
        if not isinstance(settings.get(section), dict):
            settings[section] = {}
        settings = settings[section]
    settings[last] = value


def _warn(source: str, changes: Mapping[str, str | None], prefix: str = "") -> None:
    """Warn of old names in one line; several settings of one section are summed up."""
    said: dict[str, None] = {}
    for old, new in changes.items():
        section = old.partition(".")[0]
        alike = [n for n in changes if n.startswith(f"{section}.") and n not in SETTINGS | REMOVED]
        if new is None:
            said[f"{prefix}{old} no longer exists"] = None
        elif old in alike and len(alike) > 1:
            said[f"{prefix}{section}.* is now {prefix}{SECTIONS[section]}.*"] = None
        else:
            said[f"{prefix}{old} is now {prefix}{new}"] = None
    if said:
        warnings.warn(f"{source}: {', '.join(said)}", SpikeSepWarning, stacklevel=4)
