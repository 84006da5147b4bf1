"""Tracks on simulated conversations: `python -m benchmarks.tracks --table TABLE`.

SI-SDR improvement with one assignment of voices to speakers for the whole conversation, with the
best assignment of each turn, and how often the best assignment changes; with tracks off, on, and in
a stream. Voices are those of the split `tt`, turned to one polarity.
"""

import argparse
from collections import defaultdict
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np

import spikesep
from benchmarks.dialogues import Dialogue, draw_dialogue
from benchmarks.timing import describe_machine
from spikesep.separation.audio.files import read_audio
from spikesep.separation.audio.polarity import polarity
from spikesep.separation.data.corpora.table import read_table

RATE = 8000
SECONDS = 150.0
LEAST_SPEECH = 5.0
"""Least speech of a person in a conversation, s."""


def main() -> None:
    """Score conversations; print a line for each and the means."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracks", description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="utterances of the recipe")
    parser.add_argument("--prefix", default="", help="take speakers whose ids begin with this")
    parser.add_argument("--count", type=int, default=8, help="number of conversations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default=None)
    parser.add_argument("--network", default=None)
    options = parser.parse_args()
    print(describe_machine())
    model = spikesep.load_model(options.model, options.network)
    voices = read_voices(options.table, options.prefix)
    rng, rows = np.random.default_rng(options.seed), []
    for _ in range(options.count):
        pair = rng.choice(sorted(voices), model.n_speakers, replace=False)
        dialogue = draw_dialogue([voices[name] for name in pair], SECONDS, RATE, rng)
        rows.append(score(model, dialogue))
        print(" ".join(pair), format_row(rows[-1]), flush=True)
    print("mean", format_row({name: float(np.mean([r[name] for r in rows])) for name in rows[0]}))


def read_voices(table: Path, prefix: str) -> dict[str, np.ndarray]:
    """Read the speech of each speaker who was held out, in one polarity."""
    pieces = defaultdict(list)
    for row in read_table(table):
        if row.split == "tt" and row.speaker.startswith(prefix):
            pieces[row.speaker].append(read_audio(row.path, RATE))
    voices = {name: np.concatenate(found) for name, found in pieces.items()}
    long = {name: voice for name, voice in voices.items() if len(voice) > LEAST_SPEECH * RATE}
    return {name: voice * polarity(voice[: 3 * RATE], RATE) for name, voice in long.items()}


def score(model: spikesep.Model, dialogue: Dialogue) -> dict[str, float]:
    """Return the figures of a conversation, by name."""
    mixture, sources = dialogue.mixture, dialogue.sources
    stream = model.track_stream(RATE)
    live = [stream.push(mixture[k : k + 4000]) for k in range(0, len(mixture), 4000)]
    voices = {
        "off": model.separate(mixture, RATE, tracks="off"),
        "file": model.separate(mixture, RATE),
        "stream": np.concatenate([*live, stream.flush()], axis=1),
    }
    before = np.mean([si_sdr(mixture, source) for source in sources])
    figures = {}
    for name, estimates in voices.items():
        turns, orders = best_of_each_turn(dialogue, estimates)
        figures[f"{name}, one"] = best_si_sdr(estimates, sources) - before
        figures[f"{name}, turns"] = best_si_sdr(turns, sources) - before
        figures[f"{name}, swaps"] = sum(a != b for a, b in pairwise(orders)) / (SECONDS / 60)
    return figures


def format_row(figures: dict[str, float]) -> str:
    """Format figures: dB, and swaps a minute."""
    return "  ".join(f"{name} {value:.2f}" for name, value in figures.items())


def si_sdr(estimate: np.ndarray, source: np.ndarray) -> float:
    """Return the SI-SDR of signals [T] in dB, without their means."""
    estimate, source = (x.astype(np.float64) - x.mean() for x in (estimate, source))
    target = (estimate @ source) / (source @ source) * source
    return float(10 * np.log10(np.square(target).sum() / np.square(target - estimate).sum()))


def best_si_sdr(estimates: np.ndarray, sources: np.ndarray) -> float:
    """Return the mean SI-SDR in dB for the best order of the estimates."""
    orders = permutations(range(len(sources)))
    return max(
        float(np.mean([si_sdr(estimates[k], s) for k, s in zip(order, sources, strict=True)]))
        for order in orders
    )


def best_of_each_turn(
    dialogue: Dialogue, estimates: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Order the estimates from each turn to the next as fits the sources best."""
    cuts = [0, *(turn.start for turn in dialogue.turns[1:]), dialogue.sources.shape[1]]
    ordered, orders = np.empty_like(estimates), []
    for start, stop in pairwise(cuts):
        agreement = estimates[:, start:stop] @ dialogue.sources[:, start:stop].T
        order = max(
            permutations(range(len(estimates))),
            key=lambda order: sum(agreement[k, s] for s, k in enumerate(order)),
        )
        ordered[:, start:stop] = estimates[list(order), start:stop]
        orders.append(order)
    return ordered, orders


if __name__ == "__main__":
    main()
