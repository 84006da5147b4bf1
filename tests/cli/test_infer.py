import json

import numpy as np
import pytest
import soundfile
import torch

from spikesep.cli.infer import main
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model import Separator, save_separator
from spikesep.spiking.fixed_point import to_fixed_point
from spikesep.spiking.signal import Coding


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    separator = Separator(SeparatorConfig(n_filters=16, n_channels=12, dilations=[1, 2], identity="sum")).eval()
    folder = tmp_path_factory.mktemp("exp")
    save_separator(separator, folder / "ann")
    for layer in separator.network.layers.values():
        layer.convert(0.2, Coding(8))
        layer.freeze()
    to_fixed_point(separator.network, [separator.encode(torch.randn(1, 4000))[0]])
    save_separator(separator, folder / "snn")
    return folder


def infer(*argv):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    return ended.value.code


def tone(n, channels=1):
    rng = np.random.default_rng(0)
    return (np.sin(np.arange(n) * 0.3)[:, None] * 0.2 + rng.normal(0, 0.02, (n, channels))).astype(np.float32)


GOOD = {
    "8k.wav": (8000, 1, {}),
    "44k stereo.wav": (44100, 2, {}),
    "5 channels.flac": (16000, 5, {}),
    "24 bit.wav": (8000, 1, {"subtype": "PCM_24"}),
    "float.wav": (48000, 1, {"subtype": "FLOAT"}),
    "vorbis.ogg": (22050, 1, {}),
    "music.mp3": (32000, 2, {}),
    "wörter 語.wav": (8000, 1, {}),
    "one.sample.wav": (8000, 1, {}),
}


@pytest.mark.parametrize(("name", "about"), GOOD.items(), ids=GOOD)
def test_a_recording_of_any_kind_becomes_two_voices_like_it(tmp_path, model, capsys, name, about):
    rate, channels, how = about
    n = 1 if name.startswith("one") else rate // 2
    soundfile.write(tmp_path / name, tone(n, channels), rate, **how)
    assert infer(tmp_path / name, "--model", model, "--out-dir", tmp_path / "out") == 0
    n_read = soundfile.info(tmp_path / name).frames
    for k in (1, 2):
        voice = soundfile.info(tmp_path / "out" / f"{name.rsplit('.', 1)[0]}_spk{k}.wav")
        assert (voice.samplerate, voice.channels, voice.frames, voice.subtype) == (rate, 1, n_read, "PCM_16")
    line = capsys.readouterr().out
    assert "real-time factor" in line
    assert "SynOps" in line
    assert ("channels averaged" in line) == (channels > 1)


BAD = {
    "missing": (lambda p: None, "no such audio file"),
    "text": (lambda p: p.write_text("hello"), "not a readable audio file"),
    "empty": (lambda p: p.write_bytes(b""), "not a readable audio file"),
    "no samples": (lambda p: soundfile.write(p, np.zeros(0), 8000), "no samples"),
    "nan": (lambda p: soundfile.write(p, np.array([0.1, np.nan]), 8000, subtype="FLOAT"), "NaN"),
    "a folder": (lambda p: p.mkdir(), "no such audio file"),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD)
def test_a_bad_recording_is_one_line_and_status_2(tmp_path, model, capsys, damage, message):
    path = tmp_path / "bad.wav"
    damage(path)
    assert infer(path, "--model", model, "--out-dir", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("spikesep-infer: error:")
    assert str(path) in error
    assert message in error
    assert "\n" not in error
    assert not list(tmp_path.glob("out/*"))


def test_the_rest_goes_on_after_a_bad_recording(tmp_path, model, capsys):
    soundfile.write(tmp_path / "good.wav", tone(4000), 8000)
    report = tmp_path / "report.json"
    argv = (tmp_path / "bad.wav", tmp_path / "good.wav", "--model", model, "--out-dir", tmp_path, "--json", report)
    assert infer(*argv) == 2
    assert (tmp_path / "good_spk2.wav").exists()
    bad, good = json.loads(report.read_text())
    assert "no such audio file" in bad["error"]
    assert good["network"] == "snn"
    assert good["cost"]["synops"] > 0
    assert "1 of 2" in capsys.readouterr().err


def test_every_engine_writes_the_same_voices_and_the_report_says_what_ran_where(tmp_path, model):
    soundfile.write(tmp_path / "a.wav", tone(8000), 8000)
    voices = {}
    for engine in ("auto", "dense", "event"):
        out, report = tmp_path / engine, tmp_path / f"{engine}.json"
        argv = (tmp_path / "a.wav", "--model", model, "--out-dir", out, "--engine", engine, "--json", report)
        assert infer(*argv) == 0
        voices[engine] = [(out / f"a_spk{k}.wav").read_bytes() for k in (1, 2)]
        (found,) = json.loads(report.read_text())
        if engine != "auto":
            assert found["engines"]["dilated2"] == f"{engine}: as asked for"
        assert found["engines"]["bottleneck"] == "dense: the input is analog"
    assert voices["dense"] == voices["event"] == voices["auto"]


def test_files_are_not_overwritten_unless_asked(tmp_path, model, capsys):
    soundfile.write(tmp_path / "a.wav", tone(4000), 8000)
    (tmp_path / "a_spk2.wav").write_text("precious")
    argv = (tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path)
    assert infer(*argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "a_spk2.wav").read_text() == "precious"
    assert not (tmp_path / "a_spk1.wav").exists()
    assert infer("--overwrite", *argv) == 0
    assert soundfile.info(tmp_path / "a_spk2.wav").frames == 4000


def test_recordings_of_one_name_are_refused_before_anything_is_written(tmp_path, model, capsys):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", tone(4000), 8000)
    assert (
        infer(tmp_path / "x" / "a.wav", tmp_path / "y" / "a.wav", "--model", model, "--out-dir", tmp_path / "out") == 2
    )
    assert "same name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--modle", "x"], "modle"),
        (["--level", "loud"], "level"),
        (["--segment", "0"], "--segment 0"),
        (["--network", "rnn"], "network"),
        (["--engine", "steam"], "engine"),
        (["--device", "tpu9"], "--device tpu9"),
        (["--model", "nowhere"], "nowhere"),
    ],
    ids=lambda v: "".join(v) if isinstance(v, list) else "",
)
def test_a_wrong_option_is_one_line_and_status_2(tmp_path, model, capsys, argv, message):
    soundfile.write(tmp_path / "a.wav", tone(400), 8000)
    assert infer(tmp_path / "a.wav", "--out-dir", tmp_path / "out", "--model", model, *argv) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_the_analog_network_can_be_asked_for(tmp_path, model, capsys):
    soundfile.write(tmp_path / "a.wav", tone(4000), 8000)
    assert infer(tmp_path / "a.wav", "--model", model, "--network", "ann", "--out-dir", tmp_path) == 0
    assert "MACs" in capsys.readouterr().out


def test_a_recording_is_never_written_over(tmp_path, model, capsys):
    for name in ("a.wav", "a_spk1.wav"):
        soundfile.write(tmp_path / name, tone(400), 8000)
    argv = (tmp_path / "a.wav", tmp_path / "a_spk1.wav", "--model", model, "--out-dir", tmp_path, "--overwrite")
    assert infer(*argv) == 2
    assert "is one of the recordings" in capsys.readouterr().err
