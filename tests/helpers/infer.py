"""Calls of `spikesep-infer`, and recordings for it."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spikesep.cli.infer import main

COMMAND = [sys.executable, "-c", "from spikesep.cli.infer import main; main()"]
"""The command as a process of its own."""


def environment() -> dict[str, str]:
    """Return the environment of a process that imports from the same places as this one."""
    return {**os.environ, "PYTHONPATH": ":".join(sys.path)}


def infer(*argv: object) -> int:
    """Run the command in this process and return its exit status."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    return ended.value.code


def tone(n: int, channels: int = 1) -> np.ndarray:
    """Return a tone with noise, float32 [n, channels]."""
    rng = np.random.default_rng(0)
    samples = np.sin(np.arange(n) * 0.3)[:, None] * 0.2 + rng.normal(0, 0.02, (n, channels))
    return samples.astype(np.float32)


def write_tones(folder: Path, *names: str, n: int = 800, rate: int = 8000) -> None:
    """Write a tone of `n` samples to each of these files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, tone(n), rate)


def wav(samples: np.ndarray, rate: int, subtype: str = "PCM_16") -> bytes:
    """Encode samples as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def tree(folder: Path) -> list[str]:
    """List all files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
