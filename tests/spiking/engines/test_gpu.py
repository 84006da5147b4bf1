"""The gpu engine on an accelerator where there is one; its kernel everywhere, in Triton's
interpreter. That takes a process of its own: Triton looks at the environment when it is imported.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from helpers.paths import ROOT
from helpers.stacks import classifiers, converted, run, same_spikes, signal_before, stacks_1d
from helpers.tutorials import resnet
from hypothesis import given, settings
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking import convert
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal
from spikesep.training.precision import exact_products

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
N_EXAMPLES = 3 if INTERPRETED else 40  # the interpreter takes a second for each
SMALL = {"most_steps": 9, "n_frames": 7} if INTERPRETED else {}

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
runs_kernels = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no accelerator here; the kernel is tried in Triton's interpreter",
)


def test_the_kernel_passes_its_tests_in_tritons_interpreter():
    if INTERPRETED:
        pytest.skip("this is the interpreter")
    command = [sys.executable, "-m", "pytest", "-k", "interpreted", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


def test_a_batch_of_one_is_no_constant_for_the_compiler():
    from spikesep.spiking.engines.gpu import _layer

    counts = (
        [p for p in _layer.params if p.name in ("n_positions", "n_rows")] if not INTERPRETED else []
    )
    assert all(p.do_not_specialize for p in counts)
    assert INTERPRETED or len(counts) == 2


def assert_same_spikes(network, x):
    expected = run(network.to(DEVICE), x.to(DEVICE), "dense")
    found = run(network, x.to(DEVICE), "gpu")
    assert same_spikes(expected, found)
    assert network[-1].ran_on == "gpu: as asked for"


@runs_kernels
@pytest.mark.gpu
@settings(max_examples=N_EXAMPLES)
@given(stacks_1d(**SMALL))
def test_interpreted_or_not_stacks_fire_the_spikes_of_the_dense_engine(case):
    network, x = case
    to_fixed_point(network, [x])
    assert_same_spikes(network, x)


@runs_kernels
@pytest.mark.gpu
@settings(max_examples=1 if INTERPRETED else 40)
@given(classifiers(most_steps=2 if INTERPRETED else 20))
def test_interpreted_or_not_images_fire_the_spikes_of_the_dense_engine(case):
    network, x = case
    to_fixed_point(network, [x])
    assert_same_spikes(network, x)


@runs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("deferred", [False, True])
def test_interpreted_or_not_what_takes_more_than_seven_bits_arrives_whole(deferred):
    """Sums of 12 sources of up to 15 units each, in every step or all at once; more channels than a
    block holds.
    """
    torch.manual_seed(0)
    layers = [SpikingLayer(nn.Conv1d(3, 70, 1))]
    layers += [SpikingLayer(nn.Conv1d(70, 70, 1), identity=True) for _ in range(11)] + [
        SpikingLayer(nn.Conv1d(70, 70, 1))
    ]
    network = converted(
        layers, Readout(nn.Conv1d(70, 2, 1)), Coding(9, deferred=deferred), [0.1] * len(layers)
    )
    for layer in layers:
        nn.init.constant_(layer.synapse.bias, 0.5)
    x = torch.randn(1, 3, 4)
    to_fixed_point(network, [x])
    signal = signal_before(network.to(DEVICE), x.to(DEVICE), 12)
    units = sum(trains.multiple * trains.spikes.int() for trains in signal.trains)
    assert int((units.sum(0) if deferred else units).max()) > 127
    found = []
    for engine in ("dense", "gpu"):
        network.use_engine(engine)
        found.append(network[12](signal).trains[0].words)
    assert torch.equal(*found)


@runs_kernels
@pytest.mark.gpu
@settings(max_examples=N_EXAMPLES)
@given(stacks_1d(**SMALL))
def test_interpreted_or_not_in_floats_it_differs_at_most_where_rounding_decides(case):
    network, x = case
    exact_products(torch.device(DEVICE))
    signal = Signal(x.to(DEVICE))
    for layer in network.to(DEVICE).layers.values():
        layer.engine = "dense"
        expected = layer(signal)
        if signal.is_spiking:
            layer.engine = "gpu"
            differing = (layer(signal).count != expected.count).float().mean()
            assert differing <= 0.01
        signal = signal + expected if layer.identity else expected


@runs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("deferred", [False, True])
def test_interpreted_or_not_neurons_of_several_synapses_fire_the_same_spikes(deferred):
    torch.manual_seed(0)
    network, x = resnet().eval(), torch.randn(2, 3, 6, 6)
    spiking = convert(network, x, n_steps=5, deferred=deferred, weight_bits=8).to(DEVICE)
    assert same_spikes(run(spiking, x.to(DEVICE), "dense"), run(spiking, x.to(DEVICE), "gpu"))


def small_network():
    layers = [SpikingLayer(nn.Conv1d(2, 2, 1)) for _ in range(2)]
    return converted(layers, Readout(nn.Conv1d(2, 1, 1)), Coding(4), [0.5, 0.5])


@pytest.mark.skipif(INTERPRETED, reason="the interpreter stands for an accelerator")
def test_a_network_that_is_not_on_an_accelerator_is_refused_with_the_remedy():
    with pytest.raises(
        SpikeSepError, match=r"^engine gpu: .*needs an accelerator, this is cpu; give .*$"
    ):
        small_network().use_engine("gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
def test_on_an_accelerator_auto_takes_it_and_says_so():
    network = small_network().to("cuda")
    network(torch.rand(1, 2, 5, device="cuda"))
    assert [layer.ran_on for layer in network.layers.values()] == [
        "dense: the input is analog",
        "gpu: on an accelerator (cuda)",
    ]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("fixed", "deferred"), [(True, False), (False, True)])
def test_the_kernel_compiles_for_an_accelerator_that_is_not_here(fixed, deferred):
    """To machine code; integers go to the tensor cores."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from spikesep.spiking.engines.gpu import _layer

    number = "i32" if fixed else "fp32"
    neurons = dict.fromkeys(("factors", "bias", "threshold", "initial"), f"*{number}")
    signature = {
        "words": "*u8",
        "table": "*i32",
        "taps": "*i32",
        "weight": "*i8" if fixed else "*fp32",
        **neurons,
    }
    signature |= {"out": "*u8", "n_positions": "i32", "n_rows": "i32", "gain": number}
    constants = {"n_entries": 3, "n_in": 128, "n_out": 128, "n_sources": 2, "n_steps": 12}
    constants |= {
        "n_digits": 2 if fixed else 0,
        "deferred": deferred,
        "rows_at_once": 64,
        "out_at_once": 64,
        "in_at_once": 64,
    }
    source = ASTSource(
        _layer, signature | dict.fromkeys(constants, "constexpr"), constexprs=constants
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert compiled.asm["cubin"]
    assert ("mma.sync" in compiled.asm["ptx"]) == fixed


@runs_kernels
@pytest.mark.gpu
def test_interpreted_or_not_neurons_that_leak_or_reset_to_zero_fire_the_same_spikes():
    """In floats whose sums are exact, and in integers."""
    for reset, beta in (("zero", 1.0), ("subtract", 0.5), ("zero", 0.5)):
        torch.manual_seed(0)
        layers = [SpikingLayer(nn.Conv1d(3, 6, 1)), SpikingLayer(nn.Conv1d(6, 6, 3, padding=1))]
        with torch.no_grad():
            for parameter in nn.ModuleList(layers).parameters():
                parameter.copy_((16 * parameter).round() / 8)
        coding = Coding(4, initial_potential=0.0, reset=reset, beta=beta)
        network = converted(layers, Readout(nn.Conv1d(6, 2, 1)), coding, [0.5, 0.5])
        x = (8 * torch.rand(1, 3, 4)).round() / 2
        assert_same_spikes(network, x)
        to_fixed_point(network.cpu(), [x])
        assert_same_spikes(network, x)
