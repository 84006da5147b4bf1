"""Tracks in a stream, on simulated conversations: `python -m benchmarks.tracks --table TABLE`.

SI-SDR improvement with one assignment of voices to speakers for the whole conversation, with the
best assignment of each turn, and how often a speaker comes back on another voice; with tracks off,
on, and in a stream, which `spikesep-score` does not cover. Voices are those of the split `tt`,
turned to one polarity.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

import spikesep
from benchmarks.timing import describe_machine
from spikesep.separation.audio.files import read_audio
from spikesep.separation.audio.levels import active_level
from spikesep.separation.audio.polarity import polarity
from spikesep.separation.data.corpora.table import read_table
from spikesep.separation.data.simulation.conversation import draw_conversation, fade_edges
from spikesep.separation.mixing_config import ConversationConfig
from spikesep.separation.scoring.conversation import score_turns
from spikesep.separation.scoring.metrics import score_utterance
from spikesep.separation.tracks.rttm import Turn

RATE = 8000
SECONDS = 150.0
LEAST_SPEECH = 5.0
"""Least speech of a person in a conversation, s."""
LEVEL_DB = -25.0
"""Active level of every voice."""


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
        sources, turns = make_conversation([voices[name] for name in pair], rng)
        rows.append(score(model, sources, turns))
        print(" ".join(pair), format_row(rows[-1]), flush=True)
    print("mean", format_row({name: float(np.mean([r[name] for r in rows])) for name in rows[0]}))


def read_voices(table: Path, prefix: str) -> dict[str, np.ndarray]:
    """Read the speech of each speaker who was held out, in one polarity and at one level."""
    pieces = defaultdict(list)
    for row in read_table(table):
        if row.split == "tt" and row.speaker.startswith(prefix):
            pieces[row.speaker].append(read_audio(row.path, RATE))
    voices = {name: np.concatenate(found) for name, found in pieces.items()}
    return {
        name: voice
        * polarity(voice[: 3 * RATE], RATE)
        * 10 ** ((LEVEL_DB - active_level(voice, RATE)) / 20)
        for name, voice in voices.items()
        if len(voice) > LEAST_SPEECH * RATE
    }


def make_conversation(
    voices: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, list[Turn]]:
    """Let people talk in turn; each turn is a random part of the speech of one of them.

    Returns:
        The voices, float32 [n_speakers, T], and the turns.
    """
    sources, turns = np.zeros((len(voices), round(SECONDS * RATE)), np.float32), []
    for turn in draw_conversation(rng, len(voices), SECONDS, ConversationConfig()):
        voice, start = voices[turn.speaker], round(turn.start * RATE)
        length = min(round((turn.end - turn.start) * RATE), len(voice), sources.shape[1] - start)
        first = int(rng.integers(len(voice) - length + 1))
        part = fade_edges(voice[first : first + length], RATE)
        sources[turn.speaker, start : start + length] = part
        turns.append(Turn(turn.start, turn.start + length / RATE, turn.speaker + 1))
    return sources, turns


def score(model: spikesep.Model, sources: np.ndarray, turns: list[Turn]) -> dict[str, float]:
    """Return the figures of a conversation, by name."""
    mixture, stream = sources.sum(0), model.track_stream(RATE)
    live = [stream.push(mixture[k : k + 4000]) for k in range(0, len(mixture), 4000)]
    voices = {
        "off": model.separate(mixture, RATE, tracks="off"),
        "file": model.separate(mixture, RATE),
        "stream": np.concatenate([*live, stream.flush()], axis=1),
    }
    figures = {}
    for name, estimates in voices.items():
        whole = score_utterance(estimates, sources, mixture, RATE, metrics=())
        by_turn = score_turns(estimates, sources, mixture, turns, RATE)
        figures[f"{name}, one"] = whole.si_sdri
        gain = by_turn["si_sdr_turns"] - (whole.si_sdr - whole.si_sdri)
        figures |= {f"{name}, turns": gain, f"{name}, swaps": by_turn["swaps"]}
    return figures


def format_row(figures: dict[str, float]) -> str:
    """Format figures: dB, and swaps a minute."""
    return "  ".join(f"{name} {value:.2f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
