"""Training and inference of the analog separator against asteroid's ConvTasNet.

Both get the same crops, batch, loss, optimizer and precision: training as in
`spikesep.training.pretrain` with Adam (bf16 autocast if the processor has it, clipped gradients),
inference in float32. The peer has the proportions of its paper (H = 4 B, Sc = B, gLN, skip
connections, same encoder) and the largest width whose multiply-accumulates do not exceed ours.
"""

import math
from dataclasses import dataclass

import torch
from asteroid.models import ConvTasNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.synthetic import SAMPLE_RATE, crops
from benchmarks.timing import row, time_in_turn
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator import Separator
from spikesep.separation.objective import NegativeSiSdr
from spikesep.training.precision import autocast

RECIPE = SeparatorConfig(
    n_filters=128,
    n_channels=128,
    dilations=[1, 2, 4, 8, 16, 32, 64, 1, 2, 4, 8, 16],
    identity="sum",
)


@dataclass(frozen=True)
class Case:
    """A configuration of the separator, the layout of the peer, and the batch size."""

    name: str
    config: SeparatorConfig
    n_blocks: int
    n_repeats: int
    batch: int


CASES = (
    Case("default recipe's separator", RECIPE, n_blocks=8, n_repeats=1, batch=8),
    Case("the paper's separator", SeparatorConfig(), n_blocks=8, n_repeats=3, batch=4),
)
QUICK = Case(
    "a small separator", SeparatorConfig(n_filters=32, n_channels=32, dilations=[1, 2]), 2, 1, 2
)


def ann_training(quick: bool) -> list[dict]:
    """Measure seconds per batch of crops of one second."""
    rows = []
    for case in (QUICK,) if quick else CASES:
        torch.manual_seed(0)
        mixtures, sources = crops(case.batch, 0.25 if quick else 1.0).tensors
        models = {"ours": Separator(case.config)}
        macs = {"ours": macs_per_second(models["ours"])}
        models["peer"] = conv_tasnet(case, macs["ours"])
        macs["peer"] = macs_per_second(models["peer"])
        width = models["peer"].masker.bn_chan
        peer = f"ConvTasNet B={width} H={4 * width} X={case.n_blocks} R={case.n_repeats}"
        note = f"{macs['ours'] / 1e9:.3f} and {macs['peer'] / 1e9:.3f} GMAC per second of sound"
        for work, make in (("training step", training), ("inference", inference)):
            runs = {name: make(model, mixtures, sources) for name, model in models.items()}
            times = time_in_turn(runs, 2 if quick else 7)
            what = f"{case.name}, {work}, batch {case.batch}"
            more = {"ours_macs": macs["ours"], "peer_macs": macs["peer"], "note": note}
            rows.append(row(what, times["ours"], peer, times["peer"], None, **more))
    return rows


def conv_tasnet(case: Case, macs: int) -> ConvTasNet:
    """Build asteroid's ConvTasNet with the most channels, a multiple of four, within `macs`.

    Args:
        case: layout of the network.
        macs: maximum number of multiply-accumulates per second of sound.
    """
    n, size = case.config.n_filters, case.config.kernel_size
    n_layers, frames = case.n_blocks * case.n_repeats, SAMPLE_RATE // (size // 2)
    # Per frame: in each block, three products B x 4B and 3 taps on 4B channels; around the blocks
    # 3 N B, and the filters.
    square, linear, rest = 12 * n_layers, 12 * n_layers + 3 * n, 3 * n * size - macs / frames
    width = (-linear + math.sqrt(linear**2 - 4 * square * rest)) / (2 * square)
    b = max(4, int(width) // 4 * 4)
    return ConvTasNet(
        2, n_blocks=case.n_blocks, n_repeats=case.n_repeats, bn_chan=b, hid_chan=4 * b, skip_chan=b,
        kernel_size=size, stride=size // 2, n_filters=n, sample_rate=SAMPLE_RATE,
    )  # fmt: skip


def macs_per_second(model: nn.Module) -> int:
    """Count the multiply-accumulates of convolutions and products per second of sound."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, SAMPLE_RATE))
    return counter.get_total_flops() // 2


def training(model: nn.Module, mixtures: Tensor, sources: Tensor):
    """Return a function that runs a step of pre-training."""
    optimizer, loss = torch.optim.Adam(model.parameters(), 1e-3), NegativeSiSdr()

    def step() -> None:
        model.train()
        with torch.enable_grad():
            with autocast("auto", mixtures.device):
                estimates = model(mixtures).float()
            value = loss(estimates, sources)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()

    return step


def inference(model: nn.Module, mixtures: Tensor, sources: Tensor):
    """Return a function that separates a batch."""

    def run() -> Tensor:
        model.eval()
        with torch.inference_mode():
            return model(mixtures)

    return run
