"""`spikesep-export --format onnx` and `nir`."""

import sys

import pytest
import torch
from helpers.separators import save_tiny_experiment, tiny_separator, to_spiking

from spikesep.cli.export import main
from spikesep.separation.model.separator import save_separator
from spikesep.spiking import to_fixed_point


def export(*argv) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    return ended.value.code


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """An experiment whose spiking network fires immediately, beside a deferred model."""
    folder = save_tiny_experiment(tmp_path_factory.mktemp("exp"))
    model = to_spiking(tiny_separator("ann"), deferred=True)
    with torch.no_grad():
        to_fixed_point(model.network, [model.encode(torch.randn(1, 4000))[0]])
    save_separator(model, folder / "deferred")
    return folder


def test_graphs_are_written_once(exp, tmp_path, capsys):
    pytest.importorskip("onnx", reason="the extra export is not installed")
    pytest.importorskip("nir", reason="the extra nir is not installed")
    deferred = ("--model", exp / "deferred")
    for argv in (
        ("--exp", exp, "--network", "ann", "--format", "onnx", "--out", tmp_path / "ann.onnx"),
        (*deferred, "--format", "onnx", "--out", tmp_path / "snn.onnx"),
        ("--exp", exp, "--format", "nir", "--seconds", 0.05, "--out", tmp_path / "snn.nir"),
        (
            *deferred,
            "--format",
            "nir",
            "--deferred",
            "--seconds",
            0.05,
            "--out",
            tmp_path / "d.nir",
        ),
    ):
        assert export(*argv) == 0
        assert argv[-1].is_file()
        assert capsys.readouterr().out.startswith(f"{argv[-1]}: the ")
        assert export(*argv) == 2
        assert f"{argv[-1]}: already exists; give --overwrite" in capsys.readouterr().err
        assert export(*argv, "--overwrite") == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--format", "onnx"], "--format onnx: give --out FILE.onnx"),
        (["--format", "nir", "--out", "."], "is a folder; give a file, --out FILE.nir"),
        (["--format", "nir", "--out", "x", "--push", "a/b"], "--push: is for models"),
        (["--format", "onnx", "--out", "x", "--half"], "--half: is for models"),
        (["--format", "nir", "--out", "x", "--seconds", "0"], "--seconds 0.0: must be positive"),
        (["--format", "nir", "--out", "x", "--seconds", "61"], "at most 60"),
        (["--format", "nir", "--out", "x", "--model", "nowhere"], "nowhere: contains no model"),
        (["--format", "onnx", "--out", "x", "--model", "a", "--exp", "b"], "not both"),
        (["--out", "x"], "give --exp exp/<tag>"),
        (["--out", "x", "--model", "a", "--exp", "b"], "--model is for --format onnx and nir"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert export(*argv) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("spikesep-export: error:")
    assert message in error
    assert "\n" not in error
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_networks_that_a_format_cannot_hold_are_named(exp, tmp_path, capsys):
    for package, argv, message in (
        ("onnx", ("--exp", exp, "--format", "onnx"), "deferred: true"),
        ("nir", ("--model", exp / "deferred", "--format", "nir"), "--deferred"),
        ("nir", ("--exp", exp, "--network", "ann", "--format", "nir"), "is analog"),
    ):
        pytest.importorskip(package, reason=f"{package} is not installed")
        assert export(*argv, "--out", tmp_path / "x") == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("format", "extra"), [("onnx", "export"), ("nir", "nir")])
def test_missing_package_names_the_extra(exp, tmp_path, monkeypatch, capsys, format, extra):
    for name in [name for name in sys.modules if name.partition(".")[0] == format]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, format, None)
    assert export("--exp", exp, "--format", format, "--out", tmp_path / "x") == 2
    error = capsys.readouterr().err
    assert f"{format} is not installed" in error
    assert f"pip install 'spikesep[{extra}]'" in error
