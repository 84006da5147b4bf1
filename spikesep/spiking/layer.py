"""A layer that starts analog and ends spiking: synapses, norm and ReLU, or integrate-and-fire
neurons.

analog    value -> synapse -> norm -> ReLU -> value
discrete  the same, with the value clipped and rounded to the N_s + 1 levels of spikes (eq. 10)
tandem    the norm is folded into the synapse; spiking neurons give the value, and the analog twin,
          which shares the folded weights, gives the gradient (Fig. 2B)
spiking   spiking neurons alone; nothing learns
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from spikesep.spiking import engines
from spikesep.spiking.engines.call import LayerCall, Projection
from spikesep.spiking.folding import BatchNorm, as_batch_norm, fold, folded_weights, moments
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.integers import FixedPoint
from spikesep.spiking.levels.activation import Levels
from spikesep.spiking.signal import Coding, Signal, SpikeTrains, require_finite, straight_through
from spikesep.spiking.spike_trains.packed import Bursts
from spikesep.spiking.surrogate import GradedSignal, graded_spikes
from spikesep.spiking.synaptic import Synaptic

Gradient = Literal["relu", "clipped", "surrogate"]
"""How errors pass a layer that rounds or spikes: as through its ReLU (the paper's tandem learning);
likewise, but zero where the layer is at its upper bound, beyond which no weight can move it; or
through the potentials of its neurons in time.
"""


class SpikingLayer(Synaptic):
    """A layer whose ReLU neurons can be exchanged for integrate-and-fire neurons.

    Args:
        synapse: a module of one of the kinds in `synapses.kinds`.
        norm: batch norm over the synapse's output, or None.
        before: a linear map without weights before the synapse (flattening, average pooling), or
            None.
        identity: the network adds the layer's input to its output, so later layers receive the
            spikes of both.
        residual: the layer adds its input to the potential, before the ReLU. Folding makes it part
            of the kernel's middle tap, where it costs no synapse of its own.
        shortcuts: further synapses onto the same neurons, behind the norm, each with an input of
            its own.
        ceiling: largest output, as of ReLU6; None for no bound.

    Raises:
        ValueError: a part that cannot be converted.
    """

    threshold: Tensor

    def __init__(
        self,
        synapse: nn.Module,
        norm: nn.Module | None = None,
        before: nn.Module | None = None,
        identity: bool = False,
        residual: bool = False,
        *,
        shortcuts: Iterable[Synaptic] = (),
        ceiling: float | None = None,
    ):
        super().__init__(synapse, before, shortcuts)
        if residual and (identity or before is not None or not self.connectivity.keeps_shape):
            raise ValueError(
                "a residual path needs a synapse that keeps the shape, and no other path or map "
                "beside it"
            )
        self.norm: BatchNorm | None = None if norm is None else as_batch_norm(norm, self.synapse)
        self.identity = identity
        self.residual = residual
        self.ceiling = ceiling
        self.levels: Levels | None = None  # where the threshold of a discrete layer learns
        self._coding: Coding | None = None
        self.mode: Literal["analog", "discrete", "tandem", "spiking"] = "analog"
        self.gradient: Gradient = "relu"
        self._batch_moments: tuple[Tensor, Tensor] | None = None
        self.register_buffer("threshold", torch.tensor(0.0))
        self.fixed: FixedPoint | None = None
        self.engine = "auto"
        self.ran_on = ""  # the engine of the last call, and why

    @property
    def coding(self) -> Coding:
        """How values become spikes.

        Raises:
            ValueError: the layer is analog.
        """
        if self._coding is None:
            raise ValueError("an analog layer does not fire; discretize or convert it first")
        return self._coding

    @coding.setter
    def coding(self, coding: Coding) -> None:
        self._coding = coding

    def forward(self, *signals: Signal) -> Signal:
        """Output of the layer's neurons for the signal that reaches each synapse, [batch, ...].

        Raises:
            SpikeSepError: in inference, neurons would fire on NaN or Inf.
        """
        if self.mode == "analog":
            return Signal(self.activation(*_values(signals)))
        if self.mode == "discrete":
            twin = self.activation(*_values(signals))
            if self.levels is not None:
                return Signal(self.levels.rounded(twin))
            return Signal(straight_through(self.rounded(twin), self._bounded(twin)))
        if self.mode == "tandem" and torch.is_grad_enabled():
            return self._tandem(signals)
        for signal in signals:
            if not signal.is_spiking:
                require_finite(signal.value, "the spiking network's analog input")
        with torch.no_grad():
            return self.fire(*signals)

    def activation(self, *values: Tensor) -> Tensor:
        """Output of the analog neurons (eq. 7) for the input of each synapse."""
        return self._rectified(self._potential(values[0]), values)

    def rounded(self, activation: Tensor) -> Tensor:
        """Activations clipped and rounded as spiking neurons code a constant current (eq. 10)."""
        # The threshold stays a tensor, so that no accelerator waits for it.
        count = self.coding.count(activation.detach().float() / self.threshold)
        return count.mul_(self.threshold).to(activation.dtype)

    def fire(self, *signals: Signal) -> Signal:
        """Spikes of the integrate-and-fire neurons (eqs. 3-6).

        Raises:
            ValueError: the incoming spikes are of another window.
        """
        n_steps = self.coding.n_steps
        found = [trains.n_steps for signal in signals for trains in signal.trains]
        if any(steps != n_steps for steps in found):
            raise ValueError(f"spikes of {found} steps reach a layer of {n_steps} steps")
        fired, self.ran_on = engines.run(self.call(), signals, self.engine)
        return self.signal_of(fired)

    def signal_of(self, fired: Tensor | Bursts) -> Signal:
        """The signal of spikes of this layer; see `SpikeTrains`."""
        multiple = 1 if self.fixed is None else int(self.fixed.multiple)
        return Signal(trains=(SpikeTrains(fired, self.coding.n_steps, self.threshold, multiple),))

    def call(self) -> LayerCall:
        """The description of this layer that an engine runs."""
        weight, bias = self.neuron_weights()
        projections = [Projection(self.connectivity, weight)]
        for shortcut in self._shortcuts():
            synapse = shortcut.synapse
            projections.append(Projection(shortcut.connectivity, synapse.weight))
            bias = bias if synapse.bias is None else bias + synapse.bias
        if self.coding.upkeep:
            bias = bias + self.coding.upkeep * self.threshold
        return LayerCall(
            tuple(projections),
            bias,
            threshold=self.threshold,
            coding=self.coding,
            fixed=self.fixed,
            learns=self.mode != "spiking",
        )

    def neuron_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the spiking neurons, without shortcuts: folded and, if limited, as the
        hardware holds them (Fig. 3).
        """
        weight, bias = self.synapse.weight, self.synapse.bias
        if bias is None:
            bias = weight.new_zeros(len(weight))
        if self.norm is not None:
            variance, mean = self._batch_moments or moments(self.norm)
            weight, bias = folded_weights(weight, bias, self.norm, mean, variance)
        weight = weight + self.connectivity.unit_kernel(weight) if self.residual else weight
        if self.limiter is None or self.mode == "spiking":
            return weight, bias
        return self.limiter(weight, bias)

    def fold(self) -> None:
        """Fold the norm (running statistics, with its eps) and the residual path into the synapse.

        In inference the layer computes the same as before, up to rounding.
        """
        with torch.no_grad():
            self.synapse = fold(self.synapse, self.norm)
            if self.residual:
                weight = self.synapse.weight
                weight += self.connectivity.unit_kernel(weight)
        self.norm, self.residual = None, False
        self._fold_side_biases()

    def discretize(self, threshold: float, coding: Coding, gradient: Gradient = "relu") -> None:
        """Analog -> discrete: round from now on, with the gradient `relu` or `clipped`.

        Raises:
            ValueError: the layer is converted already, or the threshold is not a positive number.
        """
        self._set_neurons(threshold, coding, gradient)
        self.mode = "discrete"

    def convert(
        self,
        threshold: float,
        coding: Coding,
        gradient: Gradient = "relu",
        *,
        limits: HardwareLimits | None = None,
        keep_norm: bool = False,
    ) -> None:
        """Analog or discrete -> tandem: fold, then put spiking neurons beside the analog twin.

        Args:
            threshold: of the neurons, in activation units.
            coding: N_s, encoding, initial potential.
            gradient: how errors pass the tandem layer.
            limits: hardware limits on the neurons' weights.
            keep_norm: let the norm learn on, and fold it when the layer is frozen.

        Raises:
            ValueError: the layer is converted already, the threshold is not a positive number, or
                the gradient `surrogate` is combined with deferred neurons, or `limits` with
                `keep_norm`.
            SpikeSepError: the fan-in is too small.
        """
        if gradient == "surrogate" and coding.deferred:
            raise ValueError("learning through time needs neurons that fire in time: not deferred")
        if limits and keep_norm:
            raise ValueError("limits hold of folded weights: keep_norm cannot be had with them")
        self._set_neurons(threshold, coding, gradient)
        if self.norm is None or not keep_norm:
            self.fold()
        if limits:
            self.impose(limits)
        self.mode = "tandem"
        self.train(self.training)

    def freeze(self) -> None:
        """Tandem -> spiking: fix the weights.

        Raises:
            ValueError: the layer is not tandem.
        """
        if self.mode != "tandem":
            raise ValueError(f"only a tandem layer can be frozen; this one is {self.mode}")
        if self.norm is not None or self.residual:
            self.fold()
        if self.limiter is not None:
            self.limiter.apply_to(self.synapse)
        self.requires_grad_(False)
        self.mode = "spiking"
        self.train(False)

    def thaw(self) -> None:
        """Spiking -> discrete: learn on with the present threshold; pruned synapses stay pruned.

        Raises:
            ValueError: the layer is not spiking, or its weights have few bits.
        """
        has_few_bits = self.limiter is not None and self.limiter.limits.weight_bits
        if self.mode != "spiking" or has_few_bits:
            bits = ", with weights of few bits" if has_few_bits else ""
            raise ValueError(
                "only a spiking layer with float weights can learn on; "
                f"this one is {self.mode}{bits}"
            )
        self.mode, self.fixed = "discrete", None
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> "SpikingLayer":
        """As in torch, but dropout stays off once the layer spikes; a norm that is left learns."""
        super().train(mode and self.mode in ("analog", "discrete"))
        if self.norm is not None:
            self.norm.train(mode)
        return self

    def extra_repr(self) -> str:
        """Mode, threshold and paths, beside the submodules that torch lists."""
        parts: list[str] = [self.mode]
        if self.mode != "analog":
            parts.append(f"threshold={float(self.threshold):.4g}")
        parts += [name for name in ("identity", "residual") if getattr(self, name)]
        return ", ".join(parts)

    def _rectified(self, potential: Tensor, values: tuple[Tensor, ...]) -> Tensor:
        potential = potential if self.norm is None else self.norm(potential)
        potential = potential + self.connectivity.own(values[0]) if self.residual else potential
        activation = torch.relu(sum(self.side_currents(values), start=potential))
        return activation if self.ceiling is None else activation.clamp(max=self.ceiling)

    def _potential(self, value: Tensor) -> Tensor:
        """Potential of the analog twin, without pruned synapses."""
        weight = self.synapse.weight
        weight = weight if self.limiter is None else self.limiter.pruned(weight)
        return self.connectivity.transmit(value, weight, self.synapse.bias)

    def _bounded(self, twin: Tensor) -> Tensor:
        if self.gradient == "relu":
            return twin
        return twin.clamp(max=self.threshold * self.coding.n_steps)

    def _tandem(self, signals: tuple[Signal, ...]) -> Signal:
        """Spikes forward, the gradient of choice backward (section 4.1).

        A norm that is not folded yet uses the batch's moments of the free aggregate potential
        (eq. 9), in the twin and in the neurons.
        """
        values = _values(signals)
        potential = self._potential(values[0])
        if self.norm is not None and self.norm.training:
            dims = [d for d in range(potential.ndim) if d != 1]
            self._batch_moments = torch.var_mean(potential, dims, correction=0)
        if self.gradient == "surrogate":
            out = self._fire_graded(signals)
        else:
            with torch.no_grad():
                out = self.fire(*signals)
        self._batch_moments = None
        twin = self._rectified(potential, values)  # updates the running moments, too
        if self.gradient == "surrogate":
            return out
        return out.with_value(straight_through(out.value, self._bounded(twin)))

    def _fire_graded(self, signals: tuple[Signal, ...]) -> GradedSignal:
        call, threshold = self.call(), float(self.threshold)
        current, coding = call.current(signals), call.coding
        initial = coding.initial_potential * threshold
        spikes = graded_spikes(current, threshold, initial, reset=coding.reset, beta=coding.beta)
        return GradedSignal(threshold * spikes)

    def _set_neurons(self, threshold: float, coding: Coding, gradient: Gradient) -> None:
        if self.mode in ("tandem", "spiking"):
            raise ValueError(f"the layer is {self.mode} already")
        if not 0 < threshold < float("inf"):
            raise ValueError(
                f"a threshold must be positive and finite, not {threshold}: is the layer silent?"
            )
        self._coding = coding
        self.gradient = gradient
        self.threshold.fill_(threshold)


def _values(signals: tuple[Signal, ...]) -> tuple[Tensor, ...]:
    return tuple(signal.value for signal in signals)
