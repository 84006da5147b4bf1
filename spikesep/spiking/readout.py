"""The readout: neurons that integrate and do not fire (eq. 9)."""

from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.signal import Signal
from spikesep.spiking.synaptic import Synaptic


class Readout(Synaptic):
    """The free aggregate membrane potential (eq. 9): a synapse onto neurons that do not fire.

    In activation units it is one analog product with the values of the layers before it, whether
    they spike or not.
    """

    def forward(self, *signals: Signal) -> Signal:
        """Potential, analog, [batch, ...], for the signal that reaches each synapse."""
        value, *_ = values = tuple(signal.value for signal in signals)
        if self.limiter is None or not self.synapse.weight.requires_grad:
            potential = self.synapse(self.connectivity.pool(value))
        else:
            weight, bias = self.limiter(self.synapse.weight, self.bias)
            potential = self.connectivity.transmit(value, weight, bias)
        return Signal(sum(self.side_currents(values), start=potential))

    def impose(self, limits: HardwareLimits) -> None:
        """See `Synaptic`; the synapse gets a bias first."""
        self.fold()
        super().impose(limits)

    def freeze(self) -> None:
        """Fix the weights, as the hardware holds them."""
        if self.limiter is not None:
            self.limiter.apply_to(self.synapse)
        self.requires_grad_(False)
