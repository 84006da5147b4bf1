import subprocess
import sys
from pathlib import Path

import pytest

import spikesep
from spikesep import provenance

CHECKOUT = Path(spikesep.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def asked_anew():
    provenance.commit.cache_clear()
    yield
    provenance.commit.cache_clear()


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="not a checkout")
def test_commit_of_the_checkout_is_recorded():
    head = subprocess.run(
        ["git", "-C", CHECKOUT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert provenance.commit().removesuffix("-dirty") == head.stdout.strip()
    assert provenance.provenance()["versions"]["commit"] == provenance.commit()


@pytest.mark.parametrize(
    "case", ["installed below another checkout", "no git", "not a repository after all"]
)
def test_version_is_recorded_outside_a_checkout(tmp_path, monkeypatch, case):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    package = tmp_path / ".venv" / "site-packages" / "spikesep"
    if case != "installed below another checkout":
        package = tmp_path / "spikesep"
    if case == "no git":
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nowhere"))
    package.mkdir(parents=True)
    monkeypatch.setattr(spikesep, "__file__", str(package / "__init__.py"))
    assert provenance.commit() == spikesep.__version__
