"""The Python blocks of a page run, from top to bottom, in a folder where a recipe has left an experiment; and every
command and setting that a page shows is there.
"""

import importlib
import re
import shlex
from dataclasses import fields

import pytest
from helpers.experiments import make_experiment
from helpers.paths import ROOT

from spikesep.files import write_json
from spikesep.separation.config import RecipeConfig
from spikesep.spiking.conversion.report import LayerReport

DOCS = ROOT / "docs"
PAGES = (
    "python",
    "train-your-own-speakers",
    "convert-your-own-network",
    "read-the-report",
    "publish-a-model",
)


def texts(folder):
    """The pages of a folder and, but for the topmost, below it; what recipes made is none."""
    found = (ROOT / folder).rglob("*.md") if folder else ROOT.glob("*.md")
    return [
        path
        for path in found
        if not {"data", "exp", "downloads"} & set(path.relative_to(ROOT).parts)
    ]


def blocks(page, language):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """`exp/mine`, and a recording."""
    made = make_experiment(tmp_path / "made")
    (tmp_path / "exp").mkdir()
    made.exp.rename(tmp_path / "exp" / "mine")
    layers = [
        LayerReport(f"layer{k}", 0.5, 99.7, 0.01, 0.1, 0.15, 0.02).to_dict() for k in range(3)
    ]
    write_json(tmp_path / "exp" / "mine" / "snn" / "report.json", layers)
    next((made.data / "tt" / "wav").glob("*-mix.wav")).rename(tmp_path / "recording.wav")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs(place, page):
    code = "\n".join(blocks(page, "python"))
    exec(compile(code, f"docs/{page}.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_shows_is_known(page):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    settings = set(re.findall(r"--([a-z]+\.[a-z_]+)", text))
    sections = {
        field.name: field.default_factory()
        for field in fields(RecipeConfig)
        if field.name != "seed"
    }
    assert settings <= {
        f"{name}.{field.name}" for name, config in sections.items() for field in fields(config)
    }
    for command, line in re.findall(r"^spikesep-(\w+) (.*)$", "".join(blocks(page, "sh")), re.M):
        parser = importlib.import_module(f"spikesep.cli.{command}")._parser()
        parser.parse_args(shlex.split(line, comments=True))


TEXTS = sorted(
    path for folder in ("", "docs", "egs", "recipes", "benchmarks") for path in texts(folder)
)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(path):
    links = [
        link
        for link in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_commands_of_the_readme_are_known():
    lines = re.findall(
        r"^    (?:.*\| )?spikesep-(\w+) ?([^|\n]*)", (ROOT / "README.md").read_text("utf-8"), re.M
    )
    assert {"infer", "serve"} <= {command for command, _ in lines}
    for command, line in lines:
        parser = importlib.import_module(f"spikesep.cli.{command}")._parser()
        parser.parse_args(shlex.split(line, comments=True))
