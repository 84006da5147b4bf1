"""What the band above the network's brings, on LibriSpeech voices that it never heard.

python tools/measure_band.py --table data/local/utterances.tsv

Mixtures of two voices of the split `tt` at 16 kHz, turned to one polarity, as with one microphone.
With `--fit`, it prints the weights of `HighBands` that are best for mixtures of the split `tr`.
"""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

import spikesep
from spikesep.separation.audio.resampling import resample
from spikesep.separation.config import MixingConfig
from spikesep.separation.data.corpora.table import read_table
from spikesep.separation.data.mixing.balanced import (
    load_recording,
    mix,
    plan_mixtures,
    with_polarity,
)
from spikesep.separation.data.mixing.plan import PlannedMixture, Version
from spikesep.separation.inference.band.high_bands import WEIGHTS, HighBands
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
    parser.add_argument("--fit", action="store_true", help="fit the weights of the shares instead")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    mixing = MixingConfig(rates=["16k"], polarity="aligned")
    split, table = "tr" if options.fit else "tt", read_table(options.table)
    plan = plan_mixtures(table, split, options.count, mixing, options.seed)
    models = {
        band: spikesep.load_model(options.model, options.network, band=band) for band in BANDS
    }
    found: dict[str, list[tuple[float, float]]] = {band: [] for band in BANDS}
    with Workers(1) as workers:
        plan = with_polarity(plan, mixing.polarity, workers, "mixtures")
    if options.fit:
        print("weights", *(f"{weight:.3f}" for weight in fit(models["network"], plan)))
        return
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


def fit(model: spikesep.Model, plan: list[PlannedMixture]) -> np.ndarray:
    """Return the weights whose shares leave the least squared error above the network's band."""
    examples = []
    for planned in plan:
        mixture, sources = render(planned)
        voices = model.separate(mixture, RATE, tracks="off")
        order = score_utterance(voices, sources, mixture, RATE, metrics=()).permutation
        low = resample(resample(sources, RATE, model.sample_rate), model.sample_rate, RATE)
        examples.append((mixture, voices[list(order)], sources - low[:, : len(mixture)]))

    def error(weights: np.ndarray) -> float:
        shares = []
        for mixture, voices, high in examples:
            bands = HighBands(len(voices), RATE, model.sample_rate, weights=list(weights))
            full = np.concatenate([bands.push(voices, mixture), bands.flush()], axis=1)
            shares.append(np.square(full - voices - high).sum() / np.square(high).sum())
        return float(np.mean(shares))

    found = minimize(error, WEIGHTS, method="Nelder-Mead", options={"xatol": 0.005, "fatol": 1e-4})
    print(f"relative squared error {found.fun:.4f}, of equal weights {error(np.zeros(3)):.4f}")
    return found.x


def render(planned: PlannedMixture) -> tuple[np.ndarray, np.ndarray]:
    """Return a mixture [T] and its sources [2, T] at 16 kHz."""
    voices = [load_recording(row.path, (RATE,)) for row in planned.utterances]
    signals, _ = mix(planned, voices, Version(RATE, "cut"))
    mixture, *sources = (signals[name] / np.float32(32768) for name in ("mix", "s1", "s2"))
    return mixture, np.stack(sources)


if __name__ == "__main__":
    main()
