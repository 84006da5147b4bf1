"""One synapse + norm + ReLU that is born analog, becomes tandem, and ends spiking.

analog    value -> synapse -> norm -> ReLU -> value
discrete  the same, but the value is clipped and rounded to the N_s + 1 levels that spikes will have (eq. 10)
tandem    the norm is folded into the synapse; the spiking neurons give the value, the analog twin, which shares the
          folded weights, gives the gradient (Fig. 2B)
spiking   the spiking neurons alone; nothing learns
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spikesep.spiking import engines, packed
from spikesep.spiking.fixed_point import FixedPoint
from spikesep.spiking.signal import Coding, Signal, SpikeTrains, straight_through

SYNAPSES = (nn.Linear, nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class SpikingLayer(nn.Module):
    """A layer of one synapse whose ReLU neurons can be exchanged for integrate-and-fire neurons.

    Args:
        synapse: Linear, Conv1d or Conv2d.
        norm: batch norm over the synapse's output, or None.
        before: a linear map without weights that comes before the synapse (flattening, average pooling), or None.
        identity: the network adds the layer's input to its output: the layers behind receive the spikes of both.

    Raises:
        ValueError: a part that cannot be converted.
    """

    def __init__(
        self, synapse: nn.Module, norm: nn.Module | None = None, before: nn.Module | None = None, identity: bool = False
    ):
        super().__init__()
        if not isinstance(synapse, SYNAPSES):
            raise ValueError(f"a synapse is Linear, Conv1d or Conv2d, not {type(synapse).__name__}")
        if norm is not None and not isinstance(norm, NORMS):
            raise ValueError(f"a norm is batch norm, not {type(norm).__name__}")
        self.synapse = synapse
        self.norm = norm
        self.before = before
        self.identity = identity
        self.coding: Coding | None = None
        self.mode: Literal["analog", "discrete", "tandem", "spiking"] = "analog"
        self.register_buffer("threshold", torch.tensor(0.0))
        self.fixed: FixedPoint | None = None
        self.engine = "auto"
        self.ran_on = ""  # which engine fired last, and why

    def forward(self, signal: Signal) -> Signal:
        """What the layer's neurons make of a signal of value [batch, ...]; the identity path is the network's."""
        if self.mode == "analog":
            return Signal(self.activation(signal.value))
        if self.mode == "discrete":
            twin = self.activation(signal.value)
            return Signal(straight_through(self.rounded(twin), twin))
        if self.mode == "tandem" and torch.is_grad_enabled():
            with torch.no_grad():
                fired = self.fire(signal)
            return fired.with_value(straight_through(fired.value, self.activation(signal.value)))
        with torch.no_grad():
            return self.fire(signal)

    def activation(self, value: Tensor) -> Tensor:
        """The analog neurons (eq. 7)."""
        potential = self.synapse(value if self.before is None else self.before(value))
        return torch.relu(potential if self.norm is None else self.norm(potential))

    def rounded(self, activation: Tensor) -> Tensor:
        """Activations clipped and rounded as a constant current is by spiking neurons (eq. 10)."""
        threshold, share = float(self.threshold), self.coding.initial_potential
        count = activation.detach().to(torch.float32, copy=True).div_(threshold)
        return count.add_(share).floor_().clamp_(0, self.coding.n_steps).mul_(threshold).to(activation.dtype)

    def fire(self, signal: Signal) -> Signal:
        """The spiking neurons (eqs. 3-6)."""
        words, self.ran_on = engines.fire(self, signal)
        multiple = 1 if self.fixed is None else int(self.fixed.multiple)
        return Signal(trains=(SpikeTrains(words, self.coding.n_steps, self.threshold, multiple),))

    def current(self, signal: Signal) -> Tensor:
        """Synaptic current in activation units, [N_s, batch, ...]; the bias is spread over the steps, b / N_s each.

        Behind spiking layers, the synapses of all steps are one product.
        """
        n_steps = self.coding.n_steps
        weight, bias = self.synapse.weight, self.synapse.bias / n_steps
        if signal.is_spiking:
            dtype = _product_dtype(weight)
            if len(signal.trains) == 1:  # zeros and ones: exact in any number format
                (source,) = signal.trains
                x, weight = packed.drive([source.words], [1.0], n_steps, dtype), weight * source.threshold
            else:
                x = signal.drive(dtype)
            return self._transmit(x.flatten(0, 1), weight, bias).unflatten(0, (n_steps, -1))
        if self.coding.encoding == "constant":
            current = self._transmit(signal.value, weight / n_steps, bias)
            return current.expand(n_steps, *current.shape)
        impulse = self._transmit(signal.value, weight, bias)
        rest = bias if isinstance(self.synapse, nn.Linear) else bias.view(-1, *[1] * (weight.ndim - 2))
        return torch.stack([impulse, *[rest.expand_as(impulse)] * (n_steps - 1)])

    def _transmit(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x if self.before is None else self.before(x)
        return functional_call(self.synapse, {"weight": weight, "bias": bias}, (x,))

    def fold(self) -> None:
        """Make the norm (running statistics, with its eps) part of the synapse's weight and bias, in place.

        In inference the layer computes the same as before, up to rounding.
        """
        with torch.no_grad():
            self.synapse = fold(self.synapse, self.norm)
        self.norm = None

    def discretize(self, threshold: float, coding: Coding) -> None:
        """Analog -> discrete: round from now on, with the gradient of the ReLU.

        Raises:
            ValueError: the layer is converted already, or the threshold is not a positive number.
        """
        self._set(threshold, coding)
        self.mode = "discrete"

    def convert(self, threshold: float, coding: Coding) -> None:
        """Analog or discrete -> tandem: fold, then put spiking neurons beside the analog twin.

        Args:
            threshold: of the neurons, activation units.
            coding: N_s, encoding, initial potential.

        Raises:
            ValueError: the layer is converted already, or the threshold is not a positive number.
        """
        self._set(threshold, coding)
        self.fold()
        self.mode = "tandem"
        self.train(self.training)

    def freeze(self) -> None:
        """Tandem -> spiking: the weights stay as they are from now on."""
        if self.mode != "tandem":
            raise ValueError(f"only a tandem layer can be frozen; this one is {self.mode}")
        self.requires_grad_(False)
        self.mode = "spiking"

    def train(self, mode: bool = True) -> "SpikingLayer":
        """As in torch, but dropout stays off once the layer spikes."""
        return super().train(mode and self.mode in ("analog", "discrete"))

    def extra_repr(self) -> str:
        """Mode, threshold and identity beside the submodules that torch lists."""
        parts = [self.mode]
        if self.mode != "analog":
            parts.append(f"threshold={float(self.threshold):.4g}")
        if self.identity:
            parts.append("identity")
        return ", ".join(parts)

    def _set(self, threshold: float, coding: Coding) -> None:
        if self.mode in ("tandem", "spiking"):
            raise ValueError(f"the layer is {self.mode} already")
        if not 0 < threshold < float("inf"):
            raise ValueError(f"a threshold must be positive and finite, not {threshold}: is the layer silent?")
        self.coding = coding
        self.threshold.fill_(threshold)


class Readout(nn.Module):
    """The free aggregate membrane potential (eq. 9): a synapse onto neurons that do not fire.

    In activation units it is one analog product with the values of the layers before, spiking or not.

    Args:
        synapse: Linear, Conv1d or Conv2d.
        before: a linear map without weights that comes before it, or None.
    """

    def __init__(self, synapse: nn.Module, before: nn.Module | None = None):
        super().__init__()
        self.synapse = synapse
        self.before = before

    def forward(self, signal: Signal) -> Signal:
        """Potential, analog, [batch, ...]."""
        value = signal.value if self.before is None else self.before(signal.value)
        return Signal(self.synapse(value))


def fold(synapse: nn.Module, norm: nn.Module | None) -> nn.Module:
    """A synapse with bias that computes norm(synapse(x)) as in inference.

    The norm's running statistics and its eps are used; the modules given are left as they are.
    """
    folded = copy.deepcopy(synapse)
    weight = synapse.weight.detach().clone()
    bias = weight.new_zeros(len(weight)) if synapse.bias is None else synapse.bias.detach().clone()
    if norm is not None:
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else norm.weight.detach() * scale
        shift = 0.0 if norm.bias is None else norm.bias.detach()
        weight *= scale.view(-1, *[1] * (weight.ndim - 1))
        bias = (bias - norm.running_mean) * scale + shift
    folded.weight = nn.Parameter(weight)
    folded.bias = nn.Parameter(bias)
    return folded


def _product_dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
