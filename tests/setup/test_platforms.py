"""Differences of other systems, as far as they can be simulated on this one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import ROOT

from spikesep.separation.audio.files import read_channels, write_wav

ELSEWHERE = """
import multiprocessing, os, signal, sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module="spikesep")
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in ("sched_getaffinity", "geteuid"):
    delattr(os, name)
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from spikesep.cli import {module}
    {module}.main(sys.argv[1:])
"""
"""Runs a command without file locks and Linux-only functions, with spawned processes.

Opening text files in the encoding of the locale, which is not UTF-8 on Windows, is an error.
"""


def run_elsewhere(module: str, tmp_path: Path, *arguments: object, **variables: str):
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE.format(module=module))
    root = str(ROOT)
    environment = os.environ | {"PYTHONPATH": root, "PYTHONWARNDEFAULTENCODING": "1"} | variables
    command = [sys.executable, script, *arguments]
    return subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        timeout=300,
        cwd=tmp_path,
    )


@pytest.mark.slow
def test_separation_by_spawned_processes_in_an_ascii_locale(tmp_path):
    time = np.arange(8000) / 8000
    for name in ("Gespr\u00e4ch", "\u8a71"):
        write_wav(tmp_path / f"{name}.wav", (0.3 * np.sin(2000 * time)).astype(np.float32), 8000)
    options = ["--network", "ann", "--out-dir", "voices", "--jobs", 2]
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_elsewhere("infer", tmp_path, tmp_path, *options, **ascii_locale)
    assert done.returncode == 0, done.stderr
    assert read_channels(tmp_path / "voices" / "Gespr\u00e4ch_spk1.wav")[0].shape == (1, 8000)
    assert len(list((tmp_path / "voices").iterdir())) == 4


@pytest.mark.slow
def test_corpus_preparation_by_spawned_processes(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(8):
        for n in range(3):
            level = np.repeat(rng.choice([0.02, 0.3, 1.0], 24), 1000) * rng.uniform(0.2, 0.4)
            path = tmp_path / "corpus" / f"spreker\u00ef{k}" / f"{n}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_wav(
                path,
                (level * np.sin(0.05 * (k + 1) * np.cumsum(1 + level))).astype(np.float32),
                8000,
            )
    options = ["--corpus.name", "folder", "--corpus.root", "corpus", "--launch.n_jobs", 2]
    options += ["--corpus.as_published", "true"]  # otherwise tones would be excluded as non-speech
    for command in ("corpus", "mixtures"):
        counts = ["--mixing.n_train", 40, "--mixing.n_closed", 4, "--mixing.n_open", 4]
        done = run_elsewhere("prepare", tmp_path, command, "--data", "data", *options, *counts)
        assert done.returncode == 0, done.stderr
    assert (
        len((tmp_path / "data" / "tr" / "wav.scp").read_text(encoding="utf-8").splitlines()) == 40
    )
