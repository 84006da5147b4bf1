"""Scores of image networks: accuracy or error, and cost."""

from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from spikesep.spiking.cost import Cost, CostMeter
from spikesep.training.objective import Objective
from spikesep.training.precision import exact_products
from spikesep.vision.data.datasets import Images
from spikesep.vision.model import ImageNetwork

METRICS = {"classification": "accuracy", "reconstruction": "mse"}
BATCH_SIZE = 250


def score(
    model: ImageNetwork,
    objective: Objective,
    images: Images,
    *,
    device: str = "cpu",
    title: str = "scoring",
) -> dict[str, Any]:
    """Return the mean metric of a network and, if it spikes, its cost per image.

    Args:
        model: the network; it is moved to the device.
        objective: the loss and metric.
        images: the images.
        device: device to compute on.
        title: title of the progress bar.
    """
    meter = CostMeter()
    spikes = model.network.n_converted == len(model.network)
    exact_products(torch.device(device))
    model = model.to(device).eval()
    console = Console(stderr=True)
    batches = track(
        batches_of(len(images), BATCH_SIZE),
        title,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    total, top5 = 0.0, 0.0
    with torch.inference_mode():
        for indices in batches:
            x, target = (v.to(device) for v in images.batch(indices))
            prediction = model(x, observe=meter if spikes else None)
            loss = float(objective.loss(prediction, target))
            total += objective.metric(prediction, target, loss) * len(indices)
            if model.task == "classification" and prediction.shape[1] > 5:
                hits = (prediction.topk(5).indices == target[:, None]).any(1)
                top5 += float(hits.sum()) * 100
    found: dict[str, Any] = {METRICS[model.task]: total / len(images)}
    if top5:
        found["top5_accuracy"] = top5 / len(images)
    return found | (_cost_per_image(meter.cost, len(images)) if spikes else {})


def batches_of(n: int, size: int) -> list[list[int]]:
    """Return the indices 0..n-1 in batches of `size`."""
    return [list(range(start, min(start + size, n))) for start in range(0, n, size)]


def _cost_per_image(cost: Cost, n_images: int) -> dict[str, Any]:
    return {
        "synops_ratio": cost.synops_ratio,
        "macs": cost.macs / n_images,
        "synops": cost.synops / n_images,
        "firing_rates": cost.firing_rate,
        "n_steps": cost.n_steps,
    }
