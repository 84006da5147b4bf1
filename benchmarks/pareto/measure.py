"""Measure quality and cost of the shipped model and of its variants: no training.

    OMP_NUM_THREADS=1 python -m benchmarks.pareto.measure --librispeech DIR

Separates aligned mixtures of voices that the model never heard, and writes the SI-SDR improvement
and the counted operations of each variant, with the machine and the commit that measured it. A file
that exists is completed, so that an interrupted run resumes.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pareto.mixtures import RATE, aligned_mixtures, read_voices
from benchmarks.pareto.variants import Variant, variants
from benchmarks.timing import describe_run
from spikesep.cli.common.run import print_error
from spikesep.errors import SpikeSepError
from spikesep.files import write_json
from spikesep.separation.audio.conditioning import condition
from spikesep.separation.inference.in_memory import Model, load_model
from spikesep.separation.scoring.metrics import score_utterance
from spikesep.spiking.cost import Cost

RESULTS = Path(__file__).parents[1] / "results" / "pareto"
CALIBRATION = 8
"""Mixtures of training voices for calibration."""


def main() -> None:
    """Measure the variants that the file lacks."""
    known = variants()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pareto.measure", description=__doc__
    )
    parser.add_argument("--librispeech", type=Path, required=True, help="folder of LibriSpeech")
    parser.add_argument("--only", choices=known, action="append", help="measure this variant")
    parser.add_argument("--count", type=int, default=24, help="number of mixtures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "measured.json")
    options = parser.parse_args()
    settings = {"count": options.count, "seed": options.seed}
    found: dict[str, Any] = {"settings": settings, "variants": {}}
    if options.out.exists():
        found = json.loads(options.out.read_text(encoding="utf-8"))
        if found["settings"] != settings:
            raise SpikeSepError(f"{options.out}: of {found['settings']}; give another --out")
    mixtures = aligned_mixtures(read_voices(options.librispeech, "tt"), options.count, options.seed)
    heard = read_voices(options.librispeech, "tr")
    for key in options.only or known:
        if key not in found["variants"]:
            row = measured(known[key], mixtures, heard, options.seed)
            found["variants"][key] = row | {"run": describe_run(options.seed)}
            write_json(options.out, found)
        row = found["variants"][key]
        print(f"{key}: {row['si_sdri']:.2f} dB, {row['seconds']:.1f} s of sound", flush=True)


def measured(
    variant: Variant, mixtures: list[np.ndarray], heard: dict[str, list[Path]], seed: int
) -> dict[str, Any]:
    """Return the quality of a variant, and its cost over all mixtures."""

    def inputs() -> list[torch.Tensor]:
        separator = load_model("free-2mix", "ann").separator
        found = []
        for sources in aligned_mixtures(heard, CALIBRATION, seed):
            samples, _ = condition(sources.sum(0), RATE)
            with torch.no_grad():
                found.append(separator.encode(torch.from_numpy(samples)[None])[0])
        return found

    model = Model(variant.make(inputs))
    cost, gains = Cost(), []
    for sources in mixtures:
        mixture = sources.sum(0)
        done = model.separate_recording(mixture, RATE, tracks="off")
        gains.append(score_utterance(done.estimates, sources, mixture, RATE, metrics=()).si_sdri)
        cost += done.cost
    return {
        "family": variant.family,
        "label": variant.label,
        "si_sdri": float(np.mean(gains)),
        "standard_error": float(np.std(gains, ddof=1) / len(gains) ** 0.5),
        "of_each_mixture": [round(gain, 3) for gain in gains],
        "seconds": sum(sources.shape[1] for sources in mixtures) / RATE,
        "cost": asdict(cost),
    }


if __name__ == "__main__":
    try:
        main()
    except SpikeSepError as error:
        sys.exit(print_error("python -m benchmarks.pareto.measure", error))
