"""Import rules (docs/architecture.md): cli -> separation, vision -> training -> spiking."""

import ast
import re
import subprocess
import sys

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "spikesep"
MAY_IMPORT = {
    "spiking": {"spiking"},
    "training": {"training", "spiking"},
    "separation": {"separation", "training", "spiking"},
    "vision": {"vision", "training", "spiking"},
    "doctor.py": {"separation", "training", "spiking"},
    "cli": {"cli", "doctor", "separation", "vision", "training", "spiking"},
}
ALL = set(MAY_IMPORT)
COMMON = {"checks", "compilation", "errors", "files", "hardware_profiles", "neuron_options"}
COMMON |= {"provenance", "tensors", "workers"}
UNKNOWN_TO_THE_CORE = {
    "pytorch_lightning",
    "asteroid",
    "asteroid_filterbanks",
    "soundfile",
    "torchaudio",
    "torchvision",
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "spikesep":
                yield from (f"spikesep.{alias.name}" for alias in node.names)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    room = path.relative_to(PACKAGE).parts[0]
    allowed = MAY_IMPORT.get(room, ALL if room == "__init__.py" else set()) | COMMON
    for name in imports(path):
        if name.startswith("spikesep.") and name != "spikesep.__version__":
            assert name.split(".")[1] in allowed, f"{path} imports {name}"


def test_every_room_of_the_package_has_a_rule():
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms <= MAY_IMPORT.keys()


@pytest.mark.parametrize("path", sorted((PACKAGE / "spiking").rglob("*.py")), ids=lambda p: p.name)
def test_the_spiking_core_knows_tensors_only(path):
    assert not {name.split(".")[0] for name in imports(path)} & UNKNOWN_TO_THE_CORE


LAYERS = {"layer", "network", "readout", "synaptic", "conversion", "from_torch", "cost"}
"""Modules of the core that stand above the engines."""


@pytest.mark.parametrize("room", ["engines", "spike_trains", "synapses"])
def test_engines_see_descriptions_and_no_layer(room):
    """Neither by import nor by an annotation that hides one: no `nn.Module` is passed in."""
    for path in (PACKAGE / "spiking" / room).glob("*.py"):
        seen = {
            name.split(".")[2] for name in imports(path) if name.startswith("spikesep.spiking.")
        }
        assert not seen & LAYERS, path
    for path in (PACKAGE / "spiking" / "engines").glob("*.py"):
        names = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Attribute)
        }
        assert not names & {"Module", "synapse", "mode", "limiter"}, path


def test_settings_and_options_are_read_without_torch():
    code = "import sys, spikesep.cli.common, spikesep.workers; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        == "False\n"
    )


def test_every_command_is_a_file_of_the_cli():
    scripts = re.findall(
        r'^spikesep-(\w+) = "spikesep\.cli\.(\w+):main"$',
        (ROOT / "pyproject.toml").read_text(),
        re.M,
    )
    files = {p.stem for p in (PACKAGE / "cli").glob("*.py")} - {"__init__", "common"}
    assert {name for name, _ in scripts} == {file for _, file in scripts} == files
