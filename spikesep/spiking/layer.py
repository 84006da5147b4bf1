"""One synapse + norm + ReLU that is born analog, becomes tandem, and ends spiking.

analog    value -> synapse -> norm (+ identity) -> ReLU -> value
tandem    the norm and the identity are folded into the synapse; the spiking neurons give the value, the analog
          twin, which shares the folded weights, gives the gradient (Fig. 2B)
spiking   the spiking neurons alone; nothing learns
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spikesep.spiking.neuron import integrate_and_fire
from spikesep.spiking.signal import Coding, Signal, steps_as_batch, straight_through

SYNAPSES = (nn.Linear, nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class SpikingLayer(nn.Module):
    """A layer of one synapse whose ReLU neurons can be exchanged for integrate-and-fire neurons.

    Args:
        synapse: Linear, Conv1d or Conv2d.
        norm: batch norm over the synapse's output, or None.
        before: a linear map without weights that comes before the synapse (flattening, average pooling), or None.
        identity: add the input to the normed output of the synapse. It needs a synapse whose output has its input's
            shape; folding makes it part of the kernel, so that it costs no spike.

    Raises:
        ValueError: a part that cannot be converted, or an identity that does not fit.
    """

    def __init__(
        self, synapse: nn.Module, norm: nn.Module | None = None, before: nn.Module | None = None, identity: bool = False
    ):
        super().__init__()
        if not isinstance(synapse, SYNAPSES):
            raise ValueError(f"a synapse is Linear, Conv1d or Conv2d, not {type(synapse).__name__}")
        if norm is not None and not isinstance(norm, NORMS):
            raise ValueError(f"a norm is batch norm, not {type(norm).__name__}")
        if identity:
            _centre(synapse)
        self.synapse = synapse
        self.norm = norm
        self.before = before
        self.identity = identity
        self.coding: Coding | None = None
        self.mode: Literal["analog", "tandem", "spiking"] = "analog"
        self.register_buffer("threshold", torch.tensor(0.0))

    def forward(self, signal: Signal) -> Signal:
        """Map the signal of the layer before: value [batch, ...], spikes [N_s, batch, ...] or none."""
        if self.mode == "analog":
            return Signal(self.activation(signal.value))
        if self.mode == "tandem" and torch.is_grad_enabled():
            with torch.no_grad():
                fired = self.fire(signal)
            return fired.with_value(straight_through(fired.value, self.activation(signal.value)))
        with torch.no_grad():
            return self.fire(signal)

    def activation(self, value: Tensor) -> Tensor:
        """The analog neurons (eq. 7)."""
        x = value if self.before is None else self.before(value)
        potential = self.synapse(x)
        if self.norm is not None:
            potential = self.norm(potential)
        if self.identity:
            potential = potential + x
        return torch.relu(potential)

    def fire(self, signal: Signal) -> Signal:
        """The spiking neurons (eqs. 3-6)."""
        threshold = float(self.threshold)
        spikes, _ = integrate_and_fire(
            self.current(signal).float(), threshold, self.coding.initial_potential * threshold
        )
        return Signal.from_spikes(spikes, self.threshold)

    def current(self, signal: Signal) -> Tensor:
        """Synaptic current in activation units, [N_s, batch, ...]; the bias is spread over the steps, b / N_s each."""
        n_steps = self.coding.n_steps
        weight, bias = self.synapse.weight, self.synapse.bias / n_steps
        if signal.spikes is not None:
            x = steps_as_batch(signal.spikes, _product_dtype(weight))
            x = x if self.before is None else self.before(x)
            current = functional_call(self.synapse, {"weight": weight * signal.threshold, "bias": bias}, (x,))
            return current.unflatten(0, (n_steps, -1))
        x = signal.value if self.before is None else self.before(signal.value)
        if self.coding.encoding == "constant":
            current = functional_call(self.synapse, {"weight": weight / n_steps, "bias": bias}, (x,))
            return current.expand(n_steps, *current.shape)
        impulse = functional_call(self.synapse, {"weight": weight, "bias": bias}, (x,))
        rest = (bias if isinstance(self.synapse, nn.Linear) else bias.view(-1, *[1] * (weight.ndim - 2))).expand_as(
            impulse
        )
        return torch.stack([impulse, *[rest] * (n_steps - 1)])

    def fold(self) -> None:
        """Make norm (running statistics, with its eps) and identity part of the synapse's weight and bias, in place.

        In inference the layer computes the same as before, up to rounding.
        """
        with torch.no_grad():
            self.synapse = fold(self.synapse, self.norm, self.identity)
        self.norm = None
        self.identity = False

    def convert(self, threshold: float, coding: Coding) -> None:
        """Analog -> tandem: fold, then put spiking neurons of this threshold (activation units) beside the analog twin.

        Raises:
            ValueError: the layer is converted already, or the threshold is not a positive number.
        """
        if self.mode != "analog":
            raise ValueError(f"the layer is {self.mode} already")
        if not 0 < threshold < float("inf"):
            raise ValueError(f"a threshold must be positive and finite, not {threshold}: is the layer silent?")
        self.fold()
        self.coding = coding
        self.threshold.fill_(threshold)
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
        return super().train(mode and self.mode == "analog")

    def extra_repr(self) -> str:
        """Mode, threshold and identity beside the submodules that torch lists."""
        parts = [self.mode]
        if self.mode != "analog":
            parts.append(f"threshold={float(self.threshold):.4g}")
        if self.identity:
            parts.append("identity")
        return ", ".join(parts)


class Readout(nn.Module):
    """The free aggregate membrane potential (eq. 9): a synapse onto neurons that do not fire.

    In activation units it is one analog product with the values of the layer before, spiking or not.

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


def fold(synapse: nn.Module, norm: nn.Module | None, identity: bool = False) -> nn.Module:
    """A synapse with bias that computes norm(synapse(x)), plus x where `identity`, as in inference.

    The norm's running statistics and its eps are used; the modules given are left as they are.
    """
    folded = copy.deepcopy(synapse)
    weight = synapse.weight.detach().clone()
    bias = (
        torch.zeros_like(weight[:, *[0] * (weight.ndim - 1)]) if synapse.bias is None else synapse.bias.detach().clone()
    )
    if norm is not None:
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else norm.weight.detach() * scale
        shift = 0.0 if norm.bias is None else norm.bias.detach()
        weight *= scale.view(-1, *[1] * (weight.ndim - 1))
        bias = (bias - norm.running_mean) * scale + shift
    if identity:
        rows = torch.arange(weight.shape[0], device=weight.device)
        weight[(rows, rows % weight.shape[1], *_centre(synapse))] += 1.0
    folded.weight = nn.Parameter(weight)
    folded.bias = nn.Parameter(bias)
    return folded


def _product_dtype(weight: Tensor) -> torch.dtype:
    """What the product is computed in; spikes are 0 and 1, so that casting them loses nothing."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _centre(synapse: nn.Module) -> tuple[int, ...]:
    """The kernel tap that an identity falls on; ValueError where the synapse changes the shape of its input."""
    if isinstance(synapse, nn.Linear):
        fits, centre = synapse.in_features == synapse.out_features, ()
    else:
        centre = tuple(k // 2 for k in synapse.kernel_size)
        same = synapse.padding == "same" or synapse.padding == tuple(
            c * d for c, d in zip(centre, synapse.dilation, strict=True)
        )
        odd = all(k % 2 == 1 for k in synapse.kernel_size) and all(s == 1 for s in synapse.stride)
        fits = synapse.in_channels == synapse.out_channels and same and odd
    if not fits:
        raise ValueError(f"an identity path needs a synapse that keeps the shape of its input: {synapse}")
    return centre
