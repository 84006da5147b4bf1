"""Published limits of neuromorphic chips.

A profile states what its source states, no more: precision of weights, inputs of a neuron, whether
a spike carries a number, and neurons. Routing, timing and power are not modeled.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class HardwareProfile:
    """Limits of a chip.

    Attributes:
        title: name of the chip.
        weight_bits: bits of a weight.
        fan_in: largest number of inputs of a neuron; 0 where the source states none.
        graded: whether a spike carries a number.
        cores: cores of a chip.
        neurons: neurons of a chip; 0 where only memory limits them.
        source: where the figures are published.
    """

    title: str
    weight_bits: int
    fan_in: int
    graded: bool
    cores: int
    neurons: int
    source: str


PROFILES = {
    "loihi2": HardwareProfile(
        "Intel Loihi 2",
        weight_bits=8,
        fan_in=0,
        graded=True,
        cores=128,
        neurons=128 * 8192,
        source="Orchard et al., Efficient neuromorphic signal processing with Loihi 2, SiPS 2021",
    ),
    "speck": HardwareProfile(
        "SynSense Speck",
        weight_bits=8,
        fan_in=0,
        graded=False,
        cores=9,
        neurons=327_680,
        source="Richter et al., Speck: a smart event-based vision sensor, arXiv 2304.06793",
    ),
    "spinnaker2": HardwareProfile(
        "SpiNNaker2",
        weight_bits=8,
        fan_in=0,
        graded=True,
        cores=152,
        neurons=0,
        source="Gonzalez et al., SpiNNaker2: a large-scale neuromorphic system, arXiv 2401.04491",
    ),
    "truenorth": HardwareProfile(
        "IBM TrueNorth",
        weight_bits=2,
        fan_in=256,
        graded=False,
        cores=4096,
        neurons=4096 * 256,
        source="Akopyan et al., TrueNorth, IEEE TCAD 34 (10), 2015; weights of -1, 0 and 1 as in "
        "Esser et al., PNAS 113 (41), 2016",
    ),
}
"""Profiles by their name in the settings (`convert.profile`)."""
