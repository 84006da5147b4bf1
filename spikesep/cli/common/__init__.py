"""Options, configuration files, and the run and end of a process, shared by all commands."""

from spikesep.cli.common.options import (
    add_band_option,
    add_energy_option,
    add_model_options,
    add_voice_options,
    recipe_parser,
    to_recipe,
)
from spikesep.cli.common.process import exit_on_signal, quiet_libraries
from spikesep.cli.common.run import print_error, run

__all__ = [
    "add_band_option",
    "add_energy_option",
    "add_model_options",
    "add_voice_options",
    "exit_on_signal",
    "print_error",
    "quiet_libraries",
    "recipe_parser",
    "run",
    "to_recipe",
]
