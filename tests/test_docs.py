"""Documentation pages: their Python runs, links resolve, commands and settings exist."""

import importlib
import re
import shlex
from dataclasses import fields, is_dataclass

import pytest
from helpers.experiments import make_experiment
from helpers.paths import ROOT

from spikesep.files import write_json
from spikesep.separation.config import RecipeConfig
from spikesep.spiking.conversion.report import LayerReport
from spikesep.vision.config import ImageRecipe

DOCS = ROOT / "docs"
GUIDES = (
    "python",
    "live-sound",
    "adapt-to-your-voices",
    "train-your-own-speakers",
    "train-for-real-recordings",
    "convert-your-own-network",
    "coming-from-other-libraries",
    "read-the-report",
    "energy",
    "publish-a-model",
    "onnx",
    "other-simulators",
)
NEEDS = {"other-simulators": ["nir"]}
"""Packages of extras that the Python of a guide imports."""
READMES = [
    path for folder in ("egs", "recipes") for path in sorted((ROOT / folder).glob("*/README.md"))
]
MADE_BY_RECIPES = {"data", "exp", "downloads"}


def markdown_files(folder):
    """Return the Markdown files of a folder and its subfolders; only the top level of the root."""
    found = (ROOT / folder).rglob("*.md") if folder else ROOT.glob("*.md")
    return [path for path in found if not MADE_BY_RECIPES & set(path.relative_to(ROOT).parts)]


def code_blocks(page, language):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands_of(page):
    """Return the spikesep commands of a guide, as name and arguments."""
    shell = "".join(code_blocks(page, "sh")).replace("\\\n", "")
    return re.findall(r"^spikesep-(\w+) (.*)$", shell, re.M)


def setting_names(config, prefix=""):
    """Yield the dotted names of all settings of a dataclass."""
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            yield from setting_names(value, f"{name}.")
        else:
            yield name


def assert_parses(command, line):
    parser = importlib.import_module(f"spikesep.cli.{command}")._parser()
    parser.parse_args(shlex.split(line, comments=True))


@pytest.fixture
def experiment_folder(tmp_path, monkeypatch):
    """Change to a folder with `exp/mine` and `recording.wav`."""
    made = make_experiment(tmp_path / "made")
    (tmp_path / "exp").mkdir()
    made.exp.rename(tmp_path / "exp" / "mine")
    layers = [
        LayerReport(f"layer{k}", 0.5, 99.7, 0.01, 0.1, 0.15, 0.02).to_dict() for k in range(3)
    ]
    write_json(tmp_path / "exp" / "mine" / "snn" / "report.json", layers)
    next((made.data / "tt" / "wav").glob("*-mix.wav")).rename(tmp_path / "recording.wav")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", [page for page in GUIDES if code_blocks(page, "python")])
def test_the_python_of_a_guide_runs(experiment_folder, page):
    for package in NEEDS.get(page, []):
        pytest.importorskip(package, reason=f"{package} is not installed")
    code = "\n".join(code_blocks(page, "python"))
    exec(compile(code, f"docs/{page}.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", [page for page in GUIDES if commands_of(page)])
def test_the_commands_of_a_guide_parse(page):
    for command, line in commands_of(page):
        assert_parses(command, line)


@pytest.mark.parametrize(
    "path",
    [*(DOCS / f"{page}.md" for page in GUIDES), *READMES],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_settings_of_a_page_exist(path):
    shown = re.findall(r"--([a-z]+(?:\.[a-z_]+)+)", path.read_text(encoding="utf-8"))
    known = {*setting_names(RecipeConfig()), *setting_names(ImageRecipe())}
    assert set(shown) <= known


PAGES = sorted(
    path
    for folder in ("", "docs", "egs", "recipes", "benchmarks")
    for path in markdown_files(folder)
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_of_a_page_resolve(path):
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_the_commands_of_the_readme_parse():
    text = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"^    (?:.*\| )?spikesep-(\w+) ?([^|\n]*)", text, re.M)
    assert {"infer", "serve"} <= {command for command, _ in commands}
    for command, line in commands:
        assert_parses(command, line)
