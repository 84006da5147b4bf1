"""`spikesep-export`: publish a model, or write it as ONNX or NIR for other programs."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common import add_energy_option, run
from spikesep.errors import SpikeSepError

MOST_SECONDS = 60
"""Longest mixtures that a NIR graph is laid out for: it lists every neuron of every frame."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    run(_parser(), export, argv, locks=False)  # the experiment may be read-only


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="spikesep-export",
        description="Check a trained model and publish it, with a model card built from what the "
        "experiment recorded; or write it as a graph for other runtimes and simulators.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--exp", type=Path | None, default=None, help="exp/<tag> of a recipe")
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
    _add_graph_options(parser)
    _add_card_options(parser)
    return parser


def _add_graph_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        type=Literal["model", "onnx", "nir"],
        default="model",
        help="a model with its card; the separator as an ONNX graph; or its spiking mask network "
        "as a NIR graph",
    )
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="for a graph, any model instead of --exp: a folder or file, or org/name on the hub "
        "(default: the shipped model)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="duration of the mixtures that a NIR graph is laid out for",
    )
    parser.add_argument(
        "--deferred",
        action="store_true",
        help="write a NIR graph of deferred neurons, marked as such",
    )


def _add_destination_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="output folder, or a single file: NAME.safetensors, NAME.onnx or NAME.nir",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what exists at --out")
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
    """Write what `--format` names."""
    if options.format == "model":
        _export_model(options)
    else:
        _export_graph(options)


def _export_model(options: Namespace) -> None:
    """Load the model, write its card, save it, and upload what was saved."""
    if options.exp is None or options.model is not None:
        raise SpikeSepError("give --exp exp/<tag>; --model is for --format onnx and nir")
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


def _export_graph(options: Namespace) -> None:
    """Write an ONNX or NIR file."""
    _check_graph_options(options)
    from spikesep.separation.model.hub import find_model
    from spikesep.separation.model.nir import save_nir
    from spikesep.separation.model.onnx import save_onnx
    from spikesep.separation.model.separator import load_separator

    path = find_model(options.exp or options.model, options.network)
    model = load_separator(path)
    if options.format == "onnx":
        save_onnx(model, options.out)
        print(f"{options.out}: the {model.kind} of {path}, mixture [B, T] to voices [B, S, T]")
        return
    n_samples = round(options.seconds * model.sample_rate)
    save_nir(model, options.out, max(1, n_samples), deferred=options.deferred)
    print(f"{options.out}: the mask network of {path}, for {n_samples} samples")


def _check_graph_options(options: Namespace) -> None:
    """Check, before the model is loaded, what can be checked."""
    name = f"--format {options.format}"
    if options.out is None:
        raise SpikeSepError(f"{name}: give --out FILE.{options.format}")
    if options.exp is not None and options.model is not None:
        raise SpikeSepError(f"{name}: give --exp or --model, not both")
    for option in ("push", "half"):
        if options[option]:
            raise SpikeSepError(f"--{option}: is for models; leave it out with {name}")
    if not 0 < options.seconds <= MOST_SECONDS:
        raise SpikeSepError(
            f"--seconds {options.seconds}: must be positive and at most {MOST_SECONDS}"
        )
    if options.out.is_dir():
        raise SpikeSepError(f"{options.out}: is a folder; give a file, --out FILE.{options.format}")
    if options.out.exists() and not options.overwrite:
        raise SpikeSepError(f"{options.out}: already exists; give --overwrite, or another --out")


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
