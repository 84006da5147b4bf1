import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.spiking.neuron import integrate_and_fire
from spikesep.spiking.spike_trains import kernels
from spikesep.spiking.spike_trains.packed import (
    burst,
    collect,
    count,
    count_channels,
    count_nonzero,
    count_positions,
    drive,
    integrate,
    pack,
    unpack,
)

DTYPES = [torch.float32, torch.bfloat16]


@given(st.integers(1, 40), st.integers(0, 1000), st.floats(0, 1))
def test_unpacking_gives_back_every_spike(n_steps, seed, rate):
    spikes = torch.rand(n_steps, 3, 5, generator=torch.Generator().manual_seed(seed)) < rate
    words = pack(spikes)
    assert words.shape == (-(-n_steps // 8), 3, 5)
    assert torch.equal(unpack(words, n_steps), spikes)


def test_bits_count_steps_from_the_lowest():
    spikes = torch.zeros(10, 1, dtype=torch.bool)
    spikes[[0, 3, 9]] = True
    assert pack(spikes).flatten().tolist() == [0b1001, 0b10]


@given(
    st.integers(1, 20),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.3, 0.5]),
    st.sampled_from([*DTYPES, torch.float64]),
)
def test_words_are_those_of_the_neurons_spikes(n_steps, seed, share, dtype):
    current = torch.randn(n_steps, 3, 7, generator=torch.Generator().manual_seed(seed)).to(dtype)
    spikes, _ = integrate_and_fire(current.float(), 0.4, share * 0.4)
    assert torch.equal(integrate(current, 0.4, share * 0.4), pack(spikes))


def test_a_constant_current_needs_one_row():
    current = torch.rand(3, 5)
    expected, _ = integrate_and_fire(current.repeat(9, 1, 1), 0.7, 0.35)
    assert torch.equal(integrate(current.expand(9, 3, 5), 0.7, 0.35), pack(expected))


def test_a_current_that_is_not_a_number_fires_no_spike():
    assert integrate(torch.tensor([[float("nan")], [1.0]]), 1.0, 0.5).tolist() == [[0]]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 1000))
def test_the_drive_is_the_sum_of_all_sources_in_float32(dtype, n_steps, n_sources, seed):
    generator = torch.Generator().manual_seed(seed)
    spikes = [torch.rand(n_steps, 2, 9, generator=generator) < 0.4 for _ in range(n_sources)]
    thresholds = torch.rand(n_sources, generator=generator).tolist()
    expected = torch.zeros(n_steps, 2, 9)
    for source, threshold in zip(spikes, thresholds, strict=True):
        expected += source.float() * torch.tensor(threshold)
    got = drive([pack(source) for source in spikes], thresholds, n_steps, dtype)
    assert got.dtype == dtype
    assert torch.equal(got, expected.to(dtype))


def test_words_for_fewer_steps_than_are_sent_are_refused():
    with pytest.raises(ValueError, match="cannot send 24"):
        drive([pack(torch.ones(8, 3, dtype=torch.bool))], [1.0], 24, torch.float32)


@given(st.integers(1, 40), st.integers(0, 1000))
def test_counts_are_sums_over_the_steps(n_steps, seed):
    spikes = torch.rand(n_steps, 4, 3, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(count(pack(spikes)), spikes.sum(0, dtype=torch.int32))


@given(st.integers(1, 40), st.sampled_from([1, 7, 8, 24]), st.booleans(), st.integers(0, 1000))
def test_counts_of_places_are_sums_over_channels_too_however_the_words_lie(
    n_steps, n_channels, rows, seed
):
    spikes = (
        torch.rand(n_steps, 2, n_channels, 3, 2, generator=torch.Generator().manual_seed(seed))
        < 0.5
    )
    words = pack(spikes)
    words = words.movedim(2, -1).contiguous().movedim(-1, 2) if rows else words
    assert torch.equal(count_positions(words), spikes.sum((0, 2))[:, None])


@settings(deadline=None)
@given(
    st.sampled_from([1, 8, 22, 40, 248, 249]),
    st.sampled_from([5, 8, 24, 264]),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 1000),
)
def test_spikes_and_active_neurons_are_counted_by_channel_and_kind(
    n_steps, n_channels, n_rows, dense, seed
):
    generator = torch.Generator().manual_seed(seed)
    share = 1.0 if dense else 0.7 / n_steps
    spikes = torch.rand(n_steps, n_rows, n_channels, generator=generator) < share
    kinds = torch.randint(0, 3, (n_rows,), generator=generator)
    counts = spikes.long().sum(0)
    found = count_channels(pack(spikes), kinds.numpy(), 3)
    for kind in range(3):
        assert torch.equal(found[0][kind], counts[kinds == kind].sum(0))
        assert torch.equal(found[1][kind], (counts[kinds == kind] > 0).sum(0))


@settings(deadline=None)
@given(
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(0, 1000),
)
def test_values_other_than_zero_are_counted_by_channel_and_kind(
    dtype, n_channels, n_positions, seed
):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, n_channels, n_positions, generator=generator, dtype=dtype)
    values[values < 0.3] *= 0.0  # zeros of either sign
    values[0, 0, 0] = 1e-45
    kinds = torch.randint(0, 3, (n_positions,), generator=generator)
    found = count_nonzero(values, kinds.numpy(), 3)
    for kind in range(3):
        expected = [(values[:, c][:, kinds == kind] != 0).sum() for c in range(n_channels)]
        assert found[kind].tolist() == expected


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float32, torch.float64])
@given(st.integers(1, 20), st.integers(1, 3), st.integers(0, 1000))
def test_what_is_collected_is_the_sum_of_what_is_sent(dtype, n_steps, n_sources, seed):
    generator = torch.Generator().manual_seed(seed)
    spikes = [torch.rand(n_steps, 2, 9, generator=generator) < 0.4 for _ in range(n_sources)]
    factors = torch.randint(-2, 3, (n_sources,), generator=generator).tolist()
    expected = sum(
        factor * source.long().sum(0) for factor, source in zip(factors, spikes, strict=True)
    )
    got = collect([pack(source) for source in spikes], factors, dtype)
    assert got.dtype == dtype
    assert torch.equal(got.long(), expected)


def test_what_is_collected_may_be_longer_than_the_kernels_buffer():
    spikes = torch.rand(9, kernels.CHUNK + 5) < 0.5
    assert torch.equal(
        collect([pack(spikes)], [2], torch.int32), 2 * spikes.sum(0, dtype=torch.int32)
    )


@given(st.integers(1, 40), st.lists(st.integers(-5, 60), min_size=1))
def test_a_burst_is_one_spike_after_the_other_from_the_first_step_on(n_steps, counts):
    fired = unpack(burst(torch.tensor(counts), n_steps), n_steps)
    assert fired.sum(0).tolist() == [min(max(n, 0), n_steps) for n in counts]
    assert (fired[1:] <= fired[:-1]).all()


@pytest.mark.parametrize("n", [1, kernels.CHUNK, 3 * kernels.CHUNK + 5])
def test_every_chunk_on_every_thread_is_done_once(n):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        current = torch.randn(9, n)
        words = integrate(current, 0.5, 0.25)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(words, pack(integrate_and_fire(current, 0.5, 0.25)[0]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_can_fire_too():
    current = torch.randn(9, 4 * kernels.CHUNK)
    expected = integrate(current, 0.5, 0.25)
    if (child := os.fork()) == 0:
        os._exit(
            0 if np.array_equal(integrate(current, 0.5, 0.25).numpy(), expected.numpy()) else 1
        )
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(
    shutil.which("setpriv") is None or os.getuid() != 0,
    reason="takes root and setpriv to give up writing",
)
def test_without_a_place_for_the_compilers_cache_all_goes_on(tmp_path):
    package = Path(kernels.__file__).parents[2]
    shutil.copytree(package, tmp_path / "spikesep", ignore=shutil.ignore_patterns("__pycache__"))
    tmp_path.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import torch; from spikesep.spiking.spike_trains import packed; "
        "print(packed.count(torch.full((1, 3), 3).byte()))"
    )
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups"]
    if subprocess.run([*nobody, "test", "-x", sys.executable]).returncode:
        pytest.skip("this Python lies where only its owner may go")
    argv = [*nobody, sys.executable, "-c", code]
    environment = {
        **os.environ,
        "HOME": "/nonexistent",
        "PYTHONPATH": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    found = subprocess.run(
        argv, env=environment, cwd="/", capture_output=True, text=True, timeout=120
    )
    assert "tensor([2, 2, 2]" in found.stdout, found.stderr
