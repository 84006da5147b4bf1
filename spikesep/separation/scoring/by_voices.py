"""Mean scores by mode, condition and number of voices, and those of conversations.

The table of `results` has the mixtures of the first mode with two voices or more, as in the paper;
this one has all of them.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from spikesep.separation.scoring.results import CONDITIONS, METRICS, decimal
from spikesep.separation.scoring.voices import TRACKS

COLUMNS = ("heard", "silence", "si_sdri_turns", "swaps", "quiet", "der")
"""Scores of a mixture besides the metrics."""
TITLES = {
    "si_sdri_turns": "SI-SDRi by turn (dB)",
    "swaps": "Swaps a minute",
    "quiet": "Quiet (dB)",
    "der": "DER (%)",
    "silence": "Silence (dB)",
    "counted": "Counted (%)",
}
METHODS = {
    "mixture": "Mixture",
    "ann": "ANN",
    f"ann{TRACKS}": "ANN, tracks",
    "snn": "SNN",
    f"snn{TRACKS}": "SNN, tracks",
}
NOTES = {
    "si_sdri_turns": "SI-SDRi by turn is that with the best assignment of outputs to speakers in "
    "each turn; SI-SDRi has one assignment for the whole mixture.",
    "swaps": "A swap is a speaker who comes back on another output than before.",
    "quiet": "Quiet is the level of a silent speaker's voice below those of the others.",
    "der": "DER is the diarization error of the tracks by pyannote.metrics, overlaps included, "
    "with a collar of 0.25 s.",
    "silence": "Silence is the level below the mixture of outputs for which there is no voice.",
    "counted": "Counted is the share of mixtures in which as many voices are heard as there are.",
}

Row = dict[str, Any]
"""Mode, condition, number of voices and of mixtures, and `scores` by method."""


def summarize(records: Sequence[dict], metrics: Iterable[str]) -> list[Row]:
    """Compute mean scores of each mode, condition and number of voices.

    A mixture for which a metric is undefined with one method does not count for any.
    """
    modes = list(dict.fromkeys(record["mode"] for record in records))
    names = ["si_sdr", "si_sdri", *metrics]

    def place(record: dict) -> tuple[int, int, int]:
        condition = list(CONDITIONS).index(record["condition"])
        return modes.index(record["mode"]), condition, record["voices"]

    rows = []
    for _, group in groupby(sorted(records, key=place), place):
        chosen = list(group)
        about = {name: chosen[0][name] for name in ("mode", "condition", "voices")}
        scores = {
            method: _means([r for r in chosen if method in r["scores"]], method, names)
            for method in METHODS
            if any(method in record["scores"] for record in chosen)
        }
        rows.append({**about, "n": len(chosen), "scores": scores})
    return rows


def _means(records: Sequence[dict], method: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the means of a method that are defined for any of the records."""
    found = [record["scores"][method] for record in records]
    means = {}
    for name in names:
        means[name] = _mean(
            record["scores"][method][name]
            for record in records
            if not any(name in scores["refused"] for scores in record["scores"].values())
        )
    for name in ("silence", "si_sdri_turns", "swaps", "quiet"):
        means[name] = _mean(scores.get(name) for scores in found)
    speech = [scores["speech"] for scores in found if scores.get("der") is not None]
    if sum(speech) > 0:  # errors and speech of all conversations together
        means["der"] = float(np.average([s["der"] for s in found if s.get("der") is not None],
                                        weights=speech))  # fmt: skip
    if all("heard" in scores for scores in found):
        right = [s["heard"] == r["voices"] for s, r in zip(found, records, strict=True)]
        means["counted"] = 100 * float(np.mean(right))
    return {name: value for name, value in means.items() if value is not None}


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def is_shown(results: dict[str, Any]) -> bool:
    """Whether the table says more than that of `results`."""
    rows = results.get("by_voices", [])
    conversations = any("swaps" in scores for row in rows for scores in row["scores"].values())
    varied = len({(row["mode"], row["voices"]) for row in rows}) > 1
    return varied or conversations or any(row["voices"] < 2 for row in rows)


def columns(results: dict[str, Any]) -> list[str]:
    """Return the scores that some mixture has, in the order of the table."""
    found = {
        name for row in results["by_voices"] for scores in row["scores"].values() for name in scores
    }
    return [name for name in (*METRICS, *TITLES) if name in found]


def table_rows(
    results: dict[str, Any], format_value: Callable[[float | None, str], str] = decimal
) -> list[tuple[list[str], list[str]]]:
    """Return mode, condition, number of voices and of mixtures, method; and formatted scores."""
    names = columns(results)
    return [
        (
            [row["mode"], CONDITIONS[row["condition"]], str(row["voices"]), str(row["n"]), title],
            [format_value(row["scores"][method].get(name), name) for name in names],
        )
        for row in results["by_voices"]
        for method, title in METHODS.items()
        if method in row["scores"]
    ]


def markdown(results: dict[str, Any]) -> list[str]:
    """Return the lines of the table and its notes for `RESULTS.md`; none if it is not shown."""
    if not is_shown(results):
        return []
    names = columns(results)
    head = ["Mode", "Cond.", "Voices", "Mixtures", "Method", *(title_of(name) for name in names)]
    align = [*["---"] * 2, *["---:"] * 2, "---", *["---:"] * len(names)]
    rows = [[*about, *values] for about, values in table_rows(results)]
    lines = [f"| {' | '.join(row)} |" for row in (head, align, *rows)]
    return ["## By number of voices", "", *lines, "", " ".join(notes(results)), ""]


def title_of(name: str) -> str:
    """Return the title of a column."""
    return METRICS.get(name) or TITLES[name]


def notes(results: dict[str, Any]) -> list[str]:
    """Return a sentence on each column that the table of `results` lacks."""
    return [NOTES[name] for name in columns(results) if name in NOTES]


def terminal_table(results: dict[str, Any]) -> Table:
    """Return the scores of the spiking network, for a terminal with 80 columns."""
    shown = ["si_sdri", *(name for name in columns(results) if name in TITLES)]
    table = Table(box=box.SIMPLE_HEAD, caption="SNN, by number of voices; RESULTS.md has all")
    for name in ("", "", "V.", ""):
        table.add_column(name, no_wrap=True)
    for name in shown:
        table.add_column(title_of(name).partition(" (")[0], justify="right")
    for row in results["by_voices"]:
        for method, label in (("snn", ""), (f"snn{TRACKS}", "tracks")):
            if scores := row["scores"].get(method):
                about = [row["mode"], CONDITIONS[row["condition"]], str(row["voices"]), label]
                table.add_row(*about, *(decimal(scores.get(name), name) for name in shown))
    return table
