"""`spikesep-export`: publish a model as a folder, a single file, or on the Hugging Face hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common import add_energy_option, run
from spikesep.errors import SpikeSepError


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), export, argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="spikesep-export",
        description="Check a trained model and publish it, with a model card built from what the "
        "experiment recorded.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--exp", type=Path, required=True, help="exp/<tag> of a recipe")
    parser.add_argument(
        "--network",
        type=Literal["snn", "ann"],
        default="snn",
        help="which network of the experiment to export",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="store the weights of an analog network in 16 bits, in half the size",
    )
    _add_destination_options(parser)
    _add_card_options(parser)
    return parser


def _add_destination_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="output folder, or a single file NAME.safetensors",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing model at --out"
    )
    parser.add_argument(
        "--push",
        type=str | None,
        default=None,
        metavar="ORG/NAME",
        help="upload to this repository on the hub",
    )
    parser.add_argument(
        "--private", action="store_true", help="make the repository private if it is new"
    )


def _add_card_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--title",
        type=str | None,
        default=None,
        help="title of the model card (default: the last part of its name)",
    )
    parser.add_argument(
        "--data",
        type=Path | None,
        default=None,
        help="training data, whose speakers and hours are listed on the card",
    )
    parser.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="name by which users will load the model with --model (default: --push or --out)",
    )
    parser.add_argument(
        "--made",
        type=Path | None,
        default=None,
        metavar="FILE",
        help="Markdown file for the card that says from what data and by which commands the model "
        "was made",
    )
    parser.add_argument(
        "--license",
        type=str | None,
        default=None,
        help="license of the weights, for the card, such as mit",
    )
    parser.add_argument(
        "--languages",
        type=list[str],
        default=[],
        help="languages spoken in the training data, for the card, such as [en,ru]",
    )
    add_energy_option(parser)


def export(options: Namespace) -> None:
    """Load the model, write its card, save it, and upload what was saved."""
    if options.out is None and options.push is None:
        raise SpikeSepError("give --out FOLDER, --out FILE.safetensors, or --push org/name")
    from spikesep.separation.model.export import check_half, check_replaceable
    from spikesep.separation.model.hub import push_to_hub
    from spikesep.separation.model.separator import KIND, load_separator, save_separator
    from spikesep.training.records.model_folder import read_model

    if options.out is not None and options.out.exists():
        check_replaceable(options.out, options.overwrite)
    folder = options.exp / options.network
    model = load_separator(folder)
    if options.half:
        check_half(model, folder)
    card = _card(options, model)
    with TemporaryDirectory() as scratch:
        target = options.out or Path(scratch) / "model"
        save_separator(model, target, read_model(folder, KIND).report, card, options.half)
        if options.out is not None:
            print(f"{options.out}: the {options.network} of {options.exp}, with its card")
        if options.push:
            url = push_to_hub(target, options.push, options.private)
            print(f"{url}: is on the hub; load it with --model {options.push}")
    if not (options.exp / "results.json").exists():
        print(
            f"the card has no scores, as {options.exp} has not been scored; run spikesep-score, "
            "then this command again"
        )


def _card(options: Namespace, model) -> str:
    from spikesep.separation.model.card import model_card

    address = options.name or options.push or options.out.name
    made = options.made and options.made.read_text(encoding="utf-8", errors="replace")
    return model_card(
        options.exp,
        model,
        options.title or address.rpartition("/")[2].removesuffix(".safetensors"),
        address,
        data=options.data,
        license=options.license,
        languages=options.languages,
        made=made or "",
        energy_table=options.energy_table,
    )
