"""Options that several commands share."""

from dataclasses import fields
from pathlib import Path
from typing import Literal, TypeVar

from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common.config_file import ConfigFile, RecipeParser
from spikesep.separation.config import RecipeConfig
from spikesep.vision.config import ImageRecipe

Recipe = TypeVar("Recipe", RecipeConfig, ImageRecipe)


def recipe_parser(
    command: str, description: str, kind: type[Recipe] = RecipeConfig, *, exp: bool = True
) -> ArgumentParser:
    """Build the parser of a recipe's command.

    It takes `--config FILE.yaml`, `--section.key VALUE` for each setting of the recipe, `--data`,
    and, unless `exp` is false, `--exp`.
    """
    parser = RecipeParser(
        prog=command, description=description, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action=ConfigFile, help="YAML file of settings; later options override it"
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
    """Add the options of a trained separator: `--model`, `--network`, `--device`."""
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="model folder or file, exp/<tag>, or org/name on the Hugging Face hub "
        "(default: the shipped model)",
    )
    parser.add_argument(
        "--network",
        type=Literal["snn", "ann"] | None,
        default=None,
        help="which network of exp/<tag> to use (default: snn if present)",
    )
    parser.add_argument("--device", type=str, default="cpu", help="torch device: cpu, cuda, ...")


def add_band_option(parser: ArgumentParser) -> None:
    """Add `--band` to a command that returns voices at the sample rate of the recording."""
    parser.add_argument(
        "--band",
        type=Literal["full", "network"],
        default="full",
        help="full shares what a recording has above the network's band (4 kHz in the shipped "
        "model) among the voices, by the tilt of their spectra below it; network leaves it out",
    )


def add_energy_option(parser: ArgumentParser) -> None:
    """Add `--energy-table` to a command that estimates energy."""
    parser.add_argument(
        "--energy-table",
        type=Literal["45nm", "7nm"],
        default="45nm",
        help="energies per arithmetic operation of the estimates: Horowitz 2014 for 45 nm, Jouppi "
        "et al. 2021 for 7 nm",
    )


def add_voice_options(parser: ArgumentParser) -> None:
    """Add `--level`, `--tracks` and `--voices` to a command that writes voices."""
    parser.add_argument(
        "--level",
        type=Literal["match-mix", "peak", "none"],
        default="match-mix",
        help="output level of the voices: such that they add up to the mixture, each at a peak of "
        "0.9, or as the network returns them; never clipped",
    )
    parser.add_argument(
        "--tracks",
        type=Literal["auto", "off"],
        default="auto",
        help="auto lets every voice follow its speaker through pauses and makes it silent where "
        "the speaker is, if the model has an embedder of speakers (more latency with --live); "
        "off keeps the order of the network's outputs",
    )
    parser.add_argument(
        "--voices",
        type=Literal["all", "auto"] | int,
        default="all",
        metavar="{all,auto,N}",
        help="voices to write: all outputs of the network, those without a speaker too; as many as "
        "are heard, at least one, with the number in the report; or the N most active (default: "
        "all)",
    )


def to_recipe(options: Namespace, kind: type[Recipe] = RecipeConfig) -> Recipe:
    """Collect the settings of the recipe from the parsed options."""
    return kind(**{f.name: options[f.name] for f in fields(kind)})
