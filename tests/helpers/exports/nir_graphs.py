"""Networks that NIR can hold, and graphs as other programs write them."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from helpers.stacks import classifiers, stacks_1d
from spikesep.spiking import to_fixed_point
from spikesep.spiking.synapses.modules import ConvTranspose


def networks(**sizes):
    """Networks without transposed convolutions, their inputs, and whether they hold integers."""
    pairs = st.one_of(stacks_1d(**sizes), classifiers(**sizes)).filter(_is_known_to_nir)
    return st.tuples(pairs, st.booleans()).map(_maybe_in_fixed_point)


def _is_known_to_nir(pair):
    return not any(isinstance(part.synapse, ConvTranspose) for part in pair[0].parts)


def _maybe_in_fixed_point(drawn):
    """NIR has no leak in integers."""
    (network, x), in_fixed_point = drawn
    in_fixed_point = in_fixed_point and network.coding.beta == 1
    if in_fixed_point:
        to_fixed_point(network, [x])
    return network, x, in_fixed_point


def written_and_read(graph):
    """The graph after a round trip through a file."""
    import nir

    with tempfile.TemporaryDirectory() as folder:
        nir.write(Path(folder) / "graph.nir", graph)
        return nir.read(Path(folder) / "graph.nir")


def chain(*nodes):
    """A graph of these nodes in a row."""
    import nir

    return nir.NIRGraph.from_list(*nodes)


def neurons(kind="IF", *shape, threshold=1.0, **numbers):
    """Neurons of one threshold, unmarked."""
    import nir

    ones = np.ones(shape)
    others = {name: value * ones for name, value in numbers.items()}
    return getattr(nir, kind)(r=ones, v_threshold=threshold * ones, **others)
