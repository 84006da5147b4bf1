"""Calibration: what the network does on some of the training examples."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from spikesep.spiking.conversion.spike_budget import Example
from spikesep.spiking.from_torch.equivalence import require_foldable
from spikesep.spiking.signal import require_finite
from spikesep.training.conversion.examples import Batches
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.conversion.prefix_cache import PrefixCache
from spikesep.training.timing.progress import Progress


class Calibration:
    """Passes over the calibration examples, in inference mode.

    Args:
        model: the model that is being converted.
        batches: its examples.
        prefix: signals behind the frozen layers.
        n_examples: number of training examples to use.
        progress: display of the passes.
    """

    def __init__(
        self,
        model: ConvertibleModel,
        batches: Batches,
        prefix: PrefixCache,
        n_examples: int,
        progress: Progress,
    ):
        self.model = model
        self.batches = batches
        self.prefix = prefix
        self.n_examples = n_examples
        self.progress = progress

    def check_network(self) -> None:
        """Check that the network can be converted.

        Raises:
            SpikeSepError: it cannot, or its weights or input are not finite.
        """
        network = self.model.network
        for name, weight in network.named_parameters():
            require_finite(weight, f"the network's {name}")
        for features, _ in itertools.islice(self.examples("checking the network"), 1):
            require_foldable(network, features)

    def examples(self, purpose: str) -> Iterator[Example]:
        """Yield the network's input for each batch, and the function from readout to predictions.

        Args:
            purpose: title of the progress display.
        """
        self.model.eval()
        self.progress.begin(purpose, unit="batches")
        for indices in self._indices():
            self.progress.advance()
            features, context = self._encoded(indices)
            yield features, lambda potential, context=context: self.model.decode(potential, context)

    @torch.no_grad()
    def activations(self, index: int) -> Iterator[Tensor]:
        """Yield the analog activations of layer `index` for each batch."""
        self.model.eval()
        layer, indices_of_batches = self.model.network[index], self._indices()
        self.progress.begin(
            f"calibrating layer {self.model.network.names[index]}",
            len(indices_of_batches),
            "batches",
        )
        for indices in indices_of_batches:
            self.progress.advance()
            features, _ = self._encoded(indices)
            signals = self.prefix.signals("train", indices, features, index)
            arriving = self.model.network.arriving(signals, index)
            yield layer.activation(*(signal.value for signal in arriving))

    def _indices(self) -> list[list[int]]:
        return self.batches.in_order("train", self.n_examples)

    @torch.no_grad()
    def _encoded(self, indices: list[int]) -> tuple[Tensor, Any]:
        """Return the network's input, which must be finite, and the context of `decode`."""
        x, _ = self.batches.fetch("train", indices)
        features, context = self.model.encode(x)
        require_finite(
            features, f"the network's input, in training examples {indices[0]} to {indices[-1]},"
        )
        return features, context
