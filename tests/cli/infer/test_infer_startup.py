"""What `spikesep-infer` imports: most of the time of a short run goes into that."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

SLOW = {"torch", "numba", "scipy", "numpy", "rich", "soundfile", "av"}
"""Not needed to print help or to refuse an option."""
UNNEEDED = {
    "asteroid", "IPython", "jinja2", "librosa", "matplotlib", "onnx", "onnxruntime", "pandas",
    "pytorch_lightning", "scipy.linalg", "scipy.signal", "sklearn", "torchaudio", "torchmetrics",
    "torchvision",
}  # fmt: skip
"""Not needed to separate a recording at the network's rate."""
RUN = """
import json, sys
from spikesep.cli.infer import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(json.dumps([end.code, *sys.modules]))
"""


def run(*arguments):
    """Exit status and modules of a process of its own."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    status, *modules = json.loads(ended.stdout.splitlines()[-1])
    return status, set(modules)


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--unknown", 2)])
def test_help_and_refusals_import_nothing_slow(option, status):
    ended, modules = run(option)
    assert ended == status
    assert not modules & SLOW


def test_a_separation_imports_neither_training_nor_other_formats(tmp_path):
    file = tmp_path / "short.wav"
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(4000), 8000)
    status, modules = run(file, "--out-dir", tmp_path)
    assert status == 0
    assert (tmp_path / "short_spk2.wav").exists()
    assert "torch" in modules
    assert not modules & UNNEEDED


def test_another_rate_is_resampled_behind_such_a_start(tmp_path):
    """SciPy's linear algebra, which the start leaves out, can still be imported."""
    file = tmp_path / "wide.wav"
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    status, modules = run(file, "--out-dir", tmp_path)
    assert status == 0
    assert {"scipy.signal", "scipy.linalg"} <= modules
