"""The readout: neurons that integrate and do not fire (eq. 9)."""

import torch
from torch import Tensor

from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.signal import Signal
from spikesep.spiking.synapses.convolution import ConvConnectivity
from spikesep.spiking.synaptic import Synaptic

BLOCK = 2048
"""Positions whose product in float64 is taken at once."""


class Readout(Synaptic):
    """The free aggregate membrane potential (eq. 9): a synapse onto neurons that do not fire.

    In activation units it is one analog product with the values of the layers before it, whether
    they spike or not. In inference mode, the product of spikes is taken in float64 and rounded: in
    float32 its last digit would depend on the number of frames that run together.
    """

    def forward(self, *signals: Signal) -> Signal:
        """Potential, analog, [batch, ...], for the signal that reaches each synapse."""
        value, *_ = values = tuple(signal.value for signal in signals)
        weight, bias = self.neuron_weights()
        spikes = all(signal.is_spiking for signal in signals)
        if spikes and torch.is_inference_mode_enabled() and value.device.type != "mps":
            potential = self._in_float64(value, weight, bias)
        else:
            potential = self.connectivity.transmit(value, weight, bias)
        return Signal(sum(self.side_currents(values), start=potential))

    def _in_float64(self, value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight, bias = weight.double(), bias.double()
        connectivity = self.connectivity
        if not (isinstance(connectivity, ConvConnectivity) and connectivity.is_pointwise):
            return connectivity.transmit(value.double(), weight, bias).to(value.dtype)
        shape = (len(value), len(weight), value.shape[2])
        potential = value.new_empty(shape)
        for begin in range(0, value.shape[2], BLOCK):
            own = slice(begin, begin + BLOCK)
            of_block = weight[:, :, 0] @ value[..., own].double()
            potential[..., own] = of_block.add_(bias[:, None])
        return potential

    def neuron_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias, as the hardware holds them; the bias is zero where there is none."""
        weight, bias = self.synapse.weight, self.synapse.bias
        if bias is None:
            bias = weight.new_zeros(len(weight))
        if self.limiter is None or not weight.requires_grad:
            return weight, bias
        return self.limiter(weight, bias)

    def impose(self, limits: HardwareLimits) -> None:
        """See `Synaptic`; the synapse gets a bias first."""
        self.fold()
        super().impose(limits)

    def freeze(self) -> None:
        """Fix the weights, as the hardware holds them."""
        if self.limiter is not None:
            self.limiter.apply_to(self.synapse)
        self.requires_grad_(False)
