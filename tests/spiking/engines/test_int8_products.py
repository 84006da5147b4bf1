"""Products of uint8 and int8 are exact, at the limits of every number format on the way."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from spikesep.compilation import has
from spikesep.spiking.engines import analog_input, dense, int8_products
from spikesep.spiking.engines.int8_kernels import AVX2, FOUR
from spikesep.spiking.neuron import integrate_and_fire
from spikesep.spiking.signal import Coding
from spikesep.spiking.synapses.kinds import connectivity_of

WAYS = [
    pytest.param(
        name, marks=pytest.mark.skipif(not has(feature), reason=f"this processor has no {feature}")
    )
    for name, feature in (("vnni", "avx512vnni"), ("avx2", "avx2"))
]
EDGES = [-128, -127, -1, 0, 1, 126, 127]


@st.composite
def synapses(draw):
    """Inputs up to a limit, weights, and a table with padding and repeated rows."""
    n_taps, n_in, n_out = (draw(st.integers(1, most)) for most in (4, 70, 70))
    n_rows, n_positions = draw(st.integers(1, 30)), draw(st.integers(1, 40))
    most = draw(st.sampled_from([1, 22, 127, 128, 129, 254, 255]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = rng.integers(-128, 128, (n_taps, n_in, n_out))
    x = rng.integers(0, most + 1, (n_rows, n_in))
    if draw(st.booleans()):  # one extreme everywhere saturates first
        weight[:] = draw(st.sampled_from(EDGES))
    if draw(st.booleans()):
        x[:] = most
    if draw(st.booleans()):  # small weights allow long runs
        weight //= draw(st.sampled_from([2, 16, 64]))
    table = rng.integers(-1, n_rows, (n_positions, n_taps)).astype(np.int32)
    taps = rng.permutation(n_taps).astype(np.int32)
    return x.astype(np.uint8), weight.astype(np.int8), table, taps, most


def sums(x, weight, table, taps):
    """The same in float64, which holds all of these integers."""
    padded = np.concatenate([x, np.zeros((1, x.shape[1]))])  # row -1
    entries = zip(table.T, taps, strict=True)
    return sum(padded[rows] @ weight[tap].astype(np.float64) for rows, tap in entries)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=150, deadline=None)
@given(synapses())
def test_sums_are_exact(way, case):
    x, weight, table, taps, most = case
    packed = int8_products.pack(weight, most, way)
    if packed is None:
        assert way == "avx2"
        assert most > 128  # below, two products always fit 16 bits
        return
    out = np.full((len(table), weight.shape[2]), 99, np.int32)
    int8_products.multiply(packed, x, table, taps, out)
    np.testing.assert_array_equal(out, sums(x, weight, table, taps))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=100, deadline=None)
@given(
    case=synapses(),
    n_steps=st.sampled_from([1, 2, 22, 254, 255]),
    gain=st.sampled_from([1, 8, 256]),
    small=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_deferred_neurons_count_as_integers_divide(way, case, n_steps, gain, small, seed):
    x, weight, table, taps, most = case
    packed = int8_products.pack(weight, most, way)
    assume(packed is not None)
    rng, n_out = np.random.default_rng(seed), weight.shape[2]
    exact = sums(x, weight, table, taps) * gain
    largest = max(1.0, np.abs(exact).max())
    threshold = rng.integers(1, 3 if small else int(min(largest, 2**29)) + 1, n_out, np.int32)
    initial = rng.integers(-(2**24), 2**24, n_out, np.int32)
    # thresholds that divide what arrives without a rest: the least that fires
    own = rng.integers(0, len(table), n_out)
    whole = (exact[own, np.arange(n_out)] + initial) / rng.integers(1, n_steps + 1, n_out)
    fits = (whole >= 1) & (whole < 2**29) & (whole == np.floor(whole))
    threshold[fits] = whole[fits].astype(np.int32)
    assume(np.abs(exact + initial).max() + 2 * threshold.max() < 2**31)  # as FixedPoint.most
    counts = np.full(exact.shape, 99, np.uint8)
    neurons = (np.int32(gain), initial, threshold, n_steps)
    int8_products.fire(packed, x, table, taps, *neurons, counts)
    expected = np.clip((exact + initial) // threshold, 0, n_steps)
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("n_steps", [1, 22, 255])
def test_counts_are_right_on_both_sides_of_every_multiple_of_a_threshold(n_steps):
    """Also where float32 cannot tell a potential from its neighbors."""
    if not int8_products.instruction_set():
        pytest.skip("this processor has no int8 products")
    top = (2**31 - 1) // (n_steps + 2)
    for threshold in {1, 2, 3, 255, 2**23 // n_steps + 1, top // 2, top - 1, top}:
        near = np.arange(n_steps + 2)[:, None] * threshold + np.array([-1, 0, 1])
        initial = near.ravel().astype(np.int32)
        x, weight = np.zeros((1, 4), np.uint8), np.zeros((1, 4, len(initial)), np.int8)
        packed = int8_products.pack(weight, 1, int8_products.instruction_set())
        counts = np.empty((1, len(initial)), np.uint8)
        thresholds, one = np.full(len(initial), threshold, np.int32), np.zeros((1, 1), np.int32)
        neurons = (np.int32(1), initial, thresholds, n_steps)
        int8_products.fire(packed, x, one, one[0], *neurons, counts)
        expected = np.clip(initial.astype(np.int64) // threshold, 0, n_steps)
        np.testing.assert_array_equal(counts[0], expected)


@settings(max_examples=200)
@given(
    n_fours=st.integers(1, 40),
    most=st.sampled_from([1, 22, 127, 128, 255]),
    scale=st.sampled_from([1, 10, 127]),
    seed=st.integers(0, 2**32),
)
def test_a_run_is_the_longest_that_no_inputs_can_saturate(n_fours, most, scale, seed):
    rng = np.random.default_rng(seed)
    tiles = rng.integers(-scale - 1, scale + 1, (1, 1, n_fours, 2, FOUR)).astype(np.int8)

    def fits(run):
        """Whether the worst inputs, `most` for all weights of one sign, stay within 16 bits."""
        for begin in range(0, n_fours, run):
            fours = tiles[0, 0, begin : begin + run].astype(int)
            for halves in (fours[..., :2], fours[..., 2:]):
                up, down = halves.clip(min=0).sum((0, 2)), halves.clip(max=0).sum((0, 2))
                if (up * most).max() > 32767 or (down * most).min() < -32768:
                    return False
        return True

    run = int8_products.longest_run(tiles, most)
    assert run == 0 or fits(run)
    if run < n_fours:
        assert not fits(max(1, 2 * run))


def test_without_such_products_there_are_no_packed_weights():
    weight = np.full((1, 4, 4), 127, np.int8)
    assert int8_products.pack(weight, 22, "") is None
    assert int8_products.pack(weight, 256, "vnni") is None
    assert int8_products.pack(weight, 255, "avx2") is None  # 2 * 255 * 127 > 32767
    packed = int8_products.pack(weight, 128, "avx2")
    assert packed is not None
    assert packed.shape is AVX2


@settings(max_examples=60, deadline=None)
@given(
    n_in=st.integers(1, 9),
    n_out=st.integers(1, 9),
    n_frames=st.integers(1, 20),
    levels=st.sampled_from([1, 100, 2046, 2047]),
    seed=st.integers(0, 2**32),
)
def test_halves_of_an_analog_input_add_up_to_it(n_in, n_out, n_frames, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv1d(n_in, n_out, 1)
    connectivity = connectivity_of(conv)
    weight = torch.randint(-128, 128, conv.weight.shape, generator=generator).to(torch.int8)
    value = torch.randn(2, n_in, n_frames, generator=generator) * levels
    value[0, :, 0] = torch.tensor([-levels - 1.0, levels + 0.5, 0.5, 1.5, -0.5] * 2)[:n_in]
    fixed = SimpleNamespace(
        weight=weight,
        weights=[weight],
        shifts=[0],
        input_unit=torch.tensor(1.0, dtype=torch.float64),
        input_levels=torch.tensor(levels),
        arranged=lambda key, arrange: arrange(),
    )
    call = SimpleNamespace(
        connectivity=connectivity, projections=[SimpleNamespace(connectivity=connectivity)]
    )
    units = value.double().round().clamp(-levels, levels)
    expected = torch.einsum("oi,bik->bko", weight[:, :, 0].double(), units)
    assert torch.equal(analog_input.arriving(call, fixed, [value]).double(), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_products, "instruction_set", lambda: "")
        assert torch.equal(analog_input.arriving(call, fixed, [value]).double(), expected)


@settings(max_examples=60, deadline=None)
@given(
    n_steps=st.integers(1, 8),
    neuron=st.sampled_from([("subtract", 1.0), ("zero", 1.0), ("zero", 0.75), ("subtract", 0.5)]),
    constant=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_scan_fires_as_neurons_in_float64(n_steps, neuron, constant, seed):
    """Thresholds and currents that are multiples of 2^8 leak without a rest."""
    reset, beta = neuron
    generator = torch.Generator().manual_seed(seed)
    arriving = torch.randint(-9, 30, (1 if constant else n_steps, 5, 70), generator=generator)
    arriving = (arriving << 16).to(torch.int32).expand(n_steps, -1, -1)
    threshold, zero = torch.full((70,), 16 << 16, dtype=torch.int32), torch.zeros(70).int()
    plan = SimpleNamespace(gain=np.int32(1), bias=zero, threshold=threshold, initial=zero)
    coding = Coding(n_steps, initial_potential=0.0, reset=reset, beta=beta)
    words = dense.Scan(plan, slice(None), 5, coding).run(arriving)
    spikes, _ = integrate_and_fire(arriving.double(), 16 << 16, reset=reset, beta=beta)
    assert torch.equal(torch.stack([words >> t & 1 for t in range(n_steps)]).bool(), spikes)
