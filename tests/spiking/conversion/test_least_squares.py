import pytest
import torch
from torch import nn

from spikesep.spiking.conversion.least_squares import RIDGE, normal_equations
from spikesep.spiking.readout import Readout

CASES = {
    "linear": (nn.Linear(4, 3), (2, 4)),
    "convolution": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "transposed": (nn.ConvTranspose1d(2, 3, 4, 2, 1), (2, 2, 6)),
}


@pytest.mark.parametrize(("module", "shape"), CASES.values(), ids=CASES)
def test_their_solution_gives_back_the_weights_that_made_the_potentials(module, shape):
    """With enough data and the inputs unchanged, least squares find the original weights."""
    part = Readout(module)
    values = [torch.randn(40, *shape[1:]) for _ in range(4)]
    equations = normal_equations(part, part, [(value, value) for value in values])
    solution = torch.linalg.solve(equations.among, equations.across).mT.flatten(0, 1)
    weight = part.synapse.weight.flatten(1).double()
    torch.testing.assert_close(solution[:, :-1], weight, rtol=0, atol=1e-4)
    torch.testing.assert_close(solution[:, -1], part.bias.double(), rtol=0, atol=1e-4)


def test_moments_are_those_of_a_loop_over_positions():
    part = Readout(nn.Conv1d(2, 3, 3, padding=1))
    value = torch.randn(2, 2, 5)
    equations = normal_equations(part, part, [(value, value)])
    padded = nn.functional.pad(value, (1, 1)).double()
    inputs = [
        torch.cat([padded[b, :, t : t + 3].flatten(), torch.ones(1, dtype=torch.float64)])
        for b in range(2)
        for t in range(5)
    ]
    among = sum(x[:, None] * x for x in inputs) / 10
    ridge = RIDGE * among.diagonal()[:-1].mean()
    expected = among + ridge * torch.eye(7, dtype=torch.float64)
    torch.testing.assert_close(equations.among[0], expected, rtol=1e-5, atol=1e-6)
    assert equations.n_positions == 10
