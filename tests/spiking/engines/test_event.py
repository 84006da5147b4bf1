import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.compilation import has
from spikesep.spiking.engines import event, event_lists

WAYS = [
    pytest.param(
        True,
        marks=pytest.mark.skipif(
            not event_lists.COMPRESSES, reason="this processor has no AVX-512 VBMI2"
        ),
        id="by 64",
    ),
    pytest.param(False, id="by 8"),
]


@pytest.mark.parametrize("compresses", WAYS)
@settings(max_examples=40)
@given(
    n_steps=st.integers(1, 33),
    n_rows=st.integers(1, 200),
    n_channels=st.sampled_from([1, 7, 8, 63, 64, 65, 130, 200]),
    rate=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    seed=st.integers(0, 100),
)
def test_lists_hold_the_channels_that_fire_in_order(
    compresses, n_steps, n_rows, n_channels, rate, seed
):
    spikes = np.random.default_rng(seed).random((n_steps, n_rows, n_channels)) < rate
    words = np.packbits(spikes, axis=0, bitorder="little")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_lists, "COMPRESSES", compresses)
        offsets, channels = event._lists(words, n_steps)
    for row in range(n_rows):
        for step in range(n_steps):
            found = channels[offsets[row, step] : offsets[row, step + 1]]
            np.testing.assert_array_equal(found, np.flatnonzero(spikes[step, row]))


FLAGS = {"avx2": "avx2", "avx512bw": "avx512bw", "avx512vbmi2": "avx512_vbmi2"}
"""Names of features in LLVM and in Linux."""


@pytest.mark.parametrize("feature", FLAGS)
def test_features_are_those_of_the_processor(feature):
    cpuinfo = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    if flags is None or {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"} & set(os.environ):
        pytest.skip("the features of the processor are not known here, or overridden")
    assert has(feature) == (FLAGS[feature] in flags[1].split())
