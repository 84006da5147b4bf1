"""Training, validation and test sets of images, in memory or in files, and their batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from spikesep.errors import SpikeSepError
from spikesep.training.sampling import EpochSampler
from spikesep.vision.config import ImageDataConfig
from spikesep.vision.data.augmentation import Augmentation
from spikesep.vision.data.cache import cache_path, read_cache

NORMALIZATION = {
    "mnist": ((0.0,), (1.0,)),  # none, as in the paper
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Images(Protocol):
    """A set of images with targets: labels, or the images themselves for reconstruction."""

    def __len__(self) -> int: ...

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return images [B, C, H, W], float32, and targets."""
        ...

    def augmented(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return images augmented by torch's random generator, and targets."""
        ...


@dataclass(frozen=True)
class Split:
    """Training, validation and test set."""

    train: Images
    valid: Images
    test: Images


class ImageTensors(Dataset):
    """Images in memory, on the processor or an accelerator, where batches are made, too.

    Args:
        images: [n, C, H, W] uint8.
        labels: [n].
        name: name of the data set, which determines the normalization.
        reconstruct: use the images as targets.
        augmentation: random changes of `augmented`; None for none.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        name: str,
        reconstruct: bool,
        augmentation: Augmentation | None = None,
    ):
        self.images = images
        self.labels = labels.long()
        self.reconstruct = reconstruct
        self.augmentation = augmentation
        mean, std = (torch.tensor(v, device=images.device) for v in NORMALIZATION[name])
        self.scale, self.offset = (v[:, None, None] for v in (1 / (255 * std), -mean / std))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, target = self.batch([index])
        return x[0], target[0]

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """See `Images`."""
        chosen = self._on_device(indices)
        return self._examples(self._normalized(self.images[chosen]), chosen)

    def augmented(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """See `Images`."""
        if self.augmentation is None:
            return self.batch(indices)
        chosen = self._on_device(indices)
        x = self._normalized(self.augmentation.moved(self.images[chosen]))
        return self._examples(self.augmentation.erased(x), chosen)

    def _on_device(self, indices: list[int]) -> Tensor:
        return torch.tensor(indices, device=self.images.device)

    def _normalized(self, pixels: Tensor) -> Tensor:
        return torch.addcmul(self.offset, pixels.float(), self.scale)

    def _examples(self, x: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return x, x if self.reconstruct else self.labels[chosen]


class ImageFiles(Dataset):
    """Images in files, one folder per class, read on access.

    Args:
        folder: folder in the layout of torchvision's ImageFolder.
        size: height and width of the images.
        reconstruct: use the images as targets.
        indices: indices of the images to use; None for all.
        augment: whether `augmented` crops and mirrors at random.

    Raises:
        SpikeSepError: the folder contains no class folders.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        reconstruct: bool,
        indices: list[int] | None = None,
        augment: bool = False,
    ):
        try:
            self.files = datasets.ImageFolder(folder)
        except (FileNotFoundError, OSError) as error:
            raise SpikeSepError(
                f"{folder}: no image folders ({error}); put both parts of ImageNet there as "
                "<wnid>/*.JPEG"
            ) from error
        self.indices = list(range(len(self.files))) if indices is None else indices
        self.reconstruct = reconstruct
        end = [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*NORMALIZATION["imagenet"]),
        ]
        self.plain = v2.Compose([v2.Resize(size * 8 // 7), v2.CenterCrop(size), *end])
        random = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *end]
        self.random = v2.Compose(random) if augment else self.plain

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, target = self.batch([index])
        return x[0], target[0]

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """See `Images`."""
        return self._examples(indices, self.plain)

    def augmented(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """See `Images`."""
        return self._examples(indices, self.random)

    def _examples(self, indices: list[int], transform: Callable) -> tuple[Tensor, Tensor]:
        images, labels = zip(*(self.files[self.indices[i]] for i in indices), strict=True)
        x = torch.stack([transform(image) for image in images])
        return x, x if self.reconstruct else torch.tensor(labels)


class _BatchFetcher(Dataset):
    """Whole batches for a DataLoader, by torch's protocol `__getitems__`.

    Args:
        images: the images.
        seed: seed of the augmentation, together with epoch and first index; None for plain images.
    """

    def __init__(self, images: Images, seed: int | None):
        self.images = images
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, keys: list) -> tuple[Tensor, Tensor]:
        if self.seed is None:
            return self.images.batch(keys)
        epoch, first = keys[0]
        with torch.random.fork_rng(devices=[]):
            seed = np.random.SeedSequence((self.seed, epoch, first)).generate_state(1)[0]
            torch.manual_seed(int(seed))
            return self.images.augmented([index for _, index in keys])


def training_loader(images: Images, batch_size: int, seed: int) -> DataLoader:
    """Return augmented batches in another order each epoch, without a last, smaller one."""
    return DataLoader(
        _BatchFetcher(images, seed),
        batch_size,
        sampler=EpochSampler(len(images), seed),
        collate_fn=_identity,
        drop_last=len(images) > batch_size,
    )


def plain_loader(images: Images, batch_size: int = 256) -> DataLoader:
    """Return batches of all images in order."""
    return DataLoader(_BatchFetcher(images, None), batch_size, collate_fn=_identity)


def _identity(batch: Any) -> Any:
    return batch


def load_images(
    config: ImageDataConfig, data: Path, size: int, reconstruct: bool, device: str = "cpu"
) -> Split:
    """Load the data set that `prepare_images` provided.

    Args:
        config: the settings.
        data: folder of the data set's file.
        size: height and width of images read from files.
        reconstruct: use the images as targets.
        device: device of `mnist` and `cifar10`, which are kept in its memory.

    Raises:
        SpikeSepError: the data set is missing or damaged.
    """
    if config.name == "imagenet":
        return load_image_files(config, size, reconstruct)
    path = cache_path(config.name, data)
    if not path.exists():
        raise SpikeSepError(f"{path}: not found; run stage 0 (spikesep-vision prepare)")
    tensors = read_cache(config.name, data)
    if tensors is None:
        raise SpikeSepError(f"{path}: is damaged; run stage 0 (spikesep-vision prepare) again")

    def images(
        part: str, indices: Sequence[int] | slice, augmentation: Augmentation | None = None
    ) -> ImageTensors:
        pixels, labels = (tensors[f"{part}_{kind}"][indices] for kind in ("images", "labels"))
        return ImageTensors(
            pixels.to(device), labels.to(device), config.name, reconstruct, augmentation
        )

    train, valid = split_indices(len(tensors["train_labels"]), config)
    return Split(
        images("train", train, _augmentation(config) if config.augment else None),
        images("train", valid),
        images("test", slice(config.test_examples or None)),
    )


def _augmentation(config: ImageDataConfig) -> Augmentation:
    shift = {"mnist": 2, "cifar10": 4}[config.name]
    return Augmentation(shift, mirrors=config.name != "mnist", cutout=config.cutout)


def load_image_files(config: ImageDataConfig, size: int, reconstruct: bool) -> Split:
    """Open a data set in files below `config.root`; see `load_images`."""
    if not config.root:
        raise SpikeSepError("--images.root: give the folder that holds ImageNet's train/ and val/")
    folder = Path(config.root)
    n = len(ImageFiles(folder / "train", size, reconstruct))
    train, valid = split_indices(n, config)
    test = ImageFiles(folder / "val", size, reconstruct)
    if test.files.classes != datasets.ImageFolder(folder / "train").classes:
        raise SpikeSepError(
            f"{folder / 'val'}: other class folders than in train/; sort its images into <wnid>/"
        )
    test.indices = test.indices[: config.test_examples or None]
    return Split(
        ImageFiles(folder / "train", size, reconstruct, train, config.augment),
        ImageFiles(folder / "train", size, reconstruct, valid),
        test,
    )


def split_indices(n: int, config: ImageDataConfig) -> tuple[list[int], list[int]]:
    """Return the indices of training and validation among n examples.

    Raises:
        SpikeSepError: one of the sets would be empty.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(config.split_seed)).tolist()
    n_valid = round(n * config.valid_share)
    if not 0 < n_valid < n:
        raise SpikeSepError(
            f"--images.valid_share {config.valid_share}: leaves {n_valid} of {n} for validation"
        )
    train, valid = order[n_valid:], order[:n_valid]
    return train[: config.train_examples or None], valid[: config.valid_examples or None]
