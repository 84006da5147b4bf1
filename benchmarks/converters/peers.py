"""SpikingJelly's `ann2snn` and sinabs' `from_model`, with several settings each.

Each function takes a task and returns the converted network as a `Stepper`.
"""

import contextlib
import copy
import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, fx, nn

from benchmarks.converters.simulation import Stepper
from benchmarks.converters.tasks import Task, outputs

Convert = Callable[[Task], Stepper]
SEVERAL = "several spikes a step"
"""Mark of the settings whose neurons send more than one bit per step."""


def ann2snn() -> dict[str, Convert]:
    """Return SpikingJelly's settings; raises ImportError if it is missing."""
    from spikingjelly.activation_based import ann2snn

    def rate(**settings) -> Convert:
        return partial(
            _ann2snn, lambda task: ann2snn.RateCodingRecipe(task.calibration(), **settings)
        )

    return {
        "max": rate(mode="Max"),
        "99.9%": rate(mode="99.9%"),
        "99%": rate(mode="99%"),
        "max / 2": rate(mode=0.5),
        "max / 4": rate(mode=0.25),
        "99.9% a channel, V[0] = θ/2": rate(mode="99.9%", channel_wise=True, half_threshold=True),
        "99% a channel, V[0] = θ/2": rate(mode="99%", channel_wise=True, half_threshold=True),
        "local threshold balancing": partial(
            _ann2snn, lambda task: ann2snn.LocalThresholdBalancingRecipe(task.calibration())
        ),
    }


def sinabs() -> dict[str, Convert]:
    """Return sinabs' settings; raises ImportError if it is missing."""
    from sinabs.activation import MultiSpike, SingleSpike

    single = partial(_sinabs, spike_fn=SingleSpike, min_v_mem=None)
    several = partial(_sinabs, spike_fn=MultiSpike)
    return {
        "threshold 1": partial(single, percentile=None),
        "99.9%": partial(single, percentile=99.9),
        "99.9%, V[0] = θ/2": partial(single, percentile=99.9, initial=0.5),
        "99%, V[0] = θ/2": partial(single, percentile=99.0, initial=0.5),
        f"99.9%, V[0] = θ/2, {SEVERAL}": partial(
            several, percentile=99.9, initial=0.5, min_v_mem=None
        ),
        f"default: threshold 1, {SEVERAL}": partial(several, percentile=None, min_v_mem=-1.0),
    }


def _ann2snn(recipe: Callable, task: Task) -> Stepper:
    from loguru import logger
    from spikingjelly.activation_based import ann2snn, functional, neuron

    logger.disable("spikingjelly")
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        model = ann2snn.Converter(recipe(task)).convert(copy.deepcopy(task.network)).eval()
    neurons = [m for m in model.modules() if isinstance(m, neuron.BaseNode)]
    return Stepper(model, neurons, lambda _: functional.reset_net(model))


def ann2snn_analog(task: Task) -> nn.Module:
    """Return the analog network that `ann2snn` makes spiking."""
    from spikingjelly.activation_based import ann2snn

    recipe = ann2snn.LocalThresholdBalancingRecipe(task.calibration())
    converter = ann2snn.Converter(recipe, device="cpu")
    traced = fx.symbolic_trace(recipe.before_trace(converter, copy.deepcopy(task.network)))
    return recipe.after_trace(converter, traced)


def sinabs_analog(task: Task) -> nn.Module:
    """Return the analog network that `from_model` makes spiking."""
    network = copy.deepcopy(task.network)
    normalize(network, torch.cat(task.calibration()), 99.9)
    return network


def _sinabs(
    task: Task,
    *,
    spike_fn: type,
    percentile: float | None,
    min_v_mem: float | None,
    initial: float = 0.0,
) -> Stepper:
    """Convert by `from_model`.

    Args:
        task: the network.
        spike_fn: one or several spikes a step.
        percentile: of the activations that become 1, the threshold; None to leave the weights.
        min_v_mem: lower bound of potentials; None for none.
        initial: V[0].
    """
    from sinabs.from_torch import from_model
    from sinabs.layers import StatefulLayer

    network = copy.deepcopy(task.network)
    if percentile is not None:
        normalize(network, torch.cat(task.calibration()), percentile)
    model = from_model(network, spike_fn=spike_fn, min_v_mem=min_v_mem, num_timesteps=1)
    neurons = [m for m in model.spiking_model.modules() if isinstance(m, StatefulLayer)]

    def reset(x: Tensor) -> None:
        model.spiking_model(x)  # gives states the shape of the batch
        for neuron in neurons:
            neuron.reset_states(randomize=True, value_ranges={"v_mem": (initial, initial)})

    return Stepper(model.spiking_model, neurons, reset, torch.sum)


def normalize(network: nn.Sequential, features: Tensor, percentile: float) -> None:
    """Rescale weights and biases so that a percentile of each ReLU's output becomes 1.

    The network computes the same as before (Rueckauer et al., "Conversion of continuous-valued deep
    networks to efficient event-driven networks for image classification", 2017).
    `sinabs.utils.normalize_weights` scales the bias of a layer without regard to the scale of its
    input, which changes what a network with biases computes.

    Args:
        network: Linear or Conv layers, ReLU, pooling and flattening; changed in place.
        features: input for calibration.
        percentile: in 0..100.
    """
    layer, x, before = network[0], features, 1.0
    for module in network:
        x = outputs(module, x)
        if isinstance(module, nn.ReLU):
            scale = float(np.percentile(x.numpy(), percentile))
            layer.weight *= before / scale
            layer.bias /= scale
            before = scale
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            layer = module
    layer.weight *= before
