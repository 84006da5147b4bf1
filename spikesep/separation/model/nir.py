"""The mask network of a separator as a NIR graph, for blocks of one length."""

from pathlib import Path

from spikesep.files import atomic_path
from spikesep.separation.model.separator import Separator
from spikesep.spiking.export.extras import require
from spikesep.spiking.export.nir_out import to_nir


def save_nir(model: Separator, path: Path, n_samples: int, *, deferred: bool = False) -> None:
    """Write the mask network as a NIR file, for the features of mixtures of `n_samples`.

    Encoder, norm and decoder stay outside: `Separator.encode_in_float64`, `Separator.decode`.

    Args:
        model: a spiking separator.
        path: the file.
        n_samples: length of a mixture.
        deferred: see `to_nir`.

    Raises:
        SpikeSepError: NIR has no counterpart for a part of the network, or the package `nir` is
            not installed.
    """
    n_frames = -(-n_samples // model.stride) + 1
    shape = (model.config.n_filters, n_frames)
    graph = to_nir(model.network, shape, deferred=deferred)
    graph.metadata["sample_rate"], graph.metadata["n_samples"] = model.sample_rate, n_samples
    with atomic_path(path) as temporary:
        require("nir", "nir").write(temporary, graph)
