"""Allocation of spikes to channels under a budget of synaptic operations.

A ReLU passes scales on: dividing a channel's weights by a number and multiplying by it where the
channel goes changes nothing (Nagel et al., "Data-free quantization through weight equalization and
bias correction", arXiv 1906.04721). The channel's neurons then round as if their threshold were
higher by that number, beside a threshold common to the layer: fewer spikes, larger errors. Both
effects are measured, and multiples are chosen so that one more spike would help equally in every
channel (Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE
Trans. ASSP 36, 1988).
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.spiking.cost import SynopsEstimate
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork, require_stack
from spikesep.spiking.signal import Signal
from spikesep.spiking.synaptic import Synaptic

PER_OCTAVE = 5
"""Multiples per factor of two."""
MULTIPLES = tuple(2.0 ** (k / PER_OCTAVE) for k in range(-2 * PER_OCTAVE, 2 * PER_OCTAVE + 1))
"""Factors on a layer's threshold that its channels can choose from."""

TOLERANCE = 0.01
"""Relative deviation from the budget that is accepted."""
CORRECTIONS = 4
"""Largest number of corrections of the target, so that spending approaches the budget."""

Example = tuple[Tensor, Callable[[Tensor], Tensor]]
"""Analog input of the network, [batch, ...], and the function from readout to predictions."""


@dataclass(frozen=True)
class ConnectionValue:
    """Value of the connections into a layer or the readout, and their cost.

    Attributes:
        sensitivity: change of the predictions per mean squared error in potential, [C_out].
        spikes: spikes of each input channel per MAC of the network, [C_in]; zeros for an analog
            input.
        price: gain in predictions that a spike per MAC must bring.
    """

    sensitivity: Tensor
    spikes: Tensor
    price: float


def allocate(
    network: SpikingNetwork, examples: Iterable[Example], budget: float, seed: int = 0
) -> list[ConnectionValue]:
    """Scale the channels of a network that rounds, in place, to a budget of synaptic operations.

    Predictions change least: their squared change, relative to what rounding changes now, is
    estimated to first order. Errors of single neurons are taken as independent and weighted with
    the gradient of random sums of predictions.

    Args:
        network: layers discrete, or tandem behind an analog input; norms folded.
        examples: representative batches.
        budget: synaptic operations per MAC, as `SynopsEstimate` counts them.
        seed: of the random sums.

    Returns:
        The value of the connections into each layer and the readout afterwards.

    Raises:
        ValueError: a layer is neither discrete nor tandem.
        SpikeSepError: a layer has an identity path, or the budget is out of reach.
    """
    require_stack(network, "convert.budget.synops")
    for name, layer in network.layers.items():
        if layer.mode not in ("discrete", "tandem") or layer.norm is not None or layer.residual:
            raise ValueError(f"layer {name}: must round and learn, with norms folded")
        if layer.identity:
            raise SpikeSepError(
                f"layer {name}: shares its channels with the layer before; convert.budget.synops "
                "needs a network without identity paths, or with folded ones"
            )
    examples = list(examples)
    trials, of_readout = _try(network, examples, seed)
    aim, best, tried = budget, None, copy.deepcopy(network)
    for _ in range(CORRECTIONS):
        tried.load_state_dict(network.state_dict())
        values = _scaled(tried, trials, of_readout, aim)
        spent = _spent(tried, examples)
        missed = (spent > budget * (1 + TOLERANCE), abs(spent - budget))  # too much is worse
        if best is None or missed < best[0]:
            best = missed, values, copy.deepcopy(tried.state_dict())
        if missed[1] < TOLERANCE * budget:
            break
        aim *= budget / spent
    assert best is not None
    _, values, scaled = best
    network.load_state_dict(scaled)
    return values


def _scaled(
    network: SpikingNetwork, trials: "list[_Trial]", of_readout: Tensor, budget: float
) -> list[ConnectionValue]:
    price, chosen = _within(budget, trials)
    values = []
    spikes = torch.zeros(network[0].connectivity.in_channels, dtype=torch.float64)
    pairs = zip(network.parts, network.parts[1:], strict=False)
    for (part, following), trial, choice in zip(pairs, trials, chosen, strict=True):
        multiple = torch.tensor(MULTIPLES, dtype=torch.float64)[choice]
        values.append(ConnectionValue(trial.sensitivity * multiple.square(), spikes, price))
        spikes = _picked(trial.spikes, choice)
        scale_channels(part, following, multiple)
    return [*values, ConnectionValue(of_readout, spikes, price)]


def _spent(network: SpikingNetwork, examples: list[Example]) -> float:
    """Synaptic operations per MAC, as the rescaled network spends them."""
    synops, macs = 0.0, 0.0
    for features, _ in examples:
        estimate = SynopsEstimate()
        with torch.no_grad():
            network(features, estimate)
        synops, macs = synops + float(estimate.synops), macs + float(estimate.macs)
    return synops / macs


def match(network: SpikingNetwork, model: SpikingNetwork) -> None:
    """Scale the channels of a network, in place, like those of another it shares an ancestor with.

    Both learned on from one network, and each was allocated its spikes. Multiples are those that
    `allocate` gives, the nearest to the ratio of weight norms: learning has changed norms by less
    than one step.

    Args:
        network: norms folded, or none.
        model: likewise; unchanged.
    """
    if any(layer.identity for layer in network.layers.values()) or not network.is_stack:
        return  # never allocated
    for part, next_part, wanted in zip(network.parts, network.parts[1:], model.parts, strict=False):
        ours, theirs = (
            module.synapse.weight.detach().double().flatten(1).norm(dim=1)
            for module in (part, wanted)
        )
        steps = (
            (PER_OCTAVE * (ours / theirs).log2()).round().nan_to_num(0.0, 0.0, 0.0)
        )  # of a neuron without weights
        scale_channels(part, next_part, 2.0 ** (steps / PER_OCTAVE))


@dataclass(frozen=True)
class _Trial:
    """Effect of each of MULTIPLES on a layer's channels, [n_multiples, C].

    Attributes:
        error: squared error of the predictions caused by rounding.
        spikes: per MAC of the network.
        synops: synaptic operations that they cause, per MAC of the network.
        sensitivity: see `ConnectionValue`, [C].
    """

    error: Tensor
    spikes: Tensor
    synops: Tensor
    sensitivity: Tensor


class _Watch(SynopsEstimate):
    """Records the output of each layer, rounded and exact."""

    def __init__(self):
        super().__init__()
        self.outputs: list[tuple[Synaptic, Tensor, Tensor]] = []

    def __call__(
        self, name: str, module: Synaptic, signals: tuple[Signal, ...], out: Signal
    ) -> None:
        super().__call__(name, module, signals, out)
        fires = isinstance(module, SpikingLayer)
        exact = module.activation(signals[0].value) if fires else out.value
        self.outputs.append((module, out.value, exact.detach()))


def _try(
    network: SpikingNetwork, examples: list[Example], seed: int
) -> tuple[list[_Trial], Tensor]:
    """Trials of each layer, and the sensitivity of the readout."""
    meant = copy.deepcopy(network)
    for layer in meant.layers.values():
        layer.mode = "analog"
    generator, sums, macs = torch.Generator().manual_seed(seed), [], 0.0
    for features, decode in examples:
        watch = _Watch()
        with torch.enable_grad():
            prediction = decode(network(features.detach().requires_grad_(), watch))
        with torch.no_grad():
            error = (prediction - decode(meant(features))).norm(dim=-1, keepdim=True)
            signs = torch.randn(prediction.shape, generator=generator).to(error) / error.clamp(
                min=1e-12
            )
        gradients = torch.autograd.grad(prediction, [value for _, value, _ in watch.outputs], signs)
        found = [
            number
            for (module, value, exact), gradient in zip(watch.outputs, gradients, strict=True)
            for number in _of_module(module, value.detach(), exact, gradient.square())
        ]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        macs += float(watch.macs)
    trials, parts = [], network.parts
    for index in range(len(network)):
        error, spikes, sensitivity = sums[3 * index : 3 * index + 3]
        reached = parts[index + 1].connectivity.reached(len(error[0]), parts[index + 1].kept)
        synops = spikes * reached.double().cpu()
        trials.append(_Trial(error, spikes / macs, synops / macs, sensitivity))
    return trials, sums[-1]


def _of_module(module: Synaptic, value: Tensor, exact: Tensor, power: Tensor) -> list[Tensor]:
    """Error, spikes and sensitivity of a layer; of the readout, the sensitivity alone.

    `power` is the squared gradient of the predictions with respect to the value.
    """
    per_channel = module.connectivity.sum_outputs
    if not isinstance(module, SpikingLayer):
        return [per_channel(power).double().cpu()]
    coding, errors, spikes = module.coding, [], []
    for multiple in MULTIPLES:
        threshold = module.threshold * multiple
        count = coding.count(exact / threshold)
        spikes.append(per_channel(count))
        errors.append(per_channel(count.mul_(threshold).sub_(exact).square_().mul_(power)))
    sensitivity = per_channel(power * (value > 0))
    return [
        torch.stack(errors).double().cpu(),
        torch.stack(spikes).double().cpu(),
        sensitivity.double().cpu(),
    ]


def _within(budget: float, trials: list[_Trial]) -> tuple[float, list[Tensor]]:
    """The lowest price at which the best choices keep to the budget, and those choices."""
    low, high = -100.0, 100.0  # log2
    for _ in range(100):
        middle = (low + high) / 2
        *_, synops = _at(2.0**middle, trials)
        low, high = (low, middle) if synops <= budget else (middle, high)
    price, chosen, synops = _at(2.0**high, trials)
    if synops > budget:
        raise SpikeSepError(
            f"--convert.budget.synops: {synops:.3g} is about the least possible; give more"
        )
    return price, chosen


def _at(price: float, trials: list[_Trial]) -> tuple[float, list[Tensor], float]:
    chosen = [(trial.error + price * trial.synops).argmin(0) for trial in trials]
    synops = sum(
        float(_picked(trial.synops, choice).sum())
        for trial, choice in zip(trials, chosen, strict=True)
    )
    return price, chosen, synops


def _picked(values: Tensor, choice: Tensor) -> Tensor:
    return values.gather(0, choice[None])[0]


def scale_channels(part: Synaptic, following: Synaptic, multiple: Tensor) -> None:
    """Divide each channel by its multiple, [C_out], and multiply it by that where it goes."""
    with torch.no_grad():
        multiple = multiple.to(part.synapse.weight)
        weight, bias = part.synapse.weight, part.bias
        weight /= multiple.view(-1, *[1] * (weight.ndim - 1))
        bias /= multiple
        rows, connectivity = following.synapse.weight.flatten(1), following.connectivity
        factors = connectivity.spread(multiple, rows.shape[1])
        rows.view(connectivity.groups, -1, rows.shape[1]).mul_(factors[:, None])
