import pytest
import torch

from spikesep.cli.export import main
from spikesep.cli.infer import main as infer
from spikesep.errors import SpikeSepError
from spikesep.files import lock_folder
from spikesep.separation.model import hub
from spikesep.separation.model.separator import KIND, load_separator, save_separator
from spikesep.training.records.model_folder import read_model


def export(*argv) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    return ended.value.code


def error_line(capsys) -> str:
    """Return the error message, which must be one line."""
    error = capsys.readouterr().err.strip()
    assert error.startswith("spikesep-export: error:")
    assert "\n" not in error
    return error


@pytest.mark.parametrize("network", ["snn", "ann"])
@pytest.mark.parametrize("name", ["duo", "duo.safetensors"])
def test_model_is_exported_with_report_and_card(kept_experiment, tmp_path, capsys, name, network):
    exp = kept_experiment.exp
    assert (
        export("--exp", exp, "--network", network, "--out", tmp_path / name, "--license", "mit")
        == 0
    )
    printed = capsys.readouterr().out
    assert f"{tmp_path / name}: the {network}" in printed
    assert "has no scores" in printed
    saved, mixture = read_model(tmp_path / name, KIND), torch.randn(500)
    assert "# duo\n" in saved.card
    assert f"--model {name} " in saved.card
    assert (saved.report is not None) == (network == "snn")
    original = load_separator(exp / network)
    assert torch.equal(
        load_separator(tmp_path / name).separate(mixture), original.separate(mixture)
    )


def test_experiment_is_not_written_to(kept_experiment, tmp_path):
    """Not even a lock, so that it may be read-only, or in use."""
    with lock_folder(kept_experiment.exp):
        assert export("--exp", kept_experiment.exp, "--out", tmp_path / "duo") == 0


@pytest.mark.parametrize(
    ("network", "usage"), [("snn", "--model duo --out-dir"), ("ann", "--model duo --network ann")]
)
def test_card_contains_name_and_text_of_the_author(kept_experiment, tmp_path, network, usage):
    (tmp_path / "made.md").write_text("From larks, with `./run.sh`.\n")
    options = [
        "--network",
        network,
        "--out",
        tmp_path / "model",
        "--name",
        "duo",
        "--made",
        tmp_path / "made.md",
    ]
    assert export("--exp", kept_experiment.exp, *options) == 0
    card = read_model(tmp_path / "model", KIND).card
    assert "## How it was made\n\nFrom larks, with `./run.sh`.\n\n" in card
    assert usage in card


def test_missing_text_file_is_one_line(kept_experiment, tmp_path, capsys):
    options = [
        "--exp",
        kept_experiment.exp,
        "--out",
        tmp_path / "model",
        "--made",
        tmp_path / "nowhere.md",
    ]
    assert export(*options) == 2
    assert "nowhere.md" in error_line(capsys)
    assert not (tmp_path / "model").exists()


def test_exported_file_separates(kept_experiment, tmp_path):
    file = tmp_path / "duo.safetensors"
    assert export("--exp", kept_experiment.exp, "--out", file) == 0
    mixture = next((kept_experiment.data / "tt" / "wav").glob("*-mix.wav"))
    with pytest.raises(SystemExit) as ended:
        infer([str(mixture), "--model", str(file), "--out-dir", str(tmp_path)])
    assert ended.value.code == 0
    assert (tmp_path / f"{mixture.stem}_spk2.wav").exists()


def test_model_is_pushed_with_or_without_a_local_copy(
    kept_experiment, tmp_path, capsys, monkeypatch
):
    pushed = []

    def push(path, name, private):
        pushed.append((read_model(path, KIND).card, name, private))
        return "hub:org/duo"

    monkeypatch.setattr(hub, "push_to_hub", push)
    assert (
        export(
            "--exp", kept_experiment.exp, "--push", "org/duo", "--private", "--title", "Two voices"
        )
        == 0
    )
    assert (
        export("--exp", kept_experiment.exp, "--push", "org/duo", "--out", tmp_path / "local") == 0
    )
    assert [(name, private) for _, name, private in pushed] == [
        ("org/duo", True),
        ("org/duo", False),
    ]
    assert "# Two voices\n" in pushed[0][0]
    assert "--model org/duo " in pushed[1][0]
    assert (tmp_path / "local" / "README.md").read_text() == pushed[1][0]
    assert (
        capsys.readouterr().out.count("hub:org/duo: is on the hub; load it with --model org/duo")
        == 2
    )


def test_only_models_are_replaced_and_only_on_request(kept_experiment, tmp_path, capsys):
    argv = ("--exp", kept_experiment.exp, "--out", tmp_path / "x")
    assert export(*argv) == 0
    assert export(*argv) == 2
    assert "--overwrite" in error_line(capsys)
    assert export(*argv, "--overwrite") == 0
    (tmp_path / "x" / "notes.txt").write_text("of the model")
    assert export(*argv, "--overwrite") == 2
    assert "also contains notes.txt" in error_line(capsys)
    assert (tmp_path / "x" / "notes.txt").read_text() == "of the model"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("dear")
    assert export("--exp", kept_experiment.exp, "--out", tmp_path / "home", "--overwrite") == 2
    assert "so it is not replaced" in error_line(capsys)
    assert (tmp_path / "home" / "diary.txt").read_text() == "dear"


def test_only_analog_networks_are_exported_with_16_bits(kept_experiment, tmp_path, capsys):
    exp = kept_experiment.exp
    assert export("--exp", exp, "--network", "ann", "--out", tmp_path / "half", "--half") == 0
    kept = read_model(tmp_path / "half", KIND).tensors
    assert {tensor.dtype for tensor in kept.values() if tensor.ndim > 1} == {torch.float16}
    mixture, original = torch.randn(500), load_separator(exp / "ann")
    rounded = load_separator(tmp_path / "half")
    assert {tensor.dtype for tensor in rounded.parameters()} == {torch.float32}
    torch.testing.assert_close(
        rounded.separate(mixture), original.separate(mixture), atol=1e-2, rtol=0
    )
    assert not torch.equal(rounded.separate(mixture), original.separate(mixture))
    capsys.readouterr()
    assert export("--exp", exp, "--out", tmp_path / "snn", "--half") == 2
    assert error_line(capsys).startswith("spikesep-export: error: --half: ")
    assert not (tmp_path / "snn").exists()
    with torch.no_grad():
        original.network.readout.synapse.weight[0] = 1e5
    with pytest.raises(SpikeSepError, match="beyond 65504"):
        save_separator(original, tmp_path / "large", half=True)
    assert not (tmp_path / "large").exists()


def test_missing_destination_or_model_is_reported(kept_experiment, tmp_path, capsys):
    assert export("--exp", kept_experiment.exp) == 2
    assert "give --out" in error_line(capsys)
    assert export("--exp", tmp_path / "nothing", "--out", tmp_path / "x") == 2
    assert "nothing/snn: no such model" in error_line(capsys)
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "nothing").exists()
