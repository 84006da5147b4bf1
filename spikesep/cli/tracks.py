"""`spikesep-tracks`: train the network that lets tracks follow their speakers (stage 6)."""

from spikesep.cli.common import recipe_parser, run, to_recipe


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = recipe_parser(
        "spikesep-tracks",
        "Train a small spiking network to tell speakers apart, on the outputs of the separator in "
        "--exp; spikesep-infer then keeps every speaker on one track. An interrupted run resumes.",
    )
    run(parser, train, argv)


def train(options) -> None:
    """Train, convert and score the embedder."""
    from spikesep.separation.tracks.training import FOLDER, train_tracks

    scores = train_tracks(options.data, options.exp, to_recipe(options))
    for kind, found in scores.items():
        print(
            f"{kind}: equal error rate {found['equal_error_rate']:.1f} % on stretches of "
            f"{found['speakers']} voices never heard"
        )
    print(f"embedder: {options.exp / FOLDER}")
