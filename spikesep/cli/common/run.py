"""Run a command: parse, lock its folder, act, and end with a status and at most one line."""

import atexit
import gc
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace

from jsonargparse import ArgumentError as ParseError
from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common.config_file import setting_names, suggestion
from spikesep.cli.common.process import escape_unencodable, open_closed_streams
from spikesep.errors import SpikeSepError, SpikeSepWarning
from spikesep.files import explain_full_disk, lock_folder
from spikesep.training.config import LaunchConfig, is_first_process
from spikesep.training.processes.slurm import Resources, in_job, run_jobs, this_program

TRAINING_PACKAGES = {
    "asteroid", "espeakng_loader", "librosa", "matplotlib", "pesq", "pyannote", "pyloudnorm",
    "pystoi", "pytorch_lightning", "tensorboard", "torchaudio", "torchmetrics", "torchvision",
}  # fmt: skip
"""Modules of the extra `train`, which are not needed to separate recordings."""

Action = Callable[[Namespace], int | None]
Needs = Callable[[LaunchConfig], Resources]


def run(
    parser: ArgumentParser,
    action: Action,
    argv: Sequence[str] | None = None,
    needs: Needs | None = None,
    *,
    locks: bool = True,
) -> None:
    """Parse the arguments, act, and exit.

    The exit status is 0, or what `action` returns, or 2 after one line on standard error, or 130
    after Ctrl-C.

    Args:
        parser: parser of the command.
        action: what the command does with the parsed options.
        argv: arguments; None for those of this process.
        needs: resources that the command needs. With `--launch.launcher slurm` it then runs as a
            job, or, if it takes `--shard`, as one job per shard and one that merges them.
        locks: whether the command writes to `--exp` or `--data`, which is then locked.
    """
    # Skips a last garbage collection at exit, which takes a second with torch loaded.
    atexit.register(gc.freeze)
    open_closed_streams()
    escape_unencodable()
    try:
        with _print_warnings(parser.prog):
            options = parser.instantiate(parser.parse_args(argv))
        if needs and options.launch.launcher == "slurm" and not in_job():
            arguments = list(sys.argv[1:] if argv is None else argv)
            status = _run_as_jobs(parser.prog, arguments, options, needs)
        else:
            lock = _locked_folder(options) if locks else nullcontext()
            with _print_warnings(parser.prog), lock:
                status = action(options)
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        status = 130
    except (ParseError, SpikeSepError, ModuleNotFoundError, OSError) as error:
        status = _report(error, parser)
    sys.exit(status or 0)


def _report(error: Exception, parser: ArgumentParser) -> int:
    """Print an expected error as one line and return the exit status; raise any other error."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    message = str(error)
    if isinstance(error, ParseError):
        unknown = re.search(r"unrecognized arguments: (--[\w.-]+)", message)
        hint = suggestion(unknown[1], _option_names(parser)) if unknown else ""
        message = f"{message}{hint} (see {parser.prog} --help)"
    elif isinstance(error, ModuleNotFoundError):
        if (error.name or "").partition(".")[0] not in TRAINING_PACKAGES:
            raise error
        remedy = "install the extra for training and scoring: pip install 'spikesep[train]'"
        message = f"{error.name} is not installed; {remedy}"
    return print_error(parser.prog, message)


def _option_names(parser: ArgumentParser) -> list[str]:
    """List the options as written on the command line."""
    return [
        f"--{name if '.' in name else name.replace('_', '-')}" for name in setting_names(parser)
    ]


def _run_as_jobs(prog: str, argv: list[str], options: Namespace, needs: Needs) -> None:
    """Run a command as Slurm jobs: all shards first, if there are any, then the command itself."""
    launch = options.launch
    cpus = launch.n_jobs or 1
    resources = replace(
        needs(launch), cpus=cpus, minutes=launch.minutes, partition=launch.partition
    )
    command = [*this_program(), *argv, "--launch.n_jobs", str(cpus)]
    logs = options.exp / "slurm"
    if "shard" in options and options.shard is None and launch.n_shards > 1:
        shards = [
            [*command, "--shard", f"{k + 1}/{launch.n_shards}"] for k in range(launch.n_shards)
        ]
        run_jobs(f"{prog}-shards", shards, resources, logs)
    run_jobs(prog, [command], resources, logs)


@contextmanager
def _locked_folder(options: Namespace) -> Iterator[None]:
    """Lock the folder that a recipe's command writes to; shards of one command share it."""
    folder = options.get("exp") or options.get("data")
    with ExitStack() as stack:
        if folder:
            stack.enter_context(explain_full_disk(folder))
        if folder and is_first_process():
            shard = options.get("shard")
            stack.enter_context(lock_folder(folder, shared=bool(shard)))
            if shard:
                stack.enter_context(lock_folder(folder, part=f"-{shard.replace('/', 'of')}"))
        yield


@contextmanager
def _print_warnings(prog: str) -> Iterator[None]:
    """Print each `SpikeSepWarning` as one line on standard error, once."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def print_warning(message, category, *location, **options) -> None:
            if issubclass(category, SpikeSepWarning):
                print(f"{prog}: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                show(message, category, *location, **options)

        warnings.showwarning = print_warning
        warnings.simplefilter("once", SpikeSepWarning)
        yield


def print_error(prog: str, error: object) -> int:
    """Print one line on standard error and return the exit status 2."""
    print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
