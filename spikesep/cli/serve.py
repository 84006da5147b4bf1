"""`spikesep-serve`: a page on this computer to try a model on recordings of one's own."""

import webbrowser

from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common import add_model_options, run, unwinding
from spikesep.errors import SpikeSepError


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), serve, argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="spikesep-serve",
        description="Open a page on 127.0.0.1 where recordings are dropped, and their voices heard and "
        "saved. Nothing leaves this computer, nothing is kept.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    add_model_options(parser)
    parser.add_argument("--port", type=int, default=8750, help="0 takes a free one")
    parser.add_argument(
        "--max-megabytes", type=float, default=50.0, metavar="MB", help="largest file that is taken"
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="longest recording that is taken, with up to 96,000 samples a second in all channels together",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    return parser


def serve(options: Namespace) -> None:
    """Serve until it is interrupted (status 130) or terminated (143)."""
    for name in ("max_megabytes", "max_seconds"):
        if not 0 < options[name] < float("inf"):
            raise SpikeSepError(
                f"--{name.replace('_', '-')} {options[name]:g}: give a positive number"
            )
    from spikesep.separation.inference.separate import load_model
    from spikesep.separation.pages.server import Service

    model = load_model(options.model, options.network, options.device)
    name, limits = options.model or "the shipped one", (options.max_megabytes, options.max_seconds)
    with unwinding(), Service(model, name, options.port, *limits) as service:
        print(f"{service.url}: drop recordings there (Ctrl-C ends)", flush=True)
        if not options.no_browser:
            webbrowser.open(service.url)
        service.serve_forever()
