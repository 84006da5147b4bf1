"""Every example of docs/python.md runs, one after the other, as a reader would type it."""

import re
from pathlib import Path

import numpy as np
import soundfile
import torch

from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model import Separator, save_separator
from spikesep.spiking.fixed_point import to_fixed_point
from spikesep.spiking.signal import Coding

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_every_example_of_the_page_runs(tmp_path, monkeypatch):
    torch.manual_seed(0)
    separator = Separator(SeparatorConfig(n_filters=16, n_channels=12, dilations=[1, 2])).eval()
    for layer in separator.network.layers.values():
        layer.convert(0.2, Coding(8))
        layer.freeze()
    to_fixed_point(separator.network, [separator.encode(torch.randn(1, 4000))[0]])
    save_separator(separator, tmp_path / "exp" / "default" / "snn")
    noise = np.random.default_rng(0).normal(0, 0.1, (12000, 2)).clip(-1, 1)
    soundfile.write(tmp_path / "recording.wav", noise, 16000, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    examples = list(re.finditer(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S))
    assert len(examples) == 7
    names: dict[str, object] = {}
    for example in examples:
        line = PAGE.read_text(encoding="utf-8")[: example.start(1)].count("\n")
        exec(compile("\n" * line + example[1], PAGE, "exec"), names)
