"""SpikeSep: speech separation with spiking neural networks.

Start with `load_model(path).separate(wave, sample_rate)` (see docs/python.md), the `spikesep-*`
commands, or the recipes under `egs/`.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

from spikesep.errors import SpikeSepError

if TYPE_CHECKING:
    from spikesep.separation.inference.in_memory import Model, Separated, load_model
    from spikesep.separation.inference.streaming import Stream

# torchmetrics 0.11 imports pkg_resources; users of SpikeSep cannot change that.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

__version__ = "0.1.0"
__all__ = ["Model", "Separated", "SpikeSepError", "Stream", "load_model"]

_LAZY_MODULES = {
    "load_model": "inference.in_memory",
    "Model": "inference.in_memory",
    "Separated": "inference.in_memory",
    "Stream": "inference.streaming",
}


def __getattr__(name: str):
    if name in _LAZY_MODULES:  # imported on first use, as they import torch
        return getattr(import_module(f"spikesep.separation.{_LAZY_MODULES[name]}"), name)
    raise AttributeError(f"module 'spikesep' has no attribute {name!r}")
