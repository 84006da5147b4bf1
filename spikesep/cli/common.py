"""What every command shares: one option parser, one folder to work in, one way to end on an error."""

import atexit
import gc
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, get_loader
from jsonargparse import ArgumentError as ParseError

from spikesep.errors import SpikeSepError, SpikeSepWarning
from spikesep.files import explain_full_disk, lock_folder
from spikesep.separation.config import RecipeConfig
from spikesep.training.config import LaunchConfig, is_first_process
from spikesep.training.processes.slurm import Resources, in_job, run_jobs, this_program
from spikesep.vision.config import ImageRecipe

Recipe = TypeVar("Recipe", RecipeConfig, ImageRecipe)

TRAINING_PACKAGES = {
    "asteroid", "espeakng_loader", "librosa", "matplotlib", "pesq", "pyloudnorm", "pystoi",
    "pytorch_lightning", "tensorboard", "torchaudio", "torchmetrics", "torchvision",
}  # fmt: skip
"""Modules of the extra `train`, which separating a recording does without."""


class ConfigFile(ActionConfigFile):
    """The option `--config FILE`; a fault in the file is told with its name."""

    def __call__(self, parser, options, value, option_string=None) -> None:
        """Read the file's settings into the options.

        Raises:
            SpikeSepError: it is no YAML, or holds a setting that there is not.
        """
        if Path(value).is_file():
            _check_config(Path(value), parser)
        super().__call__(parser, options, value, option_string)


def _check_config(path: Path, parser: ArgumentParser) -> None:
    try:
        content = get_loader("yaml")(path.read_text(encoding="utf-8-sig"))
    except Exception as error:  # of whichever YAML library there is
        raise SpikeSepError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict):
        raise SpikeSepError(f"{path}: holds no settings; give lines like ann: {{epochs: 40}}")
    names = _setting_names(parser)
    for name in _unknown(content, names):
        raise SpikeSepError(f"{path}: there is no setting {name}{_nearest(name, names)}")


def _setting_names(parser: ArgumentParser) -> list[str]:
    return list(parser.get_defaults().keys())


def _options(parser: ArgumentParser) -> list[str]:
    """As they are written on the command line."""
    return [
        f"--{name if '.' in name else name.replace('_', '-')}" for name in _setting_names(parser)
    ]


def _unknown(content: dict, names: list[str], prefix: str = "") -> Iterator[str]:
    """Names in a config that are neither settings nor sections."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if name in names:
            continue
        if not any(known.startswith(f"{name}.") for known in names):
            yield name
        elif isinstance(value, dict):
            yield from _unknown(value, names, f"{name}.")


def _nearest(name: str, names: list[str]) -> str:
    """What to say of the setting or section whose name is most like this one; nothing if none is."""
    sections = sorted({known.rpartition(".")[0] for known in names} - {""})
    found = (
        get_close_matches(name, names + sections, 1)
        or [n for n in names if n.rpartition(".")[2] == name][:1]
    )
    return f"; did you mean {found[0]}?" if found else ""


def recipe_parser(
    command: str, description: str, kind: type[Recipe] = RecipeConfig, *, exp: bool = True
) -> ArgumentParser:
    """A parser that takes `--config conf/x.yaml`, `--section.key VALUE` for each of its settings, and the folders."""
    parser = ArgumentParser(
        prog=command, description=description, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action=ConfigFile, help="a YAML file of settings; later options override it"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of the prepared data"
    )
    if exp:
        parser.add_argument(
            "--exp", type=Path, required=True, help="folder of the models and results"
        )
    parser.add_class_arguments(kind, None)
    return parser


def add_model_options(parser: ArgumentParser) -> None:
    """`--model`, `--network` and `--device`, of every command that takes a trained separator."""
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="a folder, file, exp/<tag>, or org/name of the hub (default: the shipped model)",
    )
    parser.add_argument(
        "--network",
        type=Literal["snn", "ann"] | None,
        default=None,
        help="which network of exp/<tag>",
    )
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, ...")


def recipe_of(options: Namespace, kind: type[Recipe] = RecipeConfig) -> Recipe:
    """The recipe among the parsed options."""
    return kind(**{f.name: options[f.name] for f in fields(kind)})


def run(
    parser: ArgumentParser,
    action: Callable[[Namespace], int | None],
    argv: list[str] | None = None,
    needs: Callable[[LaunchConfig], Resources] | None = None,
) -> None:
    """Parse, act and exit: 0, what `action` returns, or 2 after one line on standard error.

    With `--launch.launcher slurm`, a command that says what it `needs` is run as a job; one that has shards, as a job
    for each and one that puts them together.
    """
    # Else Python looks a last time, for a second, through all that torch and its libraries brought.
    atexit.register(gc.freeze)
    _open_closed_streams()
    try:
        options = parser.instantiate(parser.parse_args(argv))
        if needs and options.launch.launcher == "slurm" and not in_job():
            status = _run_as_jobs(
                parser.prog, sys.argv[1:] if argv is None else list(argv), options, needs
            )
        else:
            with _notices(parser.prog), _folder_of(options):
                status = action(options)
    except ParseError as error:
        unknown = re.search(r"unrecognized arguments: (--[\w.-]+)", str(error))
        hint = _nearest(unknown[1], _options(parser)) if unknown else ""
        status = complain(parser.prog, f"{error}{hint} (see {parser.prog} --help)")
    except SpikeSepError as error:
        status = complain(parser.prog, error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAINING_PACKAGES:
            raise
        remedy = "install the extra that trains and scores: pip install 'spikesep[train]'"
        status = complain(parser.prog, f"{error.name} is not installed; {remedy}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        status = 130
    except OSError as error:
        status = complain(parser.prog, error)
    sys.exit(status or 0)


def _run_as_jobs(
    prog: str, argv: list[str], options: Namespace, needs: Callable[[LaunchConfig], Resources]
) -> None:
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
def _folder_of(options: Namespace) -> Iterator[None]:
    """Work in the folder that a command of a recipe writes, alone; shards of one work side by side."""
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
def unwinding() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that partial files are removed and children end.

    Further signals are ignored meanwhile. A signal that was ignored before, such as SIGHUP under
    nohup, stays ignored.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {
        number: handler for number, handler in before.items() if handler is not signal.SIG_IGN
    }

    def end(number: int, _frame) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Discard what decoders write to standard error, about a damaged MP3 for example.

    Messages of Python code still appear.
    """
    kept, python_stderr = os.dup(2), sys.stderr
    ours = os.fdopen(os.dup(2), "w", 1, sys.stderr.encoding, "backslashreplace")
    with open(os.devnull, "wb") as nowhere, ours:
        try:
            if python_stderr is sys.__stderr__:
                sys.stderr = ours
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            sys.stderr = python_stderr


def _open_closed_streams() -> None:
    """Open /dev/null in place of closed standard streams.

    Otherwise the next file opened would get the stream's descriptor, and with it messages of
    libraries. `sys.stdin` stays None, so that reading it can be refused.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


@contextmanager
def _notices(prog: str) -> Iterator[None]:
    """Print each doubt about what the user gave in one line on standard error, once."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_notice(message, category, *place, **options) -> None:
            if issubclass(category, SpikeSepWarning):
                print(f"{prog}: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                show(message, category, *place, **options)

        warnings.showwarning = show_notice
        warnings.simplefilter("once", SpikeSepWarning)
        yield


def complain(prog: str, error: object) -> int:
    """One line on standard error; the status to end with."""
    print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
