"""Networks of the image tasks: classifiers, and autoencoders with a sigmoid output."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikesep.checks import brief
from spikesep.errors import SpikeSepError
from spikesep.spiking.from_torch.tracing import from_module
from spikesep.spiking.network import Observer
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.records.model_folder import load_model, save_model
from spikesep.vision.architectures import build, input_shape

KIND = "spikesep-image-network"
TASKS = ("classification", "reconstruction")


class ImageNetwork(ConvertibleModel):
    """An image classifier or autoencoder around a `SpikingNetwork`.

    Args:
        architecture: a name, or a description in the notation of `architectures`.
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
        self.network = from_module(build(architecture))
        self.input_shape = input_shape(architecture)

    def forward(self, images: Tensor, observe: Observer | None = None) -> Tensor:
        """Return logits [B, classes] or reconstructions [B, C, H, W] of images [B, C, H, W]."""
        features, shape = self.encode(images)
        return self.decode(self.network(features, observe), shape)

    def encode(self, images: Tensor) -> tuple[Tensor, torch.Size]:
        """Return the network's input, and the shape of the images."""
        return images.reshape(len(images), *self.input_shape), images.shape

    def decode(self, potential: Tensor, shape: torch.Size) -> Tensor:
        """Return predictions from the readout: logits, or its sigmoid (section 6.3.1.2)."""
        return potential if self.task == "classification" else torch.sigmoid(potential).view(shape)

    def front(self) -> list[nn.Module]:
        """Return an empty list: nothing is computed before the network."""
        return []


def save_image_network(
    model: ImageNetwork, folder: str | Path, report: list[dict[str, Any]] | None = None
) -> None:
    """Write a model folder, with the conversion report if given."""
    settings = {"architecture": model.architecture, "task": model.task}
    save_model(model, folder, KIND, settings, report=report)


def load_image_network(folder: str | Path) -> ImageNetwork:
    """Load a model folder, in inference mode.

    Raises:
        SpikeSepError: the folder is missing, or not a complete image network.
    """
    return load_model(folder, KIND, lambda settings: ImageNetwork(**settings))
