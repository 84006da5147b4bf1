"""Deviations of other simulators from the NIR graphs that they read.

Tried with Sinabs 3.1, SpikingJelly 2.0 and snnTorch 1.0.
"""

from spikesep.spiking.export.stages import stages
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork

READERS = ("sinabs", "spikingjelly", "snntorch")


def require_reader(network: SpikingNetwork, reader: str) -> None:
    """Check that a simulator runs a network as it is.

    Raises:
        NotConvertibleError: it does not; the message says which simulators do.
        ValueError: there is no such reader.
    """
    if reader not in READERS:
        raise ValueError(f"reader must be one of {', '.join(READERS)}, not {reader!r}")
    if reader == "snntorch":
        raise NotConvertibleError(
            "snnTorch reads IF as a leaky neuron, and has no Conv1d; run the graph in Sinabs or "
            "SpikingJelly"
        )
    for stage in stages(network):
        pooling = [p for p in stage.part.connectivity.pooling if len(p.kernel_size) == 2]
        if reader == "sinabs" and any(any(p.padding) for p in pooling):
            raise NotConvertibleError(
                f"layer {stage.name}: Sinabs pools without padding; run the graph in SpikingJelly"
            )
