"""Check that layers compute what they were made of, by running both on the same input."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spikesep.spiking.from_torch.input_shape import input_shape
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork
from spikesep.spiking.signal import Signal
from spikesep.spiking.wiring.wires import INPUT

TOLERANCE = 1e-2
"""Largest difference relative to the largest output: far above rounding, far below a different
computation.
"""


def require_same(
    original: nn.Module, network: SpikingNetwork, example: Tensor | None = None
) -> None:
    """Check that two networks compute the same in inference.

    Args:
        original: the user's network.
        network: the spiking network made of it, still analog.
        example: an input, [batch, ...]; None makes one up that fits the layers.

    Raises:
        NotConvertibleError: they differ, cannot be run, or no fitting input is found.
    """
    weight = network.parts[0].synapse.weight
    if weight.is_meta:  # there are no numbers to compare
        return
    if example is None:
        if not network.is_stack:
            raise NotConvertibleError(
                "no input shape can be derived for a network with branches; give an example: "
                "from_module(network, example)"
            )
        noise = torch.Generator().manual_seed(0)
        example = torch.randn(1, *input_shape(network.parts), generator=noise)
    example = example.detach().to(weight)
    with inference(original, network), torch.autocast(example.device.type, enabled=False):
        try:
            expected = original(example.clone())
        except (RuntimeError, ValueError, TypeError) as error:
            raise misfit(example, error) from error
        found = network(example)
    if not _same(found, expected):
        raise NotConvertibleError(
            "the network computes something else than what tracing shows; write all that it does "
            "as modules and functions on tensors in its forward()"
        )


def require_foldable(network: SpikingNetwork, x: Tensor) -> None:
    """Check on real data that norms and residual paths can be folded into the weights.

    Args:
        network: still analog.
        x: its analog input, [batch, ...].

    Raises:
        NotConvertibleError: a folded layer computes something else; the message names it.
    """
    with inference(network):
        signals = {INPUT: Signal(x)}
        for index, (name, layer) in enumerate(network.layers.items()):
            if layer.mode == "analog" and (layer.norm is not None or layer.residual):
                values = [signal.value for signal in network.arriving(signals, index)]
                folded = copy.deepcopy(layer)
                folded.fold()
                if not _same(folded.activation(*values), layer.activation(*values)):
                    raise NotConvertibleError(
                        f"layer {name}: {type(layer.norm or layer.synapse).__name__} cannot be "
                        f"folded into {type(layer.synapse).__name__} for inputs of "
                        f"{list(values[0].shape)}: norms must be over its output channels"
                    )
            signals = network.propagate(signals, index, index + 1)


@contextmanager
def inference(*networks: nn.Module) -> Iterator[None]:
    """Put networks in inference mode without gradients, and restore their modes afterwards."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        with torch.no_grad():
            for module, _ in modes:
                module.training = False
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _same(found: Tensor, expected: Tensor) -> bool:
    if not isinstance(expected, Tensor) or found.shape != expected.shape:
        return False
    largest = float(expected.nan_to_num().abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0, atol=TOLERANCE * largest, equal_nan=True)


def misfit(example: Tensor, error: Exception) -> NotConvertibleError:
    """The error about an input that a network cannot be run on."""
    shape = list(example.shape)
    return NotConvertibleError(
        f"the network cannot be run on an input of {shape}: {first_line(error)}"
    )


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
