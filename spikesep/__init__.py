"""SpikeSep: speech separation with spiking neural networks.

`load_model(path).separate(wave, sample_rate)` is the shortest way in; the `spikesep-*` commands and the recipes
under `egs/` do the rest.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "load_model":  # imported on demand: it brings torch
        from spikesep.separation.separate import load_model

        return load_model
    raise AttributeError(f"module 'spikesep' has no attribute {name!r}")
