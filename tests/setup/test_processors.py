"""Code that adapts to the processor, run with its instructions masked down to AVX2."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.experiments import write_mixtures
from helpers.paths import ROOT

HASWELL = (
    "+avx,+avx2,+bmi,+bmi2,+cmov,+cx16,+cx8,+f16c,+fma,+fsgsbase,+fxsr,+invpcid,+lzcnt,+mmx,"
    "+movbe,+pclmul,+popcnt,+rdrnd,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+xsaveopt"
)
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": HASWELL,
}
TESTS = (
    "spiking/engines/test_engines.py",
    "spiking/engines/test_event.py",
    "spiking/engines/test_int8_products.py",
    "training/test_optimizer.py",
)


def has_avx2() -> bool:
    import torch

    return bool(torch.cpu.get_capabilities().get("avx2"))


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_avx2(), reason="this processor has no AVX2"),
]


def run(argv, **environment):
    given = os.environ | AVX2 | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | environment
    return subprocess.run(argv, cwd=ROOT, env=given, capture_output=True, text=True)


def test_engines_and_optimizers_pass_their_tests_with_avx2():
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        *(str(ROOT / "tests" / name) for name in TESTS),
    ]
    ended = run(argv)
    assert ended.returncode == 0, ended.stdout
    assert " passed" in ended.stdout


def test_recipe_runs_with_avx2_and_fires_the_same_spikes_here(tmp_path):
    ended = run([sys.executable, __file__, tmp_path])
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["fast"] == {"bf16": False, "int8": "avx2", "lists of 32": False}
    assert (tmp_path / "exp" / "RESULTS.md").exists()
    assert found["spikes"] == spikes(tmp_path / "exp" / "snn")


def recipe(folder: Path) -> None:
    """Train, convert and score a tiny network."""

    from helpers.separators import tiny_config

    from spikesep.separation.config import (
        RecipeConfig,
        ScoringConfig,
        SpeechConversionConfig,
        SpeechPretrainConfig,
    )
    from spikesep.separation.experiment import convert_snn, train_ann
    from spikesep.separation.scoring.score import score_experiment

    for number, name in enumerate(("tr", "cv", "tt")):
        write_mixtures(folder / "data" / name, seed=number)
    config = RecipeConfig(
        model=tiny_config(identity="sum"),
        train=SpeechPretrainConfig(
            epochs=2, segment_seconds=0.5, batch_size=2, optimizer="muon", schedule="cosine"
        ),
        convert=SpeechConversionConfig(n_steps=9, max_epochs=1, segment_seconds=0.5),
    )
    train_ann(folder / "data", folder / "exp", config)
    convert_snn(folder / "data", folder / "exp", config)
    scoring = ScoringConfig(metrics=[], max_utterances=1)
    score_experiment(folder / "data", folder / "exp", scoring, n_jobs=1)


def spikes(own: Path) -> dict[str, str]:
    """Hash all spikes of a network and of the shipped one, on each engine."""
    import torch

    from spikesep.separation.model.hub import find_model
    from spikesep.separation.model.separator import load_separator

    digests = {}
    for name, path in (("own", own), ("shipped", find_model(network="snn"))):
        model = load_separator(path)
        mixture = 0.1 * torch.randn(3000, generator=torch.Generator().manual_seed(1))
        for engine in ("auto", "dense", "event"):
            digest = hashlib.sha256()

            def watch(name, layer, signal, out, digest=digest):
                for trains in out.trains:
                    digest.update(trains.words.contiguous().numpy().tobytes())

            model.network.use_engine(engine)
            model.separate(mixture, watch)
            digests[f"{name}, {engine}"] = digest.hexdigest()
    assert len(set(digests.values())) == 2  # the engines agree
    return digests


def main(folder: Path) -> None:
    import torch

    from spikesep.spiking.engines import event_lists, int8_products
    from spikesep.training.precision import supports_bf16

    recipe(folder)
    fast = {
        "bf16": supports_bf16(torch.device("cpu")),
        "int8": int8_products.instruction_set(),
        "lists of 32": event_lists.COMPRESSES,
    }
    print(json.dumps({"fast": fast, "spikes": spikes(folder / "exp" / "snn")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
