"""Throughput of image training with and without what makes it fast, in processor seconds.

Processor time of the one process, unlike time by the clock, hardly depends on what else runs.
"""

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from benchmarks.timing import row, time_in_turn
from spikesep.training.optimizer import MAX_GRADIENT_NORM, optimizer_of
from spikesep.training.precision import autocast
from spikesep.vision.architectures import build, input_shape
from spikesep.vision.data.augmentation import Augmentation

CASES = {"mnist-cnn": 128, "cifar10-alexnet": 64}
"""Networks and batch sizes."""
QUICK = {"28x28-c4s2-10": 8}


def image_training(quick: bool) -> list[dict]:
    """Measure processor seconds per batch: augmentation, memory format, and optimizers."""
    torch.manual_seed(0)
    rounds, rows = 1 if quick else 3, []
    for name, batch in (QUICK if quick else CASES).items():
        shape = input_shape(name)
        pixels = torch.randint(0, 256, (batch, *shape)).to(torch.uint8)
        x, target = pixels.float() / 255, torch.randint(0, 10, (batch,))
        steps = {
            "channels last": training(name, x, target, channels_last=True),
            "channels first": training(name, x, target, channels_last=False),
            "muon": training(name, x, target, channels_last=True, optimizer="muon"),
        }
        steps |= {"batch": augmented(pixels), "each image": augmented_one_by_one(pixels)}
        times = time_in_turn(steps, rounds, clock=time.process_time)
        for what, ours, peer in (
            ("augmentation", "batch", "each image"),
            ("training step, Nesterov", "channels last", "channels first"),
            ("training step, channels last", "channels last", "muon"),
        ):
            note = f"{batch / times[ours].median:.0f} and {batch / times[peer].median:.0f} images/s"
            title = f"{name}, {what}, batch {batch}"
            rows.append(row(title, times[ours], peer, times[peer], None, note=note))
    return rows


def training(name: str, x: Tensor, target: Tensor, *, channels_last: bool, optimizer: str = "sgd"):
    """Return a function that runs a step of pre-training."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = build(name).to(memory_format=layout).train()
    learning, x = optimizer_of(optimizer, model.parameters(), 1e-3), x.to(memory_format=layout)

    def step() -> None:
        with torch.enable_grad():
            with autocast("auto", x.device):
                prediction = model(x)
            loss = F.cross_entropy(prediction.float(), target)
            learning.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            learning.step()

    return step


def augmented(pixels: Tensor):
    """Return a function that shifts and mirrors a batch of images."""
    return lambda: Augmentation(4, mirrors=True).moved(pixels)


def augmented_one_by_one(pixels: Tensor):
    """Return a function that does the same by torchvision, image by image."""
    change = v2.Compose([v2.RandomCrop(pixels.shape[-1], padding=4), v2.RandomHorizontalFlip()])
    return lambda: torch.stack([change(image) for image in pixels])
