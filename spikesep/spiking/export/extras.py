"""Packages that only exports need."""

from importlib import import_module
from typing import Any

from spikesep.errors import SpikeSepError


def require(package: str, extra: str) -> Any:
    """Import an optional package.

    Args:
        package: name of the module.
        extra: the extra of SpikeSep that installs it.

    Raises:
        SpikeSepError: it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise SpikeSepError(
            f"{error.name} is not installed; install the extra for this format: "
            f"pip install 'spikesep[{extra}]'"
        ) from error
