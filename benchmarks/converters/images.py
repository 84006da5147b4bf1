"""Image tasks: a multilayer perceptron and an autoencoder on MNIST, a CNN on CIFAR-10."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from benchmarks.converters.tasks import Task, folded, train
from spikesep.vision.architectures import build, input_shape
from spikesep.vision.config import ImageDataConfig
from spikesep.vision.data.datasets import Images, load_images
from spikesep.vision.data.preparation import prepare_images

N_CLASSES = 10


def mlp(quick: bool, data: Path) -> Task:
    """Classify MNIST by two hidden layers."""
    architecture = "28x28-32-32-10" if quick else "28x28-256-256-10"
    sets = image_sets("mnist", architecture, quick, data, n_train=20_000, n_test=2000)
    return _classifier("MLP, MNIST", architecture, *sets, epochs=3 if quick else 8)


def cnn(quick: bool, data: Path) -> Task:
    """Classify CIFAR-10 by three convolutions and a hidden linear layer."""
    architecture = "3x32x32-c4-p2-c8-p2-16-10" if quick else "3x32x32-c16-p2-c32-p2-c64-p2-128-10"
    sets = image_sets("cifar10", architecture, quick, data, n_train=25_000, n_test=1000)
    return _classifier("CNN, CIFAR-10", architecture, *sets, epochs=3 if quick else 8)


def autoencoder(quick: bool, data: Path) -> Task:
    """Reconstruct MNIST through a code of 32 numbers, as in the recipe."""
    architecture = "784-32-16-32-784" if quick else "784-128-64-32-64-128-784"
    examples, test = (
        TensorDataset(images, images)
        for images, _ in image_sets("mnist", architecture, quick, data, n_train=30_000, n_test=2000)
    )
    model = train(
        build(architecture),
        examples,
        lambda output, target: F.mse_loss(output.sigmoid(), target),
        epochs=3 if quick else 20,
        learning_rate=3e-3,
    )
    return Task(
        "autoencoder, MNIST",
        folded(model),
        examples,
        test,
        decode=lambda output, _: output.sigmoid(),
        loss=F.mse_loss,
        metric="mean square error",
        score=F.mse_loss,
        higher_is_better=False,
    )


def image_sets(
    name: str, architecture: str, quick: bool, data: Path, *, n_train: int, n_test: int
) -> list[tuple[Tensor, Tensor]]:
    """Return training and test images, in the shape of the network's input, and labels.

    Downloads the data set into `data` if it is missing. A quick run draws its images itself.
    """
    shape = input_shape(architecture)
    if quick:
        images, labels = drawn_images(320, shape)
        return [(images[:256], labels[:256]), (images[256:], labels[256:])]
    config = ImageDataConfig(name, train_examples=n_train, test_examples=n_test)
    prepare_images(config, data, data / "downloads")
    split = load_images(config, data, shape[-1], reconstruct=False)
    return [_tensors(images, shape) for images in (split.train, split.test)]


def drawn_images(n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Draw noisy copies of one random image per class, within 0 and 1."""
    prototypes, labels = torch.rand(N_CLASSES, *shape), torch.randint(N_CLASSES, (n,))
    return (prototypes[labels] + 0.2 * torch.randn(n, *shape)).clamp(0, 1), labels


def _tensors(images: Images, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    x, labels = images.batch(list(range(len(images))))
    return x.reshape(len(x), *shape), labels


def _classifier(
    name: str,
    architecture: str,
    examples: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    epochs: int,
) -> Task:
    training_set = TensorDataset(*examples)
    model = train(
        build(architecture), training_set, F.cross_entropy, epochs=epochs, learning_rate=3e-3
    )
    return Task(
        name,
        folded(model),
        training_set,
        TensorDataset(*test),
        decode=lambda output, _: output,
        loss=F.cross_entropy,
        metric="accuracy, %",
        score=lambda output, labels: 100 * (output.argmax(1) == labels).float().mean(),
    )
