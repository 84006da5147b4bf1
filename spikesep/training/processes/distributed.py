"""Distributed training: shares of each batch, and batch norm over the whole batch.

Uses torch.distributed, with gloo on CPUs and NCCL on accelerators. The result equals that of one
process up to rounding.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader


def rank_and_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of `x` over all processes, without gradient."""
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def end_processes() -> None:
    """Wait for all processes, then leave the process group."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def lost_a_process(error: RuntimeError) -> bool:
    """Return whether an error was caused by the end of another process."""
    text = str(error)
    return (
        isinstance(error, dist.DistError)
        or "gloo" in text
        or "Connection" in text
        or "NCCL" in text
    )


def own_share(loader: DataLoader) -> DataLoader:
    """Return a loader of this process's share of each batch, every n-th example.

    A `collate_fn` that mixes examples, marked by a true attribute `whole_batch`, is called on the
    whole batch in each process, and its result is shared instead. In training, where all processes
    step together, each batch must have an example for every process.
    """
    whole = getattr(loader.collate_fn, "whole_batch", False)
    batches = cast(BatchSampler, loader.batch_sampler)
    return DataLoader(
        loader.dataset,
        batch_sampler=batches if whole else OwnExamples(batches),
        collate_fn=OwnRows(loader.collate_fn) if whole else loader.collate_fn,
        num_workers=loader.num_workers,
        persistent_workers=loader.persistent_workers,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


class OwnExamples(BatchSampler):
    """Batch sampler of this process's examples of each batch.

    Args:
        batches: sampler of the whole batches.
    """

    def __init__(self, batches: BatchSampler):
        self.batches = batches
        self.sampler = batches.sampler  # for `set_epoch`
        self.batch_size = batches.batch_size
        self.drop_last = batches.drop_last

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list]:
        rank, n = rank_and_size()
        return (batch[rank::n] for batch in self.batches if rank < len(batch))


class OwnRows:
    """Collating function that returns this process's rows of the whole batch.

    Args:
        collate: collating function of the whole batch.
    """

    def __init__(self, collate: Callable[[list], tuple[Tensor, ...]]):
        self.collate = collate

    def __call__(self, examples: list[Any]) -> tuple[Tensor, ...]:
        """Collate, and return every n-th row."""
        rank, n = rank_and_size()
        return tuple(part[rank::n] for part in self.collate(examples))


def share_batch_norms(model: nn.Module) -> None:
    """Make every batch norm of `model` use the statistics of all processes' examples in training.

    Names, parameters and buffers are unchanged. `nn.SyncBatchNorm` requires accelerators.
    """
    shared = {nn.BatchNorm1d: _SharedBatchNorm1d, nn.BatchNorm2d: _SharedBatchNorm2d}
    for module in model.modules():
        module.__class__ = shared.get(type(module), type(module))


class _SharedStatistics(nn.modules.batchnorm._BatchNorm):
    """Batch norm that normalizes by the statistics of all processes in training."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or rank_and_size()[1] == 1:
            return super().forward(x)
        with torch.no_grad():
            n, mean, variance = _statistics(x)
            self._update(mean, variance * n / (n - 1))
        return _Normalize.apply(
            x, self.weight, self.bias, n.float(), mean.float(), variance.float(), self.eps
        )

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics toward the moments of a batch."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            assert self.momentum is not None
            running.lerp_(value.to(running), self.momentum)


class _SharedBatchNorm1d(_SharedStatistics, nn.BatchNorm1d):
    pass


class _SharedBatchNorm2d(_SharedStatistics, nn.BatchNorm2d):
    pass


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values per channel (a scalar), mean [C] and biased variance [C] over all processes.

    In float64, as the variance is a difference of squares.
    """
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
    """Batch norm of x [B, C, ...] by moments [C] of all processes' n values per channel.

    Forward and backward use torch's kernels for constant moments, one pass over x each. The
    gradient through the moments adds a linear function of x per channel, whose coefficients are
    sums over all processes (Ioffe and Szegedy, "Batch normalization", section 3).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, n, mean, variance, eps):
        """Return the normalized x, in its dtype."""
        ctx.save_for_backward(x, weight, n, mean, variance)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of x, through all processes' outputs, and of weight and bias.

        The latter are this process's share, as of any parameter.
        """
        x, weight, n, mean, variance = ctx.saved_tensors
        own, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        slope, level = (sum_over_processes(torch.stack([of_weight, of_bias])) / n).unbind()
        gain = torch.rsqrt(variance + ctx.eps) * (1 if weight is None else weight)
        through_moments = F.batch_norm(x, mean, variance, -gain * slope, -gain * level, eps=ctx.eps)
        if weight is None:
            of_weight = of_bias = None
        return own + through_moments, of_weight, of_bias, None, None, None, None
