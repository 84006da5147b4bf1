"""The connectivity of identity shortcuts."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
from torch import Tensor

from spikesep.spiking.synapses.connectivity import Connectivity
from spikesep.spiking.synapses.modules import scaled
from spikesep.spiking.synapses.table import Size


@dataclass(frozen=True)
class OneToOneConnectivity(Connectivity):
    """`OneToOne`: each input reaches the neuron in its place.

    Attributes:
        channels_last: as of the module.
    """

    channels_last: bool = False
    multiplies: ClassVar[bool] = False

    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `Connectivity`."""
        return scaled(x, weight, self.channels_last)

    @property
    def in_channels_last(self) -> bool:
        """See `Connectivity`."""
        return self.channels_last

    @property
    def out_channels_last(self) -> bool:
        """See `Connectivity`."""
        return self.channels_last

    def windows(self, image: Size) -> tuple[np.ndarray, np.ndarray, Size]:
        """See `Connectivity`."""
        entries = np.arange(prod(image), dtype=np.int32)
        return entries[:, None], np.zeros(1, np.int32), image

    def output_shape(self, shape: Size) -> Size:
        """See `Connectivity`."""
        if shape[-1 if self.channels_last else 0] != self.in_channels:
            raise ValueError(f"a shortcut of {self.in_channels} channels receives {list(shape)}")
        return shape

    @property
    def n_phases(self) -> int:
        """See `Connectivity`."""
        return 1

    @property
    def describe(self) -> str:
        """See `Connectivity`."""
        return f"Identity {self.in_channels}"
