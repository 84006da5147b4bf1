import importlib

import pytest
from helpers.paths import ROOT
from helpers.sound.encode import wav_bytes
from jsonargparse import ArgumentParser

from spikesep.cli.common import run
from spikesep.cli.train import main
from spikesep.cli.vision import main as image_main
from spikesep.separation.audio.files import read_channels

WRONG = {
    "--train.epochs 0": "train.epochs 0",
    "--train.batch_size -1": "train.batch_size",
    "--train.schedule stairs": "train.schedule stairs: give plateau, step, cosine or triangular",
    "--train.epochs 1.5": "train.epochs 1.5: give a whole number",
    "--train.max_minutes soon": "train.max_minutes soon: give a number",
    "--model.dilations 3": "model.dilations 3: give a list such as [1, 2]",
    "--convert.n_steps 0": "convert.n_steps 0",
    "--convert.ema_decay 1": "convert.ema_decay 1",
    "--convert.percentile 120": "convert.percentile 120",
    "--model.conv_kernel_size 4": "must be odd",
    "--model.kernel_size 1": "must be even",
    "--model.dilations [0]": "model.dilations",
    "--launch.n_gpus -1": "launch.n_gpus",
    "--mixing.n_closed -1": "mixing.n_closed -1: must be not negative",
    "--scoring.max_utterances -1": "scoring.max_utterances -1",
    "--demo.examples_per_group -1": "demo.examples_per_group -1",
    "--seed x": "--seed x: give a whole number",
    "--train.epoch 3": "train.epoch 3; did you mean --train.epochs?",
    "--epochs 3": "did you mean --train.epochs?",
    "--from-an x": "did you mean --from-ann?",
    "--config nowhere.yaml": "nowhere.yaml: no such file",
    "--train.levels 3": "train.levels 3: is a section; give its settings, --train.levels.NAME",
}


@pytest.mark.parametrize(("argv", "message"), WRONG.items(), ids=WRONG)
def test_invalid_setting_is_one_line_and_status_2(tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit) as ended:
        main(["--exp", str(tmp_path / "exp"), "--data", str(tmp_path), *argv.split()])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("spikesep-train: error:")
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "exp").exists()


CONFIGS = {
    "train: {epchs: 3}": "c.yaml: there is no setting train.epchs; did you mean train.epochs?",
    "seed: 1\ntrai: {epochs: 3}": "c.yaml: there is no setting trai; did you mean train?",
    "epochs: 3": "c.yaml: there is no setting epochs; did you mean train.epochs?",
    "qqqqq: 3": "c.yaml: there is no setting qqqqq",
    "train: {epochs: many}": "c.yaml: train.epochs many: give a whole number",
    "train: 3": "c.yaml: train 3: is a section; give its settings, such as train.epochs",
    "train: [1": "c.yaml: cannot be read as YAML",
    "hello": "c.yaml: contains no settings",
}


@pytest.mark.parametrize(("content", "message"), CONFIGS.items(), ids=CONFIGS)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte-order mark"])
def test_invalid_config_is_named_with_a_suggestion(tmp_path, capsys, content, message, mark):
    config = tmp_path / "c.yaml"
    config.write_text(mark + content)
    with pytest.raises(SystemExit) as ended:
        main(["--exp", str(tmp_path / "exp"), "--config", str(config)])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "exp").exists()


COMMANDS = {path.stem for path in (ROOT / "spikesep" / "cli").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_a_help_text(command, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"spikesep.cli.{command}").main(["--help"])
    assert ended.value.code == 0
    assert f"usage: spikesep-{command}" in capsys.readouterr().out


IMAGE_WRONG = {
    "train --convert.method magic": "convert.method",
    "train --convert.qat_bits 1": "qat_bits 1: must be 2 to 16",
    "train --convert.qat_bits 4 --convert.method tandem": "need --convert.method ptl",
    "train --convert.pruning refit": "prunes to --convert.fan_in inputs",
    "train --convert.budget.synops 1 --convert.qat_bits 4": "give one of them",
    "train --convert.budget.synops 1 --convert.discretize false": "needs --convert.method ptl and",
    "train --images.valid_share 1": "images.valid_share",
    "train --experiment.n_seeds 0": "experiment.n_seeds",
    "train --experiment.vary {convert.speed: [1]}": "convert.speed",
    "train --experiment.architectures [vgg12]": "vgg12",
    "train --launch.n_processes 2": "one process",
    "fly": "fly",
}


@pytest.mark.parametrize(("argv", "message"), IMAGE_WRONG.items(), ids=IMAGE_WRONG)
def test_invalid_image_setting_is_one_line_and_status_2(tmp_path, capsys, argv, message):
    words = argv.split(" ", 2) if "{" in argv else argv.split()
    with pytest.raises(SystemExit) as ended:
        image_main(["--exp", str(tmp_path / "exp"), "--data", str(tmp_path), *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("spikesep-vision: error:")
    assert message in error
    assert "\n" not in error


def test_warning_is_one_line_and_printed_once(tmp_path, capsys):
    path = tmp_path / "two\nlines.wav"
    path.write_bytes(wav_bytes(bytes(4000), riff=0, data=0))

    def action(options):
        for _ in range(2):
            read_channels(path)

    with pytest.raises(SystemExit) as ended:
        run(ArgumentParser(prog="spikesep-x"), action, [])
    assert ended.value.code == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spikesep-x: ")
    assert line.endswith(
        "two lines.wav: was never finished, its header gives no length; 0.12 s of audio are read"
    )
