import subprocess
import sys

import numpy as np
import pytest
from scipy.signal import firwin

from spikesep.separation.audio.resampling import _lowpass


@pytest.mark.parametrize("factor", [2, 3, 6, 160, 441, 4451, 32767])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_filter_is_identical_to_scipys(factor, dtype):
    expected = firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0)).astype(dtype)
    np.testing.assert_array_equal(_lowpass(factor, np.dtype(dtype)), expected)


MEASURE = """
import resource, numpy as np
from spikesep.separation.audio.resampling import resample
from spikesep.separation.audio.resampling import Resampler
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
resample(np.zeros(100, np.float32), 16000, 8000)
before, resampler, n = peak(), Resampler(400_009, 8000), 0
for _ in range(8):
    n += len(resampler.push(np.ones(2**17, np.float32)))
print(peak() - before, n)
"""


def test_rates_without_a_common_factor_need_bounded_memory():
    argv = [sys.executable, "-c", MEASURE]
    printed = subprocess.run(
        argv, check=True, capture_output=True, env={"PYTHONPATH": ":".join(sys.path)}
    ).stdout
    megabytes, n = map(float, printed.split())
    assert n == 16000
    assert megabytes < 250
