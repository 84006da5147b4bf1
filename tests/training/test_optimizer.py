import copy

import numpy as np
import pytest
import torch
from torch import nn

from spikesep.training import optimizer as optimizers
from spikesep.training.optimizer import KernelMuon, Muon, optimizer_of

RATE = 1e-2


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(6, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 5, 1), nn.Flatten(), nn.Linear(20, 2)
    )


def steps(model, optimizer, n=3):
    for k in range(n):
        x = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(k))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        yield {name: p.grad.double().numpy().copy() for name, p in model.named_parameters()}


def reference(gradients):
    """Muon's step after these gradients of one kernel: momentum and Newton-Schulz, in float64."""
    momentum = np.zeros_like(gradients[0])
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
    matrix = (0.05 * gradients[-1] + 0.95 * momentum).reshape(len(momentum), -1)
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return RATE * 0.2 * np.sqrt(max(matrix.shape)) * x


@pytest.mark.parametrize(("bf16", "tolerance"), [(True, 0.03), (False, 1e-4)])
def test_muon_updates_kernels_and_adam_all_else(monkeypatch, bf16, tolerance):
    monkeypatch.setattr(optimizers, "supports_bf16", lambda device: bf16)
    model = network()
    twin = copy.deepcopy(model)
    gradients, weights = [], []
    for found in steps(model, optimizer_of("muon", model.parameters(), RATE)):
        gradients.append(found)
        weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
    before, after = weights[-2:]
    for name in ("0.weight", "2.weight", "4.weight"):
        expected = reference([g[name] for g in gradients])
        step = (before[name] - after[name]).double().numpy().reshape(expected.shape)
        assert np.linalg.norm(step - expected) < tolerance * np.linalg.norm(expected)
    adam = torch.optim.Adam(twin.parameters(), RATE)
    for found in gradients:
        for name, p in twin.named_parameters():
            p.grad = torch.from_numpy(found[name]).float()
        adam.step()
    for name, p in twin.named_parameters():
        equal = torch.allclose(p, after[name], rtol=1e-4, atol=1e-6)
        assert equal == (name not in ("0.weight", "2.weight", "4.weight")), name


@pytest.mark.parametrize("shape", [(128, 384), (256, 128), (96, 288), (64, 64), (8, 3)])
def test_muon_in_bf16_equals_torch_and_loads_its_state(monkeypatch, shape):
    """To the bit, starting from the state of torch's optimizer."""
    monkeypatch.setattr(optimizers, "supports_bf16", lambda device: True)
    torch.manual_seed(0)
    theirs = nn.Parameter(torch.randn(shape))
    torchs = torch.optim.Muon([theirs], RATE, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    for k in range(6):
        if k == 3:
            ours = nn.Parameter(theirs.detach().clone())
            muon = Muon([ours], RATE)
            muon.load_state_dict(copy.deepcopy(torchs.state_dict()))
        theirs.grad = torch.randn(shape)
        torchs.step()
        if k >= 3:
            ours.grad = theirs.grad.clone()
            muon.step()
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(96, 288), (288, 96), (5, 5)])
def test_orthogonalization_keeps_singular_vectors(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    found = left.T @ optimizers.orthogonalized(matrix, torch.float32).double().numpy() @ right.T
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-3
    assert (np.abs(np.diag(found) - 0.95) < 0.3).all()


def test_column_of_gains_is_not_a_kernel():
    gain = nn.Parameter(torch.ones(8, 1))
    optimizer = KernelMuon([gain], RATE)
    gain.grad = torch.full((8, 1), 5.0)
    optimizer.step()
    torch.testing.assert_close(gain.detach(), torch.full((8, 1), 1 - RATE))  # Adam's first step


def test_scheduler_sets_the_rate_of_both_optimizers():
    model = network()
    optimizer = optimizer_of("muon", model.parameters(), RATE)
    optimizer.param_groups[0]["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    list(steps(model, optimizer, 1))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_restored_state_continues_unchanged(name, tmp_path):
    unbroken = network()
    list(steps(unbroken, optimizer := optimizer_of(name, unbroken.parameters(), RATE)))
    resumed = copy.deepcopy(unbroken)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    again = optimizer_of(name, resumed.parameters(), 1.0)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    list(steps(unbroken, optimizer, 2))
    list(steps(resumed, again, 2))
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_sgd_with_weight_decay_takes_nesterovs_step():
    model = network()
    before = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    found = list(steps(model, optimizer_of("sgd", model.parameters(), RATE, 0.1), 1))
    for name, parameter in model.named_parameters():
        penalty = 0.1 * before[name] if parameter.ndim > 1 else 0.0
        gradient = found[0][name] + penalty
        expected = before[name] - RATE * (gradient + 0.9 * gradient)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-4, atol=1e-6)
