"""Simulation of a converted network step by step, in the same way for every peer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.converters.tasks import BATCH


@dataclass
class Outcome:
    """What a converted network did on the test set, one entry per number of steps.

    Attributes:
        outputs: output in the units of the analog network, [n_test, ...].
        spikes: spikes per example.
        seconds: seconds for all examples.
    """

    outputs: list[Tensor] = field(default_factory=list)
    spikes: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Stepper:
    """A converted network that runs one step per call, on a constant input.

    Attributes:
        model: returns the output of a step.
        neurons: its spiking modules; they return a positive number where a neuron fires.
        reset: brings neurons to their state before the first step; called with the input.
        n_spikes: number of spikes in an output of a neuron.
    """

    model: nn.Module
    neurons: list[nn.Module]
    reset: Callable[[Tensor], object]
    n_spikes: Callable[[Tensor], Tensor] = torch.count_nonzero


class SpikeCounter:
    """Forward hook that counts spikes, and the time this takes."""

    def __init__(self, n_spikes: Callable[[Tensor], Tensor]):
        self.n_spikes = n_spikes
        self.total = self.seconds = 0.0

    def __call__(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        begun = time.perf_counter()
        self.total += float(self.n_spikes(output))
        self.seconds += time.perf_counter() - begun


@torch.inference_mode()
def simulate(stepper: Stepper, features: Tensor, steps: Sequence[int]) -> Outcome:
    """Run a network for the largest number of steps, and read it at each.

    The readout is the mean output over the steps so far, since thresholds do not depend on their
    number. The network runs once before it is timed, as ours does.

    Args:
        stepper: the network.
        features: constant input, [n_test, ...].
        steps: numbers of steps, ascending.
    """
    first = features[:BATCH]
    stepper.reset(first)
    stepper.model(first)  # warms up
    counter = SpikeCounter(stepper.n_spikes)
    hooks = [neuron.register_forward_hook(counter) for neuron in stepper.neurons]
    totals = {n: (0.0, 0.0) for n in steps}
    read: dict[int, list[Tensor]] = {n: [] for n in steps}
    for x in features.split(BATCH):
        stepper.reset(x)
        counter.total = counter.seconds = 0.0
        begun, total = time.perf_counter(), torch.zeros(())
        for t in range(1, steps[-1] + 1):
            total = total + stepper.model(x)
            if t in read:
                read[t].append(total / t)
                seconds = time.perf_counter() - begun - counter.seconds
                totals[t] = totals[t][0] + counter.total, totals[t][1] + seconds
    for hook in hooks:
        hook.remove()
    return Outcome(
        [torch.cat(read[n]) for n in steps],
        [totals[n][0] / len(features) for n in steps],
        [totals[n][1] for n in steps],
    )
