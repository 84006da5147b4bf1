"""`spikesep-score`: score the mixtures, the analog and the spiking network (stage 4)."""

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
    """Entry point."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = recipe_parser(
        PROG,
        "Score both networks, and write results.json, scores.csv and RESULTS.md to --exp. An "
        "interrupted run resumes.",
    )
    parser.add_argument(
        "--redo", action="store_true", help="score again even if scores of the same inputs exist"
    )
    parser.add_argument(
        "--shard",
        type=str | None,
        default=None,
        metavar="I/N",
        help="score only part I of N; once all parts are scored, run without it to finish",
    )
    command = shlex.join([PROG, *argv])
    run(parser, lambda options: score(options, command), argv, lambda launch: Resources())


def score(options: Namespace, command: str) -> None:
    """Score unless complete scores exist, and print the table."""
    from spikesep.separation.scoring import by_voices, results  # imports torch
    from spikesep.separation.scoring.inputs import find_modes, is_scored
    from spikesep.separation.scoring.score import Shard, score_experiment, set_energy_table

    data, exp, config = options.data, options.exp, options.scoring
    modes = find_modes(data, options.mixing)
    shard = Shard.parse(options.shard) if options.shard else None
    if not options.redo and is_scored(data, exp, config, modes):
        found = read_json(exp / "results.json")
        set_energy_table(exp, found, config.energy_table)
        print(
            f"{exp / 'results.json'}: complete, and models, data and metrics are unchanged; "
            "--redo scores again"
        )
    else:
        found = score_experiment(
            data,
            exp,
            config,
            modes=modes,
            n_jobs=options.launch.n_jobs,
            seed=options.seed,
            redo=options.redo,
            command=command,
            shard=shard,
        )
        if found is None:
            print(f"{exp}: part {options.shard.replace('/', ' of ')} is scored")
            return
        print(f"{exp / 'RESULTS.md'}: written, with results.json and scores.csv")
    Console().print(results.terminal_table(found))
    if by_voices.is_shown(found):
        Console().print(by_voices.terminal_table(found))
