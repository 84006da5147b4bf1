"""SpikeSep: speech separation with spiking neural networks.

`load_model(path).separate(wave, sample_rate)` is the shortest way in (see docs/python.md); the `spikesep-*`
commands and the recipes under `egs/` do the rest.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

from spikesep.errors import SpikeSepError

if TYPE_CHECKING:
    from spikesep.separation.inference.separate import Model, Separated, load_model
    from spikesep.separation.inference.streaming import Stream

# torchmetrics 0.11 imports pkg_resources; nobody who uses SpikeSep can do anything about it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

__version__ = "0.1.0"
__all__ = ["Model", "Separated", "SpikeSepError", "Stream", "load_model"]

_HOMES = {
    "load_model": "inference.separate",
    "Model": "inference.separate",
    "Separated": "inference.separate",
    "Stream": "inference.streaming",
}


def __getattr__(name: str):
    if name in _HOMES:  # imported on demand: they bring torch
        return getattr(import_module(f"spikesep.separation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'spikesep' has no attribute {name!r}")
