"""The shipped separators, changed without training: fewer steps, other thresholds, fewer synapses.

Deferred neurons round: a count is the charge over the threshold, rounded to nearest and clipped to
the window. 255 steps are therefore activations of 8 bits, and one graded event per active neuron
does the work of an ANN in int8 that skips zeros.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikesep.separation.inference.in_memory import load_model
from spikesep.separation.model.separator import Separator
from spikesep.spiking import Coding, SpikingNetwork, calibrate, set_time_steps, to_fixed_point
from spikesep.spiking.conversion.fixed_point import check_fixed_point

EIGHT_BITS = 255
"""Steps, and so levels above zero, of activations of 8 bits."""
Inputs = Callable[[], Sequence[Tensor]]
"""Returns inputs of the mask network for calibration, [1, N, K] each."""


@dataclass(frozen=True)
class Variant:
    """A separator made of a shipped one.

    Attributes:
        family: name of the curve that it is a point of.
        label: name among its family.
        make: returns the separator; receives the inputs for calibration.
    """

    family: str
    label: str
    make: Callable[[Inputs], Separator]


def variants() -> dict[str, Variant]:
    """Return all variants by key."""
    found = {"ann": Variant("ANN", "float32", lambda _: load_model("free-2mix", "ann").separator)}
    found["snn"] = Variant("SNN, steps", "22 steps, as shipped", lambda _: windowed(22, 22))
    for n in (11, 6, 16, 8, 4, 127, 32, 3):
        found[f"steps-{n}"] = Variant("SNN, steps", f"{n} steps", lambda _, n=n: windowed(n, n))
    for n, window in ((11, 6), (11, 22), (22, 11)):
        found[f"thresholds-{n}-window-{window}"] = Variant(
            "SNN, thresholds scaled",
            f"thresholds x {22 / n:.3g}, {window} steps",
            lambda _, n=n, window=window: windowed(n, window),
        )
    for percent in (90, 80, 95):
        found[f"connections-{percent}"] = Variant(
            "SNN, fewer connections",
            f"{percent} % of its connections",
            lambda _, percent=percent: pruned(percent / 100),
        )
    for percent in (90, 80):
        found[f"connections-{percent}-steps-11"] = Variant(
            "SNN, fewer connections",
            f"{percent} % of its connections, 11 steps",
            lambda _, percent=percent: pruned(percent / 100, 11),
        )
    found["ann-8bit"] = Variant("ANN in int8", "8 bits", lambda x: calibrated(EIGHT_BITS, x))
    for n in (22, 8):
        found[f"calibrated-{n}"] = Variant(
            "ANN calibrated, not trained", f"{n} steps", lambda x, n=n: calibrated(n, x)
        )
    return found


def windowed(n_steps: int, window: int) -> Separator:
    """Return the shipped SNN with the thresholds of `n_steps` steps and a window of its own.

    With a shorter window counts are clipped earlier, with a longer one later.
    """
    separator = load_model("free-2mix", "snn").separator
    set_time_steps(separator.network, n_steps)
    set_window(separator.network, window)
    return separator


def set_window(network: SpikingNetwork, window: int) -> None:
    """Set the steps of a deferred network in fixed point, in place, and keep its thresholds.

    What enters in each step, the biases and the input's current, changes so that as much enters in
    a window as before.
    """
    for index, layer in enumerate(network.layers.values()):
        ratio, fixed = window / layer.coding.n_steps, layer.fixed
        assert fixed is not None
        layer.coding = replace(layer.coding, n_steps=window)
        if index == 0:  # a constant current: the threshold moves instead of the current
            for numbers in (fixed.threshold, fixed.initial):
                numbers.copy_((numbers.double() * ratio).round())
        else:
            fixed.bias.copy_((fixed.bias.double() / ratio).round())
    check_fixed_point(network)


def calibrated(n_steps: int, inputs: Inputs) -> Separator:
    """Return the shipped ANN as deferred neurons with weights of 8 bits, without any training."""
    separator = load_model("free-2mix", "ann").separator
    batches = inputs()
    calibrate(separator.network, batches, Coding(n_steps, deferred=True))
    to_fixed_point(separator.network, batches)
    return separator


def pruned(share: float, n_steps: int = 22) -> Separator:
    """Return the shipped SNN with a share of the connections it has, the largest of each neuron."""
    separator = load_model("free-2mix", "snn").separator
    set_time_steps(separator.network, n_steps)
    with torch.no_grad():
        for part in separator.network.parts:
            weight, kept = part.synapse.weight, part.kept
            assert kept is not None
            size = weight.abs().flatten(1)
            counts = [math.ceil(share * int(n)) for n in kept.flatten(1).sum(1)]
            rank = size.argsort(1, descending=True).argsort(1)
            fewer = (rank < torch.tensor(counts)[:, None]).view_as(weight) & kept
            kept.copy_(fewer)
            weight.mul_(fewer)
            fixed = getattr(part, "fixed", None)
            if fixed is not None:
                fixed.weight.mul_(fewer)
    return separator
