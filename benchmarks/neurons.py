"""Neuron models: what a leak and the reset to zero cost a converted network, and what learning
wins back.

A small CNN on the 8 x 8 digits of scikit-learn (Alpaydin and Kaynak, 1998), which need no download.
"""

from collections.abc import Iterator
from importlib.util import find_spec

import torch
from rich.table import Table
from torch import Tensor, nn

from spikesep.spiking import Coding, SpikingNetwork, convert, measure

N_TRAIN, BATCH = 1200, 64
MODELS = (
    {},
    {"beta": 0.9375},
    {"beta": 0.875},
    {"beta": 0.75},
    {"beta": 0.5},
    {"reset": "zero"},
    {"reset": "zero", "beta": 0.875},
)


def neurons(quick: bool) -> list[dict] | str:
    """Convert the network with each model of neurons; return accuracies and costs."""
    if find_spec("sklearn") is None:
        return "scikit-learn, which has the digits, is not installed"
    torch.manual_seed(0)
    images, labels = _digits()
    batches = list(zip(images[:N_TRAIN].split(BATCH), labels[:N_TRAIN].split(BATCH), strict=True))
    test = images[N_TRAIN:], labels[N_TRAIN:]
    model = _trained(batches, 2 if quick else 20)
    accuracy = _accuracy(model, *test)
    rows: list[dict] = [{"name": "ANN", "calibrated": accuracy, "learned": accuracy}]
    for n_steps in (4,) if quick else (8, 32):
        for options in MODELS[:: 6 if quick else 1]:
            rows.append(_row(model, batches, test, n_steps, options, 1 if quick else 5))
    return rows


def table(name: str, rows: list[dict]) -> Iterator[Table]:
    """Yield the table of the rows."""
    keys = list(rows[-1])
    found = Table(*keys, title=name)
    for row in rows:
        found.add_row(*(f"{v:.3g}" if isinstance(v := row.get(k, ""), float) else v for k in keys))
    yield found


def _row(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    test: tuple[Tensor, Tensor],
    n_steps: int,
    options: dict,
    max_epochs: int,
) -> dict:
    inputs = [x for x, _ in batches]
    calibrated = convert(model, inputs, n_steps, **options)
    learned = convert(
        model,
        batches,
        n_steps,
        loss=nn.functional.cross_entropy,
        max_epochs=max_epochs,
        learning_rate=3e-4,
        on_epoch=lambda network, done: None,
        **options,
    )
    coding = Coding(n_steps, **options)
    return {
        "name": f"{n_steps} steps, reset {coding.reset}, beta {coding.beta:g}",
        "response error": _response_error(coding),
        "calibrated": _accuracy(calibrated, *test),
        "calibrated, error": _output_error(model, calibrated, test[0]),
        "calibrated, SynOps per MAC": measure(calibrated, test[0])[1].synops_ratio,
        "learned": _accuracy(learned, *test),
        "learned, SynOps per MAC": measure(learned, test[0])[1].synops_ratio,
    }


def _response_error(coding: Coding) -> float:
    """Error of the count of a constant current, relative, at the best of several thresholds."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(100_000, generator=generator, dtype=torch.float64).relu()
    units = [bound / coding.n_steps for bound in torch.linspace(0.5, 4, 36).tolist()]
    errors = [(coding.count(values / unit) * unit - values).norm() for unit in units]
    return float(min(errors) / values.norm())


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target))
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return images[order], torch.tensor(data.target)[order]


def _trained(batches: list[tuple[Tensor, Tensor]], n_epochs: int) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(n_epochs):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(1) == labels).double().mean()) * 100


@torch.no_grad()
def _output_error(model: nn.Module, network: SpikingNetwork, images: Tensor) -> float:
    expected = model(images)
    return float((network(images) - expected).norm() / expected.norm())
