"""Range checks of settings: a value that cannot be is refused by the option's name before anything runs."""

from collections.abc import Callable
from typing import Any

from spikesep.errors import SpikeSepError

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
