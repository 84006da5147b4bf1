"""Range checks of settings: a value that cannot be is refused by the option's name before anything runs."""

from collections.abc import Callable
from typing import Any

from spikesep.errors import SpikeSepError

LONGEST = 60
"""Characters of a value in a message."""

CHECKS: dict[str, Callable[[Any], bool]] = {
    "positive": lambda value: value > 0,
    "not negative": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "between 0 and 1": lambda value: 0 <= value < 1,
    "odd": lambda value: value >= 1 and value % 2 == 1,
    "even and at least 2": lambda value: value >= 2 and value % 2 == 0,
}


def check(section: str, settings: Any, **wanted: str) -> None:
    """See that fields of a record of settings are as wanted, one of CHECKS each; a field that is None is not looked at.

    Raises:
        SpikeSepError: the first that is not, as `--section.field value`.
    """
    for name, what in wanted.items():
        value = getattr(settings, name)
        if value is not None and not CHECKS[what](value):
            raise SpikeSepError(f"--{section}.{name} {value}: must be {what}")


def check_whole(section: str, settings: Any, **bounds: tuple[int, int]) -> None:
    """See that fields of a record are whole numbers within bounds, both included.

    Raises:
        SpikeSepError: the first that is not, as `--section.field value`.
    """
    for name, (least, most) in bounds.items():
        value = getattr(settings, name)
        if type(value) is not int or not least <= value <= most:
            raise SpikeSepError(
                f"--{section}.{name} {brief(value)}: must be a whole number from {least:,} to {most:,}"
            )


def brief(value: Any) -> str:
    """A value as text of one line, cut off where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
