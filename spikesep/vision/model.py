"""An image network around its `SpikingNetwork`: a classifier that reads logits, or an autoencoder behind a sigmoid."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikesep.checks import brief
from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.sequential import from_sequential
from spikesep.spiking.network import Observer
from spikesep.training.records.model_folder import load_model, save_model
from spikesep.vision.architectures import build, input_shape

KIND = "spikesep-image-network"
TASKS = ("classification", "reconstruction")


class ImageNetwork(nn.Module):
    """A stack of layers on images.

    Args:
        architecture: a name or a text in the notation of `architectures`.
        task: `classification` or `reconstruction`.

    Raises:
        SpikeSepError: there is no such architecture or task.
    """

    def __init__(self, architecture: str, task: str):
        super().__init__()
        if task not in TASKS:
            raise SpikeSepError(f"--experiment.task {brief(task)}: must be {' or '.join(TASKS)}")
        self.architecture = architecture
        self.task = task
        self.network = from_sequential(build(architecture))
        self.input_shape = input_shape(architecture)

    def forward(self, images: Tensor, observe: Observer | None = None) -> Tensor:
        """Logits [B, classes], or the images again [B, C, H, W], of images [B, C, H, W]."""
        features, shape = self.encode(images)
        return self.decode(self.network(features, observe), shape)

    def encode(self, images: Tensor) -> tuple[Tensor, torch.Size]:
        """The stack's input; and the images' shape."""
        return images.reshape(len(images), *self.input_shape), images.shape

    def decode(self, potential: Tensor, shape: torch.Size) -> Tensor:
        """Predictions from the readout's potential; a reconstruction is its sigmoid (section 6.3.1.2)."""
        return potential if self.task == "classification" else torch.sigmoid(potential).view(shape)

    def front(self) -> list[nn.Module]:
        """Nothing is computed before the stack."""
        return []


def save_image_network(
    model: ImageNetwork, folder: str | Path, report: list[dict[str, Any]] | None = None
) -> None:
    """Write the model and, if given, the report of its conversion."""
    save_model(
        model, folder, KIND, {"architecture": model.architecture, "task": model.task}, report
    )


def load_image_network(folder: str | Path) -> ImageNetwork:
    """Read what `save_image_network` wrote, in inference mode.

    Raises:
        SpikeSepError: the folder is missing, or not a whole image network.
    """
    return load_model(folder, KIND, lambda settings: ImageNetwork(**settings))
