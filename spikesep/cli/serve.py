"""`spikesep-serve`: serve a page on this computer that separates recordings."""

import webbrowser

from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common import (
    add_band_option,
    add_model_options,
    exit_on_signal,
    quiet_libraries,
    run,
)
from spikesep.errors import SpikeSepError


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), serve, argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="spikesep-serve",
        description="Serve a page on 127.0.0.1 on which you drop recordings, listen to their "
        "separated voices and save them. Nothing leaves this computer and nothing is stored.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    add_model_options(parser)
    add_band_option(parser)
    parser.add_argument("--port", type=int, default=8750, help="port; 0 picks a free one")
    parser.add_argument(
        "--max-megabytes",
        type=float,
        default=50.0,
        metavar="MB",
        help="size of the largest file accepted, in megabytes",
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="length of the longest recording accepted, in seconds; it also limits the samples of "
        "all channels together to 96,000 per permitted second",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="only print the address, do not open a browser"
    )
    return parser


def serve(options: Namespace) -> None:
    """Serve until interrupted (status 130) or terminated (status 143)."""
    for name in ("max_megabytes", "max_seconds"):
        if not 0 < options[name] < float("inf"):
            raise SpikeSepError(
                f"--{name.replace('_', '-')} {options[name]:g}: give a positive number"
            )
    from spikesep.separation.inference.in_memory import load_model
    from spikesep.separation.pages.server import Service
    from spikesep.separation.pages.uploads import Limits

    model = load_model(options.model, options.network, options.device, options.band)
    name = options.model or "the shipped one"
    limits = Limits(options.max_megabytes, options.max_seconds)
    with exit_on_signal(), Service(model, name, limits, port=options.port) as service:
        print(f"{service.url}: drop recordings there (Ctrl-C ends)", flush=True)
        if not options.no_browser:
            webbrowser.open(service.url)
        with quiet_libraries():
            service.serve_forever()
