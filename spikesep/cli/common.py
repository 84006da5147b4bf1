"""What every command shares: one option parser, one folder to work in, one way to end on an error."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentError as ParseError
from jsonargparse import ArgumentParser, Namespace

from spikesep.errors import SpikeSepError
from spikesep.files import work_in
from spikesep.separation.config import RecipeConfig
from spikesep.training.config import is_first_process


def recipe_parser(command: str, description: str, *, exp: bool = True) -> ArgumentParser:
    """A parser that takes `--config conf/x.yaml`, `--section.key VALUE` for each of its settings, and the folders."""
    parser = ArgumentParser(prog=command, description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file of settings; later options override it")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the lists and mixtures")
    if exp:
        parser.add_argument("--exp", type=Path, required=True, help="folder of the models and results")
    parser.add_class_arguments(RecipeConfig, None)
    return parser


def recipe_of(options: Namespace) -> RecipeConfig:
    """The recipe among the parsed options."""
    return RecipeConfig(**{f.name: options[f.name] for f in fields(RecipeConfig)})


def run(parser: ArgumentParser, action: Callable[[Namespace], int | None], argv: list[str] | None = None) -> None:
    """Parse, act and exit: 0, what `action` returns, or 2 after one line on standard error."""
    try:
        options = parser.instantiate_classes(parser.parse_args(argv))
        with _folder_of(options):
            status = action(options)
    except ParseError as error:
        status = complain(parser.prog, f"{error} (see {parser.prog} --help)")
    except SpikeSepError as error:
        status = complain(parser.prog, error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        status = 130
    except OSError as error:
        status = complain(parser.prog, error if error.errno else f"{error} (is the disk full?)")
    sys.exit(status or 0)


@contextmanager
def _folder_of(options: Namespace) -> Iterator[None]:
    """Work in the folder that a command of a recipe writes, alone; shards of one work side by side."""
    folder = options.get("exp") or options.get("data")
    with ExitStack() as stack:
        if folder and is_first_process():
            shard = options.get("shard")
            stack.enter_context(work_in(folder, shared=bool(shard)))
            if shard:
                stack.enter_context(work_in(folder, part=f"-{shard.name}"))
        yield


def complain(prog: str, error: object) -> int:
    """One line on standard error; the status to end with."""
    print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
