"""Training by several processes on the CPU (gloo), each a run of the same command."""

import csv
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from spikesep.errors import SpikeSepError
from spikesep.training.config import LaunchConfig, PretrainConfig
from spikesep.training.pretrain import pretrain
from spikesep.training.processes import distributed
from spikesep.training.processes.distributed import OwnExamples, own_share
from spikesep.training.records.history import History


class Pairs:
    """A collating function that asks for the whole batch and leaves it unchanged."""

    whole_batch = True

    def __call__(self, examples):
        return tuple(torch.stack(part) for part in zip(*examples, strict=True))


class Mixing(Pairs):
    """A collating function in which targets depend on the whole batch."""

    def __call__(self, examples):
        x, y = super().__call__(examples)
        return x, y + x.mean()


def command(folder: Path, n_processes: int, batch_size: int, stop_at: int, stop_by: int) -> None:
    """Train a network with batch norm on 42 examples, with 23 for validation."""
    torch.manual_seed(0)
    x, y = torch.rand(65, 3, 5, dtype=torch.float32), torch.rand(65, 1)
    y[42:60] += 2  # so that an unweighted mean of the processes' means would differ
    # No bias before a norm: its gradient is rounding error, which Adam would amplify.
    model = nn.Sequential(
        nn.Conv1d(3, 4, 3, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 1)
    )
    steps = 0

    def loss(prediction, target):
        nonlocal steps
        steps += prediction.requires_grad
        if steps == stop_at and stop_by == signal.SIGKILL:
            os.kill(0, stop_by)  # all processes of the group
        if steps == stop_at and stop_by == signal.SIGTERM and distributed.rank_and_size()[0] == 0:
            os.kill(os.getpid(), stop_by)  # the first process only
        return (prediction - target).square().mean()

    train = DataLoader(TensorDataset(x[:42], y[:42]), batch_size, collate_fn=Mixing())
    valid = DataLoader(TensorDataset(x[42:], y[42:]), batch_size)
    config = PretrainConfig(
        epochs=3, learning_rate=0.05, warmup_steps=3, precision="float32", batch_size=batch_size
    )
    history = History(folder / "history.csv")
    launch = LaunchConfig(n_processes=n_processes)
    pretrain(
        model,
        loss,
        train,
        valid,
        config,
        folder / "ann",
        history=history,
        metric=lambda p, t, value: -value,
        launch=launch,
    )
    if "LOCAL_RANK" not in os.environ or os.environ["LOCAL_RANK"] == "0":
        torch.save(model.state_dict(), folder / "model.pt")


def run(folder, n_processes, batch_size=8, stop_at=0, stop_by=signal.SIGKILL):
    argv = [
        sys.executable,
        __file__,
        str(folder),
        *(f"{n:d}" for n in (n_processes, batch_size, stop_at, stop_by)),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
    }
    return subprocess.run(
        argv, env=environment, capture_output=True, text=True, start_new_session=True, timeout=120
    )


def curve(folder):
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("epoch", "train_loss", "valid_loss", "learning_rate")
    return torch.tensor([[float(row[name]) for name in names] for row in rows], dtype=torch.float64)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    ended = run(folder, 1)
    assert ended.returncode == 0, ended.stderr
    return folder


def assert_same_training(folder, other):
    torch.testing.assert_close(curve(folder), curve(other), rtol=1e-5, atol=1e-7)
    one, two = (torch.load(f / "model.pt", weights_only=True) for f in (folder, other))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_two_processes_equal_one_even_after_a_kill(alone, tmp_path):
    killed = run(
        tmp_path, 2, stop_at=9
    )  # six steps an epoch, of 8, 8, 8, 8, 8 and 2 examples: in the second
    assert killed.returncode == -9
    assert len(curve(tmp_path)) == 1
    ended = run(tmp_path, 2)
    assert ended.returncode == 0, ended.stderr
    assert "8 examples a step over 2 process(es)" in ended.stdout
    assert ended.stdout.count("epoch 3/3") == 1  # one of them prints
    assert_same_training(alone, tmp_path)


def test_sigterm_ends_all_processes(alone, tmp_path):
    ended = run(
        tmp_path, 2, stop_at=9, stop_by=signal.SIGTERM
    )  # it returns when nobody holds the output any more
    assert ended.returncode == -signal.SIGTERM
    assert "a process of this training ended" in ended.stderr
    assert run(tmp_path, 2).returncode == 0
    assert_same_training(alone, tmp_path)


def test_uneven_batches_and_number_of_processes_do_not_matter(tmp_path):
    one, several = tmp_path / "one", tmp_path / "several"
    assert run(one, 1, batch_size=7).returncode == 0
    assert run(several, 1, batch_size=7, stop_at=8).returncode == -9
    ended = run(several, 3, batch_size=7)
    assert ended.returncode == 0, ended.stderr
    assert_same_training(one, several)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_each_example_belongs_to_one_process(n, monkeypatch):
    taken, rows = Counter(), Counter()
    for rank in range(n):
        monkeypatch.setattr(distributed, "rank_and_size", lambda rank=rank: (rank, n))
        for batch in OwnExamples(BatchSampler(range(42), 8, drop_last=False)):
            taken.update(batch)
        whole = DataLoader(
            [(torch.tensor(k), torch.tensor(0)) for k in range(42)], 8, collate_fn=Pairs()
        )
        for x, _ in own_share(whole):
            rows.update(x.tolist())
    assert taken == rows == Counter(range(42))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (6, 3, 7)), (nn.BatchNorm2d, (6, 3, 4, 5))]
)
def test_shared_norm_and_its_gradients_equal_those_of_the_whole_batch(
    kind, shape, affine, monkeypatch
):
    """Two threads act as processes, with four and two examples."""
    torch.manual_seed(0)
    x, grad = torch.randn(shape) * 3 + 5, torch.randn(shape)
    whole, norms = kind(3, affine=affine), [kind(3, affine=affine) for _ in range(2)]
    for norm in (whole, *norms):
        distributed.share_batch_norms(norm)
        if affine:
            nn.init.constant_(norm.weight, 1.5)
    inputs = [part.clone().requires_grad_() for part in (x, x[:4], x[4:])]
    expected = whole(inputs[0])
    expected.backward(grad)
    monkeypatch.setattr(distributed, "rank_and_size", lambda: (0, 2))
    meeting, sums = threading.Barrier(2), {}

    def add(rank, value):
        sums[rank] = value
        meeting.wait()
        total = sums[0] + sums[1]
        meeting.wait()
        return total

    ranks = threading.local()
    monkeypatch.setattr(distributed, "sum_over_processes", lambda value: add(ranks.rank, value))

    def process(rank, own):
        ranks.rank = rank
        found = norms[rank](inputs[1 + rank])
        # Called directly: autograd's single thread would deadlock.
        of_inputs = distributed._Normalize.backward(found.grad_fn, grad[own])
        inputs[1 + rank].grad = of_inputs[0]
        return found.detach(), of_inputs[1:3]

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(process, (0, 1), (slice(4), slice(4, 6))))
    torch.testing.assert_close(torch.cat([found for found, _ in parts]), expected.detach())
    torch.testing.assert_close(
        torch.cat([part.grad for part in inputs[1:]]), inputs[0].grad, rtol=1e-4, atol=1e-5
    )
    if affine:
        for k, parameter in enumerate((whole.weight, whole.bias)):
            torch.testing.assert_close(parts[0][1][k] + parts[1][1][k], parameter.grad)
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, whole.running_mean)
        torch.testing.assert_close(norm.running_var, whole.running_var)


def test_more_processes_than_examples_are_refused(tmp_path):
    loader = DataLoader(TensorDataset(torch.rand(9, 1), torch.rand(9, 1)), 2)
    config, launch = PretrainConfig(batch_size=2), LaunchConfig(n_processes=3)
    with pytest.raises(SpikeSepError, match=r"--train.batch_size: 2 examples for 3 processes"):
        pretrain(
            nn.Linear(1, 1),
            None,
            loader,
            loader,
            config,
            tmp_path,
            history=History(tmp_path / "h"),
            metric=lambda p, t, value: value,
            launch=launch,
        )


if __name__ == "__main__":
    command(Path(sys.argv[1]), *map(int, sys.argv[2:]))
