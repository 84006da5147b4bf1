"""The shipped spiking separator, by engine, against the fastest float32 way of its analog network.

Both separate the same conditioned samples in blocks of ten seconds, from samples to voices. Then:
what a command takes to start, of which importing torch is most.
"""

import copy
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from benchmarks.timing import Times, describe_machine, row, time_in_turn
from spikesep.separation.model.hub import find_model
from spikesep.separation.model.onnx import to_onnx
from spikesep.separation.model.separator import Separator, load_separator
from spikesep.spiking.engines import int8_products

BLOCK_SECONDS = 10
ENGINES = ("auto", "dense", "event")
HELP = "from spikesep.cli.infer import main; main(['--help'])"
SEPARATION = "import sys; from spikesep.cli.infer import main; main(sys.argv[1:])"


def separator(quick: bool) -> list[dict]:
    """Compare networks on half a minute of sound, and measure how commands start."""
    snn, ann = (load_separator(find_model("free-2mix", kind)) for kind in ("snn", "ann"))
    blocks = _blocks(2 if quick else 30, snn)
    counts_equal = _same_results(snn, blocks[0][: 2 * snn.sample_rate])
    contenders = {f"SNN, {name}": _separating(snn, name, blocks) for name in ENGINES}
    contenders |= _analog(ann, blocks, quick)
    times = time_in_turn(contenders, 1 if quick else 3, clock=_clock())
    best = min((name for name in times if name.startswith("ANN")), key=lambda n: times[n].median)
    more = {
        "machine": describe_machine(),
        "instructions": int8_products.instruction_set() or "float32",
        "clock": _clock().__name__,
    }
    seconds = sum(map(len, blocks)) / snn.sample_rate
    rows = [
        row(f"{name}, {seconds:g} s of sound", own, f"{best} (best)", times[best], equal, **more)
        for name, own in times.items()
        for equal in [counts_equal if name.startswith("SNN") else None]
    ]
    return rows + _starts(1 if quick else 5, more)


def _blocks(seconds: int, model: Separator) -> list[Tensor]:
    """Conditioned blocks of noise whose loudness goes up and down as that of syllables."""
    rng, n = np.random.default_rng(0), seconds * model.sample_rate
    steps = np.arange(0, n + 2000, 1000)
    voices = [
        np.interp(np.arange(n), steps, rng.random(len(steps)) ** 3) * rng.standard_normal(n)
        for _ in range(2)
    ]
    conditioner = model.conditioner()
    samples, _ = np.concatenate([conditioner.push(sum(voices)), conditioner.flush()], 1)
    return list(torch.from_numpy(samples).split(BLOCK_SECONDS * model.sample_rate))


def _same_results(model: Separator, samples: Tensor) -> bool:
    """Whether all engines fire the same spikes and return the same voices, to the bit."""
    found = []
    for name in ENGINES:
        fired: list[Tensor] = []

        def watch(_name, _layer, _signals, out, fired=fired) -> None:
            fired.extend(trains.words for trains in out.trains)

        model.network.use_engine(name)
        voices = model.separate_conditioned(samples, watch)
        found.append([voices, *fired])
    first, *others = found
    return all(len(first) == len(other) and all(map(torch.equal, first, other)) for other in others)


def _separating(model: Separator, engine: str, blocks: list[Tensor]) -> Callable[[], object]:
    def run() -> list[Tensor]:
        if engine:
            model.network.use_engine(engine)
        return [model.separate_conditioned(block) for block in blocks]

    return run


def _analog(model: Separator, blocks: list[Tensor], quick: bool) -> dict[str, Callable]:
    """Ways to run the analog network in float32."""
    folded = [Folded(model), Folded(model, two_dimensional=True), Folded(model)]
    folded[2].compile(dynamic=False)
    names = ("norms folded", "norms folded, channels last", "norms folded, torch.compile")
    networks = {"eager": model.network} | dict(zip(names, folded, strict=True))
    if quick:
        del networks[names[2]]
    ways: dict[str, Callable] = {}
    for name, network in networks.items():
        other = load_separator(find_model("free-2mix", "ann"))
        other.network = network  # type: ignore[assignment]
        ways[f"ANN, {name}"] = _separating(other, "", blocks)
    if quick:
        return ways
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ModuleNotFoundError:
        return ways
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    graph = to_onnx(model).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
    ways["ANN, onnxruntime"] = lambda: [
        session.run(None, {"mixture": block[None].numpy()}) for block in blocks
    ]
    return ways


class Folded(nn.Module):
    """The analog network as plain convolutions and ReLUs, with the norms folded into them.

    Args:
        model: the analog separator.
        two_dimensional: run as images of one line, whose channels lie last in memory.
    """

    def __init__(self, model: Separator, two_dimensional: bool = False):
        super().__init__()
        network = copy.deepcopy(model.network)
        for layer in network.layers.values():
            layer.fold()
        convolutions = [part.synapse for part in network.parts]
        if two_dimensional:
            convolutions = [_as_two_dimensional(conv) for conv in convolutions]
        parts = [part for conv in convolutions for part in (conv, nn.ReLU(inplace=True))][:-1]
        self.body, self.two_dimensional = nn.Sequential(*parts).eval(), two_dimensional

    def forward(self, x: Tensor, observe: object = None) -> Tensor:
        if not self.two_dimensional:
            return self.body(x)
        return self.body(x[:, :, None].contiguous(memory_format=torch.channels_last))[:, :, 0]


def _as_two_dimensional(conv: nn.Conv1d) -> nn.Conv2d:
    (size,), (padding,), (dilation,) = conv.kernel_size, conv.padding, conv.dilation
    made = nn.Conv2d(
        conv.in_channels, conv.out_channels, (1, size), padding=(0, padding), dilation=(1, dilation)
    )
    with torch.no_grad():
        made.weight.copy_(conv.weight[:, :, None])
        made.bias.copy_(conv.bias)
    made.weight.data = made.weight.data.contiguous(memory_format=torch.channels_last)
    return made


def _clock() -> Callable[[], float]:
    """Processor time where there is one thread: other processes then matter less."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _starts(rounds: int, more: dict) -> list[dict]:
    """What a process takes for help, and for separating three seconds, against `import torch`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "short.wav"
        soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(24000), 8000)
        given = [SEPARATION, str(file), "--out-dir", folder, "--overwrite"]
        commands = {"torch": ["import torch"], "--help": [HELP], "3 s of sound": given}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for k in range(1 + rounds):
            for name, command in commands.items():
                took = _processor_time([sys.executable, "-c", *command])
                if k:
                    seconds[name].append(took)
    times = {name: Times(tuple(values)) for name, values in seconds.items()}
    torch_alone = times.pop("torch")
    more = more | {"clock": "process_time"}
    return [
        row(f"spikesep-infer, {name}", own, "import torch", torch_alone, None, **more)
        for name, own in times.items()
    ]


def _processor_time(command: list[str]) -> float:
    """Seconds of processor time of a process, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
