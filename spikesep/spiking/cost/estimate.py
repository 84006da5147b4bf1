"""Differentiable estimate of the synaptic operations of a training pass."""

from torch import Tensor

from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.levels.rate import step_of
from spikesep.spiking.signal import Signal
from spikesep.spiking.synaptic import Synaptic


class SynopsEstimate:
    """Observer of one training pass: what its spikes cost, with a gradient.

    The network is a stack whose layers round or spike. Synapses are counted as if there were no
    borders.
    """

    def __init__(self):
        self.synops: Tensor | float = 0.0
        self.macs = 0.0
        self._arriving: Tensor | float = 0.0  # spikes per channel, [C]; 0 behind an analog layer

    @property
    def ratio(self) -> Tensor | float:
        """Synaptic operations per MAC of the layers passed, a scalar."""
        return self.synops / self.macs if self.macs else 0.0

    def __call__(
        self, name: str, module: Synaptic, signals: tuple[Signal, ...], out: Signal
    ) -> None:
        """See `spikesep.spiking.network.Observer`."""
        (signal,) = signals
        connectivity = module.connectivity
        if not self.macs and signal.is_spiking:  # behind a frozen prefix
            self._arriving = connectivity.sum_inputs(signal.count)
        if isinstance(self._arriving, Tensor):
            reached = connectivity.reached(len(self._arriving), module.kept)
            self.synops = self.synops + (self._arriving * reached.to(out.value.device)).sum()
        self.macs += signal.value.numel() / connectivity.divisor * connectivity.fan_out
        if not isinstance(module, SpikingLayer) or module.mode == "analog":
            self._arriving = 0.0
            return
        spikes = connectivity.sum_outputs(out.value.float()) / step_of(module)
        self._arriving = spikes + self._arriving if module.identity else spikes
