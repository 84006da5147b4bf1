"""Where spikes are spent: the thresholds of single channels, and what a connection must be worth to be kept.

A ReLU passes scales on: a channel whose weights are divided by a number, and which is multiplied by it where it goes,
gives what it gave, as in Nagel et al., "Data-free quantization through weight equalization and bias correction", arXiv
1906.04721. Its neurons then round, beside a threshold that the layer has in common, as if theirs were the number times
as high: fewer spikes, larger errors. How much either matters is measured, and the numbers are those at which a spike
more would tell as much anywhere (Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE
Trans. ASSP 36, 1988).
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.cost import SynopsEstimate, of_channels, reached
from spikesep.spiking.layer import Readout, SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Signal

PER_OCTAVE = 5
"""Steps from a multiple to twice that."""
MULTIPLES = tuple(2.0 ** (k / PER_OCTAVE) for k in range(-2 * PER_OCTAVE, 2 * PER_OCTAVE + 1))
"""Of a layer's threshold, those that its channels can have."""

TOLERANCE = 0.01
"""Of the budget, by which what is spent may miss it."""
CORRECTIONS = 4
"""Most times that the aim is set anew, so that what is spent comes near to the budget."""

Example = tuple[Tensor, Callable[[Tensor], Tensor]]
"""The network's analog input, [batch, ...], and what makes predictions of its readout."""


@dataclass(frozen=True)
class Worth:
    """What the connections into a layer or a readout are worth, and cost.

    Attributes:
        sensitivity: of the predictions to each output's mean squared error in potential, [C_out].
        spikes: of each input channel, a MAC of the network, [C_in]; zeros where the input is analog.
        price: by how much predictions must gain from a spike a MAC.
    """

    sensitivity: Tensor
    spikes: Tensor
    price: float


def allot(
    network: SpikingNetwork, examples: Iterable[Example], budget: float, seed: int = 0
) -> list[Worth]:
    """Scale the channels of a network that rounds, in place, so that within a budget its predictions change least.

    The squared change of a prediction is taken relative to what rounding changes in it now, and to first order: errors
    of single neurons are independent, and reach it by the gradient (of random sums of predictions).

    Args:
        network: its layers discrete, or tandem behind an analog input; norms folded.
        examples: batches that stand for all.
        budget: synaptic operations a MAC, as `SynopsEstimate` counts them.
        seed: of the random sums.

    Returns:
        For each layer and the readout, what its connections are worth from now on.

    Raises:
        ValueError: a layer is neither.
        SpikeSepError: a layer hands on its input beside its spikes, or the budget is out of reach.
    """
    for name, layer in network.layers.items():
        if layer.mode not in ("discrete", "tandem") or layer.norm is not None or layer.residual:
            raise ValueError(f"layer {name}: must round and learn, with all folded")
        if layer.identity:
            raise SpikeSepError(
                f"layer {name}: shares its channels with the layer before; convert.budget.synops needs a network without "
                "identity paths, or with folded ones"
            )
    examples = list(examples)
    trials, of_readout = _try(network, examples, seed)
    aim, best, tried = budget, None, copy.deepcopy(network)
    for _ in range(CORRECTIONS):
        tried.load_state_dict(network.state_dict())
        worth = _scaled(tried, trials, of_readout, aim)
        spent = _spent(tried, examples)
        missed = (
            spent > budget * (1 + TOLERANCE),
            abs(spent - budget),
        )  # too much is worse than too little
        if best is None or missed < best[0]:
            best = missed, worth, copy.deepcopy(tried.state_dict())
        if missed[1] < TOLERANCE * budget:
            break
        aim *= budget / spent
    _, worth, scaled = best
    network.load_state_dict(scaled)
    return worth


def _scaled(
    network: SpikingNetwork, trials: "list[_Trial]", of_readout: Tensor, budget: float
) -> list[Worth]:
    price, chosen = _within(budget, trials)
    worth, spikes = [], torch.zeros(_n_channels(network[0].synapse), dtype=torch.float64)
    for index, (trial, choice) in enumerate(zip(trials, chosen, strict=True)):
        multiple = torch.tensor(MULTIPLES, dtype=torch.float64)[choice]
        worth.append(Worth(trial.sensitivity * multiple.square(), spikes, price))
        spikes = _picked(trial.spikes, choice)
        _scale(network.parts[index].synapse, network.parts[index + 1].synapse, multiple)
    return [*worth, Worth(of_readout, spikes, price)]


def _spent(network: SpikingNetwork, examples: list[Example]) -> float:
    """Synaptic operations a MAC. What rounds coarser drives the layers behind it otherwise than when all was tried."""
    synops, macs = 0.0, 0.0
    for features, _ in examples:
        estimate = SynopsEstimate()
        with torch.no_grad():
            network(features, estimate)
        synops, macs = synops + float(estimate.synops), macs + float(estimate.macs)
    return synops / macs


def match(network: SpikingNetwork, model: SpikingNetwork) -> None:
    """Scale the channels of a network, in place, as those of another are, where one learned on from the other and each
    was allotted its spikes.

    The numbers are such as `allot` gives, the nearest to what the norms of the weights say: learning has moved those by
    less than a step from one number to the next.

    Args:
        network: its norms folded, or none.
        model: likewise; it stays as it is.
    """
    if any(layer.identity for layer in network.layers.values()):
        return  # is never allotted
    for part, next_part, wanted in zip(network.parts, network.parts[1:], model.parts, strict=False):
        ours, theirs = (
            module.synapse.weight.detach().double().flatten(1).norm(dim=1)
            for module in (part, wanted)
        )
        steps = (
            (PER_OCTAVE * (ours / theirs).log2()).round().nan_to_num(0.0, 0.0, 0.0)
        )  # of a neuron without weights
        _scale(part.synapse, next_part.synapse, 2.0 ** (steps / PER_OCTAVE))


@dataclass(frozen=True)
class _Trial:
    """What a layer's channels do at each of MULTIPLES, [n_multiples, C].

    Attributes:
        error: of the predictions, squared, by rounding.
        spikes: a MAC of the network.
        synops: they cause, a MAC of the network.
        sensitivity: see `Worth`, [C].
    """

    error: Tensor
    spikes: Tensor
    synops: Tensor
    sensitivity: Tensor


class _Watch(SynopsEstimate):
    """Keeps what each layer gives, and would give if it did not round."""

    def __init__(self):
        super().__init__()
        self.outputs: list[tuple[nn.Module, Tensor, Tensor]] = []

    def __call__(self, name: str, module: nn.Module, signal: Signal, out: Signal) -> None:
        super().__call__(name, module, signal, out)
        exact = out.value if isinstance(module, Readout) else module.activation(signal.value)
        self.outputs.append((module, out.value, exact.detach()))


def _try(
    network: SpikingNetwork, examples: list[Example], seed: int
) -> tuple[list[_Trial], Tensor]:
    """Of each layer; and the readout's sensitivity."""
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
    for index, layer in enumerate(network.layers.values()):
        error, spikes, sensitivity = sums[3 * index : 3 * index + 3]
        synops = spikes * reached(parts[index + 1], len(layer.synapse.weight)).double().cpu()
        trials.append(_Trial(error, spikes / macs, synops / macs, sensitivity))
    return trials, sums[-1]


def _of_module(
    module: SpikingLayer | Readout, value: Tensor, exact: Tensor, power: Tensor
) -> list[Tensor]:
    """Error, spikes and sensitivity, of a readout the sensitivity alone; `power` is the squared gradient of the
    predictions with respect to the value."""
    are_last = isinstance(module.synapse, nn.Linear)
    if isinstance(module, Readout):
        return [of_channels(power, are_last).double().cpu()]
    coding, errors, spikes = module.coding, [], []
    for multiple in MULTIPLES:
        threshold = module.threshold * multiple
        count = (exact / threshold + coding.initial_potential).floor_().clamp_(0, coding.n_steps)
        spikes.append(of_channels(count, are_last))
        errors.append(
            of_channels(count.mul_(threshold).sub_(exact).square_().mul_(power), are_last)
        )
    sensitivity = of_channels(power * (value > 0), are_last)
    return [
        torch.stack(errors).double().cpu(),
        torch.stack(spikes).double().cpu(),
        sensitivity.double().cpu(),
    ]


def _within(budget: float, trials: list[_Trial]) -> tuple[float, list[Tensor]]:
    """The lowest price at which all channels, each at its best, keep to the budget; what they choose."""
    low, high = -100.0, 100.0  # log2
    for _ in range(100):
        middle = (low + high) / 2
        price, chosen, synops = _at(2.0**middle, trials)
        low, high = (low, middle) if synops <= budget else (middle, high)
    price, chosen, synops = _at(2.0**high, trials)
    if synops > budget:
        raise SpikeSepError(
            f"--convert.budget.synops: {synops:.3g} is about the least that there is; give more"
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


def _n_channels(synapse: nn.Module) -> int:
    return synapse.in_features if isinstance(synapse, nn.Linear) else synapse.in_channels


def _scale(synapse: nn.Module, next_synapse: nn.Module, multiple: Tensor) -> None:
    """Divide what each channel is by its multiple, and multiply it where it goes."""
    with torch.no_grad():
        multiple = multiple.to(synapse.weight)
        synapse.weight /= multiple.view(-1, *[1] * (synapse.weight.ndim - 1))
        synapse.bias /= multiple
        weight = next_synapse.weight
        if isinstance(
            next_synapse, nn.Linear
        ):  # behind flattened maps, each of a channel's places has its weights
            weight.view(len(weight), len(multiple), -1).mul_(multiple[:, None])
        else:
            grouped = weight.view(next_synapse.groups, -1, weight.shape[1], weight[0, 0].numel())
            grouped.mul_(multiple.view(next_synapse.groups, 1, -1, 1))
