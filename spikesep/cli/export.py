"""`spikesep-export`: a model of an experiment with its card, as a folder, one file, or on the Hugging Face hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common import run
from spikesep.errors import SpikeSepError


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), export, argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="spikesep-export",
        description="Give a trained model away: checked, with a model card made of what the experiment recorded.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--exp", type=Path, required=True, help="exp/<tag> of a recipe")
    parser.add_argument(
        "--network", type=Literal["snn", "ann"], default="snn", help="which of its networks"
    )
    parser.add_argument(
        "--out", type=Path | None, default=None, help="a folder, or one file: NAME.safetensors"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model that stands there"
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="store the weights of an analog network in 16 bits: half the size",
    )
    parser.add_argument(
        "--push", type=str | None, default=None, metavar="ORG/NAME", help="put it on the hub"
    )
    parser.add_argument("--private", action="store_true", help="if the place on the hub is new")
    parser.add_argument(
        "--title", type=str | None, default=None, help="of the card (default: the name it gets)"
    )
    parser.add_argument(
        "--data",
        type=Path | None,
        default=None,
        help="the data it was trained on, counted for the card",
    )
    parser.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="that --model will take (default: where it goes)",
    )
    parser.add_argument(
        "--made",
        type=Path | None,
        default=None,
        metavar="FILE",
        help="of what and by which commands, for the card",
    )
    parser.add_argument(
        "--license", type=str | None, default=None, help="of the weights, for the card, like mit"
    )
    parser.add_argument(
        "--languages", type=list[str], default=[], help="spoken in training, for the card: [en,ru]"
    )
    return parser


def export(options: Namespace) -> None:
    """Load, describe, save; put on the hub what was saved."""
    if options.out is None and options.push is None:
        raise SpikeSepError("give --out FOLDER, --out FILE.safetensors, or --push org/name")
    from spikesep.separation.model.card import model_card
    from spikesep.separation.model.hub import push_to_hub
    from spikesep.separation.model.separator import KIND, load_separator, save_separator
    from spikesep.training.records.model_files import MODEL_FOLDER
    from spikesep.training.records.model_folder import read_model

    out = options.out
    if out is not None and out.exists():
        if not options.overwrite:
            raise SpikeSepError(f"{out}: is there already; give --overwrite, or another --out")
        try:
            read_model(out, KIND)
        except SpikeSepError as error:
            raise SpikeSepError(
                f"{out}: is no whole separator, so it is not replaced; give another --out"
            ) from error
        others = {path.name for path in out.iterdir()} - MODEL_FOLDER if out.is_dir() else set()
        if others:
            raise SpikeSepError(
                f"{out}: holds {min(others)}, too, so it is not replaced; give another --out"
            )
    folder = options.exp / options.network
    model = load_separator(folder)
    if options.half and model.network.n_converted:
        raise SpikeSepError(
            f"--half: {folder} spikes, and would fire other spikes; leave it out, or give --network ann"
        )
    address = options.name or options.push or out.name
    title = options.title or address.rpartition("/")[2].removesuffix(".safetensors")
    about = {"data": options.data, "license": options.license, "languages": options.languages}
    if options.made is not None:
        about["made"] = options.made.read_text(encoding="utf-8", errors="replace")
    card = model_card(options.exp, model, title, address, **about)
    with TemporaryDirectory() as scratch:
        target = out or Path(scratch) / "model"
        save_separator(model, target, read_model(folder, KIND).report, card, options.half)
        if out is not None:
            print(f"{out}: the {options.network} of {options.exp}, with its card")
        if options.push:
            print(
                f"{push_to_hub(target, options.push, options.private)}: is on the hub; --model {options.push} takes it"
            )
    if not (options.exp / "results.json").exists():
        print(
            f"the card has no scores, as {options.exp} was not scored yet; run spikesep-score, then this again"
        )
