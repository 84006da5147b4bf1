"""`spikesep-demo`: write the listening page of a scored experiment."""

from jsonargparse import Namespace

from spikesep.cli.common import recipe_parser, run


def main(argv: list[str] | None = None) -> None:
    """Parse, build the page, print where it is."""
    parser = recipe_parser(
        "spikesep-demo", "Write the listening page; leaves demo/index.html in --exp."
    )
    run(parser, _demo, argv)


def _demo(options: Namespace) -> None:
    from spikesep.separation.pages import build_page  # brings torch

    page = build_page(options.data, options.exp, options.exp / "demo", options.demo)
    print(f"{page}: open it in a browser")
