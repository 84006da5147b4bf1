"""How far a network over frames looks back and ahead, told from its synapses and wires."""

from dataclasses import dataclass

from spikesep.spiking.network import READOUT, NotConvertibleError, SpikingNetwork
from spikesep.spiking.synapses.convolution import ConvConnectivity
from spikesep.spiking.synaptic import Synaptic
from spikesep.spiking.wiring.wires import INPUT, Concatenation, Mapped, Sum, Wire


@dataclass(frozen=True)
class Reach:
    """The frames around an output frame on which it depends.

    Attributes:
        back: number of earlier frames.
        ahead: number of later frames.
    """

    back: int = 0
    ahead: int = 0

    def behind(self, earlier: "list[Reach]") -> "Reach":
        """The reach of a layer with this reach of its own that reads layers with those."""
        back = max(reach.back for reach in earlier)
        return Reach(back + self.back, max(reach.ahead for reach in earlier) + self.ahead)


def reach_of(network: SpikingNetwork) -> Reach:
    """The frames on which an output frame of a network depends.

    Raises:
        NotConvertibleError: a layer does not give one output frame per input frame.
    """
    reaches = {INPUT: Reach()}
    for name, part in zip([*network.names, READOUT], network.parts, strict=True):
        (wire,) = network.wiring[name] if len(part.branches) == 1 else (None,)
        sizes = convolution(name, part, wire)
        ((back, ahead),) = sizes.margins
        sources = [] if wire is None else [reaches[source] for source in wire.names]
        reaches[name] = Reach(back, ahead).behind(sources)
    return reaches[READOUT]


def convolution(name: str, part: Synaptic, wire: Wire | None) -> ConvConnectivity:
    """The synapse of a layer that gives one output frame per input frame.

    Raises:
        NotConvertibleError: it does not.
    """
    sizes = part.connectivity
    is_bare = wire is not None and _passes_frames(wire) and not part.before
    if is_bare and isinstance(sizes, ConvConnectivity) and _keeps_frames(sizes):
        return sizes
    raise NotConvertibleError(
        f"layer {name}: a stream takes layers of one Conv1d each, padded with zeros to as many "
        "outputs as inputs, without pooling; run the network on whole signals"
    )


def _passes_frames(wire: Wire) -> bool:
    """Whether what arrives in a frame comes from the same frame of all outputs that are read."""
    if isinstance(wire, Concatenation) and wire.dim not in (1, -2):
        return False
    parts = wire.parts if isinstance(wire, (Sum, Concatenation)) else ()
    return not isinstance(wire, Mapped) and all(map(_passes_frames, parts))


def _keeps_frames(sizes: ConvConnectivity) -> bool:
    if len(sizes.kernel_size) != 1 or sizes.stride != (1,) or sizes.padding_mode != "zeros":
        return False
    return sum(sizes.margins[0]) == sizes.dilation[0] * (sizes.kernel_size[0] - 1)
