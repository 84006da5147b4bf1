"""`spikesep-score`: score the mixture, the analog and the spiking network, on heard and unheard voices."""

import shlex
import sys
from collections.abc import Sequence

from jsonargparse import Namespace
from rich.console import Console

from spikesep.cli.common import recipe_parser, run
from spikesep.files import read_json
from spikesep.training.processes.slurm import Resources

PROG = "spikesep-score"


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, score, print the table."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = recipe_parser(
        PROG, "Score both networks; leaves results.json, scores.csv and RESULTS.md in --exp."
    )
    parser.add_argument("--redo", action="store_true", help="score again what is scored already")
    parser.add_argument(
        "--shard",
        type=str | None,
        default=None,
        metavar="I/N",
        help="score part I of N only; run without it to finish",
    )
    run(
        parser,
        lambda options: _score(options, shlex.join([PROG, *argv])),
        argv,
        lambda launch: Resources(),
    )


def _score(options: Namespace, command: str) -> None:
    from spikesep.separation.scoring import (
        results,
        score,  # brings torch
    )

    data, exp, config = options.data, options.exp, options.scoring
    shard = score.Shard.parse(options.shard) if options.shard else None
    if not options.redo and score.is_scored(data, exp, config):
        found = read_json(exp / "results.json")
        print(
            f"{exp / 'results.json'}: complete, and models, data and metrics are unchanged; --redo scores again"
        )
    else:
        found = score.score(
            data,
            exp,
            config,
            options.launch.n_jobs,
            options.seed,
            redo=options.redo,
            command=command,
            shard=shard,
        )
        if shard:
            print(f"{exp}: part {shard.number} of {shard.of} is scored")
            return
        print(f"{exp / 'RESULTS.md'}: written, with results.json and scores.csv")
    Console().print(results.terminal_table(found))
