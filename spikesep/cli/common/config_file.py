"""The option `--config FILE`, and suggestions for misspelled settings."""

import json
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace, get_loader

from spikesep.cli.common.wrong_values import explain
from spikesep.errors import SpikeSepError
from spikesep.training.renamed import migrated, migrated_arguments


class ConfigFile(ActionConfigFile):
    """Reads settings from a YAML file; errors name the file."""

    def __call__(self, parser, options, value, option_string=None) -> None:
        """Read the settings of the file into the options.

        Raises:
            SpikeSepError: the file is not YAML, or contains an unknown setting or a wrong value.
        """
        if not Path(value).is_file():
            super().__call__(parser, options, value, option_string)
            return
        try:
            super().__call__(parser, options, _read_config(Path(value), parser), option_string)
        except (TypeError, ValueError, ArgumentError) as error:
            raise SpikeSepError(f"{value}: {explain(str(error))}") from error


def _read_config(path: Path, parser: ArgumentParser) -> str:
    """Return the settings of a file under their present names, as JSON."""
    try:
        content = get_loader("yaml")(path.read_text(encoding="utf-8-sig"))
    except Exception as error:  # the type depends on the YAML library in use
        raise SpikeSepError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict):
        raise SpikeSepError(
            f"{path}: contains no settings; expected lines such as train: {{epochs: 40}}"
        )
    content = migrated(content, path)
    names = setting_names(parser)
    for fault in _faults(content, names):
        raise SpikeSepError(f"{path}: {fault}")
    return json.dumps(content)


class RecipeParser(ArgumentParser):
    """A parser that also accepts the former names of settings."""

    def parse_args(self, args=None, *more, **options) -> Namespace:
        """Parse arguments after renaming options."""
        args = migrated_arguments(sys.argv[1:] if args is None else args)
        return super().parse_args(args, *more, **options)


def setting_names(parser: ArgumentParser) -> list[str]:
    """List the names of all settings, such as `train.epochs`."""
    return list(parser.get_defaults().keys())


def _faults(content: dict, names: list[str], prefix: str = "") -> Iterator[str]:
    """Yield what is wrong: names that are neither settings nor sections, sections with a value."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if name in names:
            continue
        inside = [known for known in names if known.startswith(f"{name}.")]
        if not inside:
            yield f"there is no setting {name}{suggestion(name, names)}"
        elif isinstance(value, dict):
            yield from _faults(value, names, f"{name}.")
        elif value is not None:
            yield f"{name} {value}: is a section; give its settings, such as {inside[0]}"


def suggestion(name: str, names: list[str]) -> str:
    """Suggest the setting or section with the most similar name; empty if none is similar."""
    sections = sorted({known.rpartition(".")[0] for known in names} - {""})
    similar = get_close_matches(name, names + sections, 1)
    same_leaf = [known for known in names if known.rpartition(".")[2] == name]
    found = similar or same_leaf
    return f"; did you mean {found[0]}?" if found else ""
