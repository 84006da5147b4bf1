"""What the band above the network's brings, on LibriSpeech voices that it never heard.

python tools/measure_band.py --table data/local/utterances.tsv

Mixtures of two voices of the split `tt` at 16 kHz, turned to one polarity, as with one microphone.
"""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np

import spikesep
from spikesep.separation.config import MixingConfig
from spikesep.separation.data.corpora.table import read_table
from spikesep.separation.data.mixing.balanced import (
    load_recording,
    mix,
    plan_mixtures,
    with_polarity,
)
from spikesep.separation.data.mixing.plan import PlannedMixture, Version
from spikesep.separation.scoring.metrics import score_utterance
from spikesep.workers import Workers

RATE = 16000
BANDS = ("network", "full")


def main() -> None:
    """Score both bands on the same mixtures; print the means and the gain of each mixture."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="utterances of egs/free-2mix")
    parser.add_argument("--model", default=None)
    parser.add_argument("--network", default=None)
    parser.add_argument("--tracks", choices=("auto", "off"), default="off")
    parser.add_argument("--count", type=int, default=24, help="number of mixtures")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    mixing = MixingConfig(rates=["16k"], polarity="aligned")
    plan = plan_mixtures(read_table(options.table), "tt", options.count, mixing, options.seed)
    models = {
        band: spikesep.load_model(options.model, options.network, band=band) for band in BANDS
    }
    found: dict[str, list[tuple[float, float]]] = {band: [] for band in BANDS}
    with Workers(1) as workers:
        plan = with_polarity(plan, mixing.polarity, workers, "mixtures")
    for planned in plan:
        mixture, sources = render(planned)
        for band, model in models.items():
            voices = model.separate(mixture, RATE, tracks=options.tracks)
            scores = score_utterance(voices, sources, mixture, RATE, metrics=("pesq",))
            found[band].append((scores.si_sdri, scores.pesq))
    means = {band: np.mean(rows, axis=0) for band, rows in found.items()}
    for band, (si_sdri, pesq) in means.items():
        print(f"{band:8}SI-SDRi {si_sdri:.2f} dB, wide-band PESQ {pesq:.3f}")
    gains = np.subtract(found["full"], found["network"])
    for name, gain in zip(("SI-SDRi", "PESQ"), gains.T, strict=True):
        print(f"{name}: full gains {gain.mean():+.3f}, {(gain > 0).sum()} of {len(gain)} mixtures")


def render(planned: PlannedMixture) -> tuple[np.ndarray, np.ndarray]:
    """Return a mixture [T] and its sources [2, T] at 16 kHz."""
    voices = [load_recording(row.path, (RATE,)) for row in planned.utterances]
    signals, _ = mix(planned, voices, Version(RATE, "cut"))
    mixture, *sources = (signals[name] / np.float32(32768) for name in ("mix", "s1", "s2"))
    return mixture, np.stack(sources)


if __name__ == "__main__":
    main()
