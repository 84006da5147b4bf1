"""`spikesep-adapt`: adapt a separator to the voices of one's own recordings, in minutes."""

import math
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spikesep.cli.common import exit_on_signal, run

if TYPE_CHECKING:
    from spikesep.separation.adaptation.adapt import Outcome

NAMES = {"ann": "ANN", "snn": "SNN"}
MIXTURES = {"aligned": "same polarity", "turned": "one voice inverted"}
"""How the command names the sets of mixtures."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), adapt, argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="spikesep-adapt",
        description="Adapt a separator to the voices of your own recordings. An interrupted run "
        "resumes with the same command.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        type=str,
        help="model to start from: free-2mix or another shipped one, a folder with ann and snn, or "
        "org/name on the Hugging Face hub",
    )
    parser.add_argument(
        "recordings",
        type=Path,
        help="folder of recordings of one voice each: one folder per speaker, or files named "
        "SPEAKER-*.wav",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the adapted model and the run's state"
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="time budget of the whole run, with restarts"
    )
    parser.add_argument(
        "--epochs",
        type=int | None,
        default=None,
        help="epochs of each of the two stages, in place of the time budget, for a result that "
        "depends on the seed alone",
    )
    parser.add_argument(
        "--learning-rate", type=float, default=1e-3, help="peak learning rate of the ANN"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument(
        "--n-jobs", type=int, default=0, help="processes for reading and mixing; 0: one per core"
    )
    return parser


def adapt(options: Namespace) -> None:
    """Adapt the model, and print the scores before and after."""
    began = time.monotonic()
    from spikesep.separation.adaptation.adapt import adapt
    from spikesep.separation.adaptation.plan import AdaptationConfig

    config = AdaptationConfig(**{f.name: options[f.name] for f in fields(AdaptationConfig)})
    with exit_on_signal():
        outcome = adapt(options.model, options.recordings, options.out, config, began)
    Console().print(_table(outcome))
    for kind, name in NAMES.items():
        if kind not in outcome.adapted:
            print(f"{name}: adaptation did not help; {options.out / kind} is the original")
    print(f"adapted model: {options.out}")


def _table(outcome: "Outcome") -> Table:
    table = Table("network", "mixtures", title="SI-SDRi in dB, held-out recordings")
    for column in ("before", "after", "gain"):
        table.add_column(column, justify="right")
    table.add_column("kept")
    for kind, name in NAMES.items():
        kept = "adapted" if kind in outcome.adapted else "original"
        for mixtures, before in outcome.start[kind].items():
            after = outcome.result[kind][mixtures]
            values = (_decimal(before), _decimal(after), _decimal(after - before, "+"))
            table.add_row(name, MIXTURES[mixtures], *values, kept)
    return table


def _decimal(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.2f}"
