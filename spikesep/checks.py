"""Range checks of settings, reported under the name of the command-line option."""

from collections.abc import Callable
from typing import Any

from spikesep.errors import SpikeSepError

MAX_VALUE_LENGTH = 60
"""Characters of a value that an error message quotes."""

CHECKS: dict[str, Callable[[Any], bool]] = {
    "positive": lambda value: value > 0,
    "not negative": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "between 0 and 1": lambda value: 0 <= value < 1,
    "odd": lambda value: value >= 1 and value % 2 == 1,
    "even and at least 2": lambda value: value >= 2 and value % 2 == 0,
}


def check(section: str, settings: Any, **requirements: str) -> None:
    """Check fields of a settings record, ignoring fields that are None.

    Args:
        section: Name of the record in command-line options.
        settings: The record.
        **requirements: A key of `CHECKS` for each field.

    Raises:
        SpikeSepError: If a value violates its requirement; names `--section.field value`.
    """
    for name, requirement in requirements.items():
        value = getattr(settings, name)
        if value is not None and not CHECKS[requirement](value):
            raise SpikeSepError(f"--{section}.{name} {value}: must be {requirement}")


def check_whole(section: str, settings: Any, **bounds: tuple[int, int]) -> None:
    """Check that fields of a settings record are integers within inclusive bounds.

    Args:
        section: Name of the record in command-line options.
        settings: The record.
        **bounds: Minimum and maximum of each field.

    Raises:
        SpikeSepError: If a value is no integer or out of bounds; names `--section.field value`.
    """
    for name, (low, high) in bounds.items():
        value = getattr(settings, name)
        if type(value) is not int or not low <= value <= high:
            raise SpikeSepError(
                f"--{section}.{name} {brief(value)}: "
                f"must be a whole number from {low:,} to {high:,}"
            )


def brief(value: Any) -> str:
    """Format a value on one line, truncated to `MAX_VALUE_LENGTH` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."
