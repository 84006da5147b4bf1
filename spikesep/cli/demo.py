"""`spikesep-demo`: write the listening page of a scored experiment."""

from jsonargparse import Namespace

from spikesep.cli.common import recipe_parser, run


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = recipe_parser("spikesep-demo", "Write the listening page, demo/index.html in --exp.")
    run(parser, demo, argv)


def demo(options: Namespace) -> None:
    """Build the page and print its path."""
    from spikesep.separation.pages.listening_page import build_page  # imports torch

    page = build_page(options.data, options.exp, options.exp / "demo", options.demo)
    print(f"{page}: open it in a browser")
