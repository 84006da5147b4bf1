"""The wheel in an empty environment, without extras and without a compiler."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
from helpers.paths import ROOT
from helpers.web.serve import read_response, recording

UV = Path(sys.executable).with_name("uv")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not UV.exists(), reason="uv is not installed: make install"),
]


def plain_environment():
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return environment | {"CC": "no-compiler", "CXX": "no-compiler"}


def run(*command, **options):
    environment = plain_environment() | options.pop("env", {})
    return subprocess.run(
        [*map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory):
    """Install the wheel and its requirements, and nothing else; return the folder of commands."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = run("git", "ls-files", "-zco", "--exclude-standard", cwd=ROOT).stdout.split("\0")
    for name in filter(None, tracked):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name, follow_symlinks=False)
    built = run(UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, source)
    assert built.returncode == 0, built.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    venv = folder / "venv"
    assert run(UV, "venv", "--python", sys.executable, venv).returncode == 0
    python = venv / "bin" / "python"
    constraints = ROOT / "requirements.lock"
    command = ["--only-binary", ":all:", "--constraints", constraints, "--python", python, wheel]
    installed = run(UV, "pip", "install", *command)
    if "dns error" in installed.stderr or "error sending request" in installed.stderr:
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr
    return python.parent


def test_wheel_separates_a_file(bin_folder, tmp_path):
    time = np.arange(16000) / 8000
    soundfile.write(tmp_path / "talk.flac", 0.3 * np.sin(2000 * time * (1 + 0.1 * time)), 8000)
    done = run(bin_folder / "spikesep-infer", tmp_path / "talk.flac", "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert soundfile.info(tmp_path / "talk_spk1.wav").frames == 16000
    assert not done.stderr


def test_wheel_serves_the_page(bin_folder, tmp_path):
    command = [bin_folder / "spikesep-serve", "--port", "0", "--no-browser"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=plain_environment(), stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            url = re.match(r"http://127\.0\.0\.1:\d+", service.stdout.readline())[0]
            with urlopen(url) as page:
                assert "<html" in page.read().decode()
            headers = {"Origin": url, "Content-Type": "application/octet-stream"}
            with urlopen(Request(f"{url}/separate", recording(), headers)) as reply:
                assert {"voice1", "voice2"} <= read_response(reply.read())[1].keys()
        finally:
            service.terminate()


def test_training_names_the_missing_extra(bin_folder, tmp_path):
    options = ["--config", ROOT / "egs/debian-2mix/conf/tiny.yaml", "--exp", tmp_path / "exp"]
    done = run(bin_folder / "spikesep-train", *options, "--data", tmp_path / "data", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'spikesep[train]'" in done.stderr


def test_doctor_reports_the_missing_extra(bin_folder, tmp_path):
    done = run(bin_folder / "spikesep-doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "pip install 'spikesep[train]'" in done.stdout
