"""Several processes train one network (torch.distributed: gloo on CPUs, NCCL on accelerators): who takes which examples
of a batch, and batch norm over all of it. What is learned is what one process would learn, up to rounding.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
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
    return (
        isinstance(error, dist.DistError)
        or "gloo" in text
        or "Connection" in text
        or "NCCL" in text
    )


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
        persistent_workers=loader.persistent_workers,
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
        with torch.no_grad():
            n, mean, variance = _statistics(x)
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * n / (n - 1)).to(self.running_var), self.momentum)
        return _Normalize.apply(
            x, self.weight, self.bias, n.float(), mean.float(), variance.float(), self.eps
        )


class _SharedBatchNorm1d(_Shared, nn.BatchNorm1d):
    pass


class _SharedBatchNorm2d(_Shared, nn.BatchNorm2d):
    pass


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Over all processes: values a channel (a scalar), mean [C], biased variance [C]; float64, so that the difference
    of squares is harmless."""
    n = x.numel() / x.shape[1]
    mean, variance = (
        moment.double() for moment in torch.batch_norm_update_stats(x.float(), None, None, 0.0)
    )
    total = sum_over_processes(
        torch.cat([n * mean, n * (variance + mean.square()), mean.new_full((1,), n)])
    )
    mean, square = (total[:-1] / total[-1]).chunk(2)
    return total[-1], mean, square - mean.square()


class _Normalize(torch.autograd.Function):
    """Batch norm of x [B, C, ...] by given moments [C] of n values a channel, which themselves follow x.

    Both ways are torch's kernels for moments that do not follow, a pass over x each; what is missing then is a line in
    x for each channel, whose coefficients are sums over all processes (Ioffe and Szegedy, "Batch normalization",
    section 3, with their sums taken apart).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, n, mean, variance, eps):
        """y, of x's type."""
        ctx.save_for_backward(x, weight, n, mean, variance)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        """Of x: of the mean over all processes; of weight and bias: this process's share, as of any parameter."""
        x, weight, n, mean, variance = ctx.saved_tensors
        own, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        along, level = (sum_over_processes(torch.stack([of_weight, of_bias])) / n).unbind()
        gain = torch.rsqrt(variance + ctx.eps) * (1 if weight is None else weight)
        line = F.batch_norm(x, mean, variance, -gain * along, -gain * level, eps=ctx.eps)
        if weight is None:
            of_weight = of_bias = None
        return own + line, of_weight, of_bias, None, None, None, None
