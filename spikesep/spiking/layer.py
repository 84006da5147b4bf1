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

from spikesep.spiking import engines
from spikesep.spiking.connections import divisor
from spikesep.spiking.hardware_limits import HardwareLimits, Limiter
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.signal import Coding, Signal, SpikeTrains, require_finite, straight_through
from spikesep.spiking.spike_trains import packed
from spikesep.spiking.surrogate import GradedSignal, graded_spikes

SYNAPSES = (nn.Linear, nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

Gradient = Literal["relu", "clipped", "surrogate"]
"""How errors pass a layer that rounds or spikes: as through its ReLU (the paper's tandem learning); likewise, but not
where it is at its upper bound, beyond which no weight can move it; or through its neurons' potentials in time."""


class SpikingLayer(nn.Module):
    """A layer of one synapse whose ReLU neurons can be exchanged for integrate-and-fire neurons.

    Args:
        synapse: Linear, Conv1d or Conv2d.
        norm: batch norm over the synapse's output, or None.
        before: a linear map without weights that comes before the synapse (flattening, average pooling), or None.
        identity: the network adds the layer's input to its output: the layers behind receive the spikes of both.
        residual: the layer adds its input to the potential, before the ReLU; folding makes it part of the kernel's
            middle tap, where it costs no synapse of its own.

    Raises:
        ValueError: a part that cannot be converted.
    """

    def __init__(
        self,
        synapse: nn.Module,
        norm: nn.Module | None = None,
        before: nn.Module | None = None,
        identity: bool = False,
        residual: bool = False,
    ):
        super().__init__()
        _check_synapse(synapse, before)
        if norm is not None:
            _check_norm(norm, synapse)
        if residual and (identity or before is not None or not keeps_shape(synapse)):
            raise ValueError(
                "a residual path needs a synapse that keeps the shape, and no other path or map beside it"
            )
        self.synapse = synapse
        self.norm = norm
        self.before = before
        self.identity = identity
        self.residual = residual
        self.coding: Coding | None = None
        self.mode: Literal["analog", "discrete", "tandem", "spiking"] = "analog"
        self.gradient: Gradient = "relu"
        self.limiter: Limiter | None = None
        self._batch_moments: tuple[Tensor, Tensor] | None = None
        self.register_buffer("threshold", torch.tensor(0.0))
        self.fixed: FixedPoint | None = None
        self.engine = "auto"
        self.ran_on = ""  # which engine fired last, and why

    def forward(self, signal: Signal) -> Signal:
        """What the layer's neurons make of a signal of value [batch, ...]; the identity path is the network's.

        Raises:
            SpikeSepError: neurons would fire on NaN or Inf, in inference.
        """
        if self.mode == "analog":
            return Signal(self.activation(signal.value))
        if self.mode == "discrete":
            twin = self.activation(signal.value)
            return Signal(straight_through(self.rounded(twin), self._bounded(twin)))
        if self.mode == "tandem" and torch.is_grad_enabled():
            return self._tandem(signal)
        if not signal.is_spiking:
            require_finite(signal.value, "the spiking network's analog input")
        with torch.no_grad():
            return self.fire(signal)

    def activation(self, value: Tensor) -> Tensor:
        """The analog neurons (eq. 7)."""
        return self._rectified(self._potential(value), value)

    def _rectified(self, potential: Tensor, value: Tensor) -> Tensor:
        potential = potential if self.norm is None else self.norm(potential)
        return torch.relu(potential + value if self.residual else potential)

    def _potential(self, value: Tensor) -> Tensor:
        """The twin's synapse, without the inputs that were given up."""
        value = value if self.before is None else self.before(value)
        if self.limiter is None:
            return self.synapse(value)
        return functional_call(
            self.synapse, {"weight": self.limiter.pruned(self.synapse.weight)}, (value,)
        )

    def _bounded(self, twin: Tensor) -> Tensor:
        return (
            twin
            if self.gradient == "relu"
            else twin.clamp(max=self.threshold * self.coding.n_steps)
        )

    def _tandem(self, signal: Signal) -> Signal:
        """Spikes forward, the gradient of choice backward (section 4.1).

        A norm that is not folded yet works with the batch's moments of the free aggregate potential (eq. 9), in the
        twin and in the neurons.
        """
        potential = self._potential(signal.value)
        if self.norm is not None and self.norm.training:
            dims = [d for d in range(potential.ndim) if d != 1]
            self._batch_moments = torch.var_mean(potential, dims, correction=0)
        if self.gradient == "surrogate":
            out = self._fire_graded(signal)
        else:
            with torch.no_grad():
                out = self.fire(signal)
        self._batch_moments = None
        twin = self._rectified(potential, signal.value)  # keeps the running moments, too
        if self.gradient == "surrogate":
            return out
        return out.with_value(straight_through(out.value, self._bounded(twin)))

    def _fire_graded(self, signal: Signal) -> GradedSignal:
        if isinstance(signal, GradedSignal):
            weight, bias = self.shared()
            n_steps = self.coding.n_steps
            current = self._transmit(signal.graded.flatten(0, 1), weight, bias / n_steps).unflatten(
                0, (n_steps, -1)
            )
        else:
            current = self.current(signal)
        threshold = float(self.threshold)
        return GradedSignal(
            threshold * graded_spikes(current, threshold, self.coding.initial_potential * threshold)
        )

    def shared(self) -> tuple[Tensor, Tensor]:
        """The weight and bias that the neurons take over from the twin: folded and, if limited, as the hardware holds
        them (Fig. 3)."""
        weight, bias = self.synapse.weight, self.synapse.bias
        if self.norm is not None:
            variance, mean = self._batch_moments or (self.norm.running_var, self.norm.running_mean)
            weight, bias = folded(weight, bias, self.norm, mean, variance)
        weight = weight + unit_kernel(self.synapse) if self.residual else weight
        return (
            (weight, bias)
            if self.limiter is None or self.mode == "spiking"
            else self.limiter(weight, bias)
        )

    def rounded(self, activation: Tensor) -> Tensor:
        """Activations clipped and rounded as a constant current is by spiking neurons (eq. 10)."""
        count = (
            activation.detach().to(torch.float32, copy=True).div_(self.threshold)
        )  # a tensor: no accelerator waits
        count.add_(self.coding.initial_potential).floor_().clamp_(0, self.coding.n_steps)
        return count.mul_(self.threshold).to(activation.dtype)

    def fire(self, signal: Signal) -> Signal:
        """The spiking neurons (eqs. 3-6).

        Raises:
            ValueError: the spikes that come in are of another window.
        """
        if any(trains.n_steps != self.coding.n_steps for trains in signal.trains):
            found = [trains.n_steps for trains in signal.trains]
            raise ValueError(
                f"spikes of {found} steps reach a layer of {self.coding.n_steps} steps"
            )
        words, self.ran_on = engines.fire(self, signal)
        multiple = 1 if self.fixed is None else int(self.fixed.multiple)
        return Signal(trains=(SpikeTrains(words, self.coding.n_steps, self.threshold, multiple),))

    def current(self, signal: Signal) -> Tensor:
        """Synaptic current in activation units, [N_s, batch, ...]; the bias is spread over the steps, b / N_s each.

        Behind spiking layers, the synapses of all steps are one product.
        """
        n_steps = self.coding.n_steps
        weight, bias = self.shared()
        bias = bias / n_steps
        if signal.is_spiking:
            dtype = _product_dtype(weight)
            if len(signal.trains) == 1:  # zeros and ones: exact in any number format
                (source,) = signal.trains
                x, weight = (
                    packed.drive([source.words], [1.0], n_steps, dtype),
                    weight * source.threshold,
                )
            else:
                x = signal.drive(dtype)
            return self._transmit(x.flatten(0, 1), weight, bias).unflatten(0, (n_steps, -1))
        if self.coding.encoding == "constant":
            current = self._transmit(signal.value, weight / n_steps, bias)
            return current.expand(n_steps, *current.shape)
        impulse = self._transmit(signal.value, weight, bias)
        rest = (
            bias if isinstance(self.synapse, nn.Linear) else bias.view(-1, *[1] * (weight.ndim - 2))
        )
        return torch.stack([impulse, *[rest.expand_as(impulse)] * (n_steps - 1)])

    def charge(self, signal: Signal) -> Tensor:
        """What arrives within the window, activation units, [batch, ...]; `current` summed over the steps."""
        return self._transmit(signal.value, *self.shared())

    def _transmit(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x if self.before is None else self.before(x)
        return functional_call(self.synapse, {"weight": weight, "bias": bias}, (x,))

    def fold(self) -> None:
        """Make the norm (running statistics, with its eps) and the residual path part of the synapse's weight and bias.

        In inference the layer computes the same as before, up to rounding.
        """
        with torch.no_grad():
            self.synapse = fold(self.synapse, self.norm)
            if self.residual:
                self.synapse.weight += unit_kernel(self.synapse)
        self.norm, self.residual = None, False

    def discretize(self, threshold: float, coding: Coding, gradient: Gradient = "relu") -> None:
        """Analog -> discrete: round from now on, with the gradient `relu` or `clipped`.

        Raises:
            ValueError: the layer is converted already, or the threshold is not a positive number.
        """
        self._set(threshold, coding, gradient)
        self.mode = "discrete"

    def convert(
        self,
        threshold: float,
        coding: Coding,
        gradient: Gradient = "relu",
        limits: HardwareLimits | None = None,
        keep_norm: bool = False,
    ) -> None:
        """Analog or discrete -> tandem: fold, then put spiking neurons beside the analog twin.

        Args:
            threshold: of the neurons, activation units.
            coding: N_s, encoding, initial potential.
            gradient: of the tandem layer.
            limits: the hardware's, for the neurons' weights.
            keep_norm: fold at the end only: the norm goes on to learn, and to measure, until the layer is frozen.

        Raises:
            ValueError: the layer is converted already, or the threshold is not a positive number, or limits are to hold
                while the norm still moves.
            SpikeSepError: the fan-in is too small.
        """
        if gradient == "surrogate" and coding.deferred:
            raise ValueError("learning through time needs neurons that fire in time: not deferred")
        if limits and keep_norm:
            raise ValueError("limits hold of folded weights: keep_norm cannot be had with them")
        self._set(threshold, coding, gradient)
        if self.norm is None or not keep_norm:
            self.fold()
        if limits:
            self.limiter = limited(self, limits)
        self.mode = "tandem"
        self.train(self.training)

    def freeze(self) -> None:
        """Tandem -> spiking: the weights stay as they are from now on."""
        if self.mode != "tandem":
            raise ValueError(f"only a tandem layer can be frozen; this one is {self.mode}")
        if self.norm is not None or self.residual:
            self.fold()
        if self.limiter is not None:
            self.limiter.apply_to(self.synapse)
        self.requires_grad_(False)
        self.mode = "spiking"
        self.train(False)

    def train(self, mode: bool = True) -> "SpikingLayer":
        """As in torch, but dropout stays off once the layer spikes; a norm that is still there goes on."""
        super().train(mode and self.mode in ("analog", "discrete"))
        if self.norm is not None:
            self.norm.train(mode)
        return self

    def thaw(self) -> None:
        """Spiking -> discrete: learn on, rounding at the threshold there is, without the inputs that were given up; the
        gradient is `discretize`'s to choose.

        Raises:
            ValueError: the layer is not spiking, or its weights have few bits.
        """
        bits = (
            ""
            if self.limiter is None or not self.limiter.limits.weight_bits
            else ", with weights of few bits"
        )
        if self.mode != "spiking" or bits:
            raise ValueError(
                f"only a spiking layer with float weights can learn on; this one is {self.mode}{bits}"
            )
        self.mode, self.fixed = "discrete", None
        self.requires_grad_(True)

    def extra_repr(self) -> str:
        """Mode, threshold and identity beside the submodules that torch lists."""
        parts = [self.mode]
        if self.mode != "analog":
            parts.append(f"threshold={float(self.threshold):.4g}")
        parts += [name for name in ("identity", "residual") if getattr(self, name)]
        return ", ".join(parts)

    def _set(self, threshold: float, coding: Coding, gradient: Gradient) -> None:
        if self.mode in ("tandem", "spiking"):
            raise ValueError(f"the layer is {self.mode} already")
        if not 0 < threshold < float("inf"):
            raise ValueError(
                f"a threshold must be positive and finite, not {threshold}: is the layer silent?"
            )
        self.coding = coding
        self.gradient = gradient
        self.threshold.fill_(threshold)


class Readout(nn.Module):
    """The free aggregate membrane potential (eq. 9): a synapse onto neurons that do not fire.

    In activation units it is one analog product with the values of the layers before, spiking or not.

    Args:
        synapse: Linear, Conv1d or Conv2d.
        before: a linear map without weights that comes before it, or None.

    Raises:
        ValueError: a part that cannot be converted.
    """

    def __init__(self, synapse: nn.Module, before: nn.Module | None = None):
        super().__init__()
        _check_synapse(synapse, before)
        self.synapse = synapse
        self.before = before
        self.limiter: Limiter | None = None

    def forward(self, signal: Signal) -> Signal:
        """Potential, analog, [batch, ...]."""
        value = signal.value if self.before is None else self.before(signal.value)
        if self.limiter is None or not self.synapse.weight.requires_grad:
            return Signal(self.synapse(value))
        weight, bias = self.limiter(self.synapse.weight, self.synapse.bias)
        return Signal(functional_call(self.synapse, {"weight": weight, "bias": bias}, (value,)))

    def fold(self) -> None:
        """Have a bias, of zeros where there was none."""
        self.synapse = fold(self.synapse, None)

    def limit(self, limits: HardwareLimits) -> None:
        """Keep to what the hardware allows from now on, while the full-precision weights learn on.

        Raises:
            SpikeSepError: the fan-in is too small.
        """
        self.fold()
        self.limiter = limited(self, limits)

    def freeze(self) -> None:
        """The weights stay as they are from now on."""
        if self.limiter is not None:
            self.limiter.apply_to(self.synapse)
        self.requires_grad_(False)


def _check_synapse(synapse: nn.Module, before: nn.Module | None) -> None:
    if not isinstance(synapse, SYNAPSES):
        raise ValueError(f"a synapse is Linear, Conv1d or Conv2d, not {type(synapse).__name__}")
    for module in () if before is None else before.modules():
        if not isinstance(module, nn.Flatten):
            continue
        if not isinstance(synapse, nn.Linear):
            raise ValueError(
                f"Flatten before {type(synapse).__name__} mixes channels and places; "
                "take Conv2d all through, or Flatten() before Linear"
            )
        if (module.start_dim, module.end_dim) != (1, -1):
            raise ValueError(f"{module} before it flattens only some dimensions; take Flatten()")


def _check_norm(norm: nn.Module, synapse: nn.Module) -> None:
    if not isinstance(norm, NORMS):
        raise ValueError(f"a norm is batch norm, not {type(norm).__name__}")
    wanted = nn.BatchNorm2d if isinstance(synapse, nn.Conv2d) else nn.BatchNorm1d
    found, kind = type(norm).__name__, type(synapse).__name__
    if not isinstance(norm, wanted):
        raise ValueError(f"{found} behind {kind} is not over its channels; take {wanted.__name__}")
    if norm.num_features != len(synapse.weight):
        raise ValueError(
            f"{found} of {norm.num_features} features is not over the {len(synapse.weight)} "
            f"channels of {kind}; take {found}({len(synapse.weight)})"
        )
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            f"{found} keeps no running statistics, which conversion folds into weights; "
            "train it with track_running_stats=True"
        )


def give_up(module: SpikingLayer | Readout, kept: Tensor, fan_in: int) -> None:
    """Before a layer is converted: have it learn on with these inputs alone.

    Args:
        module: its norm is folded.
        kept: bool, the shape of the weight.
        fan_in: the limit that they are within.
    """
    module.limiter = Limiter(
        HardwareLimits(fan_in=fan_in), module.synapse.weight, module.synapse.bias, kept=kept
    )


def limited(module: SpikingLayer | Readout, limits: HardwareLimits) -> Limiter:
    """The limiter of a layer or readout whose norm is folded; inputs that it has given up stay so."""
    kept = getattr(module.limiter, "kept", None)
    return Limiter(limits, module.synapse.weight, module.synapse.bias, int(divisor(module)), kept)


def fold(synapse: nn.Module, norm: nn.Module | None) -> nn.Module:
    """A synapse with bias that computes norm(synapse(x)) as in inference.

    The norm's running statistics and its eps are used; the modules given are left as they are.
    """
    weight = synapse.weight.detach().clone()
    bias = weight.new_zeros(len(weight)) if synapse.bias is None else synapse.bias.detach().clone()
    if norm is not None:
        with torch.no_grad():
            weight, bias = folded(weight, bias, norm, norm.running_mean, norm.running_var)
    whole = copy.deepcopy(synapse)
    whole.weight = nn.Parameter(weight)
    whole.bias = nn.Parameter(bias)
    return whole


def folded(
    weight: Tensor, bias: Tensor | None, norm: nn.Module, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a synapse and of the batch norm of these moments behind it, made into one."""
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else norm.weight * scale
    shift = 0.0 if norm.bias is None else norm.bias
    rest = -mean if bias is None else bias - mean
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), rest * scale + shift


def keeps_shape(synapse: nn.Module) -> bool:
    """Whether each output of a synapse stands at the middle of the inputs it receives, and has an input for its own."""
    if isinstance(synapse, nn.Linear):
        return synapse.in_features == synapse.out_features
    same = [d * (k - 1) / 2 for d, k in zip(synapse.dilation, synapse.kernel_size, strict=True)]
    return (
        synapse.in_channels == synapse.out_channels
        and list(synapse.stride) == [1] * len(same)
        and (synapse.padding == "same" or list(synapse.padding) == same)
        and all(k % 2 for k in synapse.kernel_size)
    )


def unit_kernel(synapse: nn.Module) -> Tensor:
    """The weight with which a synapse that `keeps_shape` gives its input back."""
    weight = torch.zeros_like(synapse.weight)
    channels, size = torch.arange(len(weight)), getattr(synapse, "kernel_size", ())
    weight[(channels, channels % weight.shape[1], *(k // 2 for k in size))] = 1.0
    return weight


def _product_dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
