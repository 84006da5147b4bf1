"""Several processes train one network (torch.distributed: gloo on CPUs, NCCL on accelerators): who takes which examples
of a batch, and batch norm over all of it. What is learned is what one process would learn, up to rounding.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.utils.data import BatchSampler, DataLoader


def place() -> tuple[int, int]:
    """The rank of this process, from 0, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of all processes' `x`; without a gradient."""
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def end_processes() -> None:
    """Wait for one another, and part."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def lost_a_process(error: RuntimeError) -> bool:
    """Whether an error says no more than that another process is gone."""
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "Connection" in text or "NCCL" in text


def own_share(loader: DataLoader) -> DataLoader:
    """The same batches, of which each process takes every n-th example: all are taken, and each by one process.

    A `collate_fn` with a true attribute `whole_batch`, which mixes examples, is given all of them, and what it returns
    is shared out. In training, where all processes step together, a batch must have an example for each of them.
    """
    whole = getattr(loader.collate_fn, "whole_batch", False)
    return DataLoader(
        loader.dataset,
        batch_sampler=loader.batch_sampler if whole else OwnExamples(loader.batch_sampler),
        collate_fn=OwnRows(loader.collate_fn) if whole else loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


class OwnExamples(BatchSampler):
    """Of each batch, the examples that are this process's."""

    def __init__(self, batches: BatchSampler):
        self.batches = batches
        self.sampler = batches.sampler  # which is told the epoch
        self.batch_size = batches.batch_size
        self.drop_last = batches.drop_last

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list]:
        rank, n = place()
        return (batch[rank::n] for batch in self.batches if rank < len(batch))


class OwnRows:
    """Of what a collating function returns, the rows that are this process's."""

    def __init__(self, collate: Callable[[list], tuple[Tensor, ...]]):
        self.collate = collate

    def __call__(self, examples: list[Any]) -> tuple[Tensor, ...]:
        """Collate, and take every n-th row."""
        rank, n = place()
        return tuple(part[rank::n] for part in self.collate(examples))


def share_batch_norms(model: nn.Module) -> None:
    """Have every batch norm of `model` normalize, in training, by the statistics of all processes' examples.

    Names, parameters and buffers stay. (`nn.SyncBatchNorm` does this on accelerators only.)
    """
    shared = {nn.BatchNorm1d: _SharedBatchNorm1d, nn.BatchNorm2d: _SharedBatchNorm2d}
    for module in model.modules():
        module.__class__ = shared.get(type(module), type(module))


class _Shared:
    def forward(self, x: Tensor) -> Tensor:
        if not self.training or place()[1] == 1:
            return super().forward(x)
        n, mean, variance = _statistics(x)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * n / (n - 1)).to(self.running_var), self.momentum)
        mean, scale = _per_channel(mean, x), _per_channel(torch.rsqrt(variance + self.eps), x)
        y = (x - mean) * scale
        if self.affine:
            y = y * _per_channel(self.weight, x) + _per_channel(self.bias, x)
        return y.to(x.dtype)


class _SharedBatchNorm1d(_Shared, nn.BatchNorm1d):
    pass


class _SharedBatchNorm2d(_Shared, nn.BatchNorm2d):
    pass


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Over all processes: values a channel (a scalar), mean [C], biased variance [C]; float64, so that the difference
    of squares is harmless, and with their gradient."""
    n = x.numel() / x.shape[1]
    variance, mean = torch.var_mean(x.float(), [0, *range(2, x.ndim)], correction=0)
    variance, mean = variance.double(), mean.double()
    total = all_reduce(torch.cat([n * mean, n * (variance + mean.square()), mean.new_full((1,), n)]))
    mean, square = (total[:-1] / total[-1]).chunk(2)
    return total[-1], mean, square - mean.square()


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """[C] -> [1, C, 1, ...], in float32, as batch norm computes under autocast too."""
    return values.float().view(1, -1, *[1] * (x.ndim - 2))
