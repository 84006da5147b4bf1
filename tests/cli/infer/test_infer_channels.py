import json

import numpy as np
import soundfile
from helpers.infer import infer, tone, tree


def stereo(path, first, second):
    soundfile.write(path, np.concatenate([first, second], axis=1), 8000, subtype="FLOAT")


def test_channels_are_separated_individually(tmp_path, model, capsys, pipe):
    stereo(tmp_path / "call.wav", tone(4000), 0.5 * tone(4000)[::-1])
    argv = (
        tmp_path / "call.wav",
        "--model",
        model,
        "--out-dir",
        tmp_path / "each",
        "--channels",
        "each",
    )
    assert infer(*argv) == 0
    assert tree(tmp_path / "each") == [
        f"call_ch{channel}_spk{k}.wav" for channel in (1, 2) for k in (1, 2)
    ]
    assert "2 channels separately" in capsys.readouterr().out
    assert infer(*argv) == 2
    assert "call_ch1_spk1.wav: already exists" in capsys.readouterr().err
    argv = (tmp_path / "call.wav", "--model", model, "--out-dir", tmp_path / "one", "--channels")
    assert infer(*argv, 2) == 0
    assert "channel 2 of 2" in capsys.readouterr().out
    for name in ("call_ch2_spk1.wav", "call_ch2_spk2.wav"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()
    assert infer(*argv, 3) == 2
    assert (
        "call.wav: --channels 3: the recording has 2; give mix, each, or 1 to 2"
        in capsys.readouterr().err
    )
    voices = [
        soundfile.read(tmp_path / "each" / name, dtype="int16")[0]
        for name in tree(tmp_path / "each")
    ]
    for live in ([], ["--live", "--level", "none"]):
        stdout = pipe((tmp_path / "call.wav").read_bytes())
        assert infer("-", "--model", model, "--channels", "each", *live) == 0
        piped = np.frombuffer(stdout.getvalue()[44:], np.int16).reshape(-1, 4)
        if not live:
            np.testing.assert_array_equal(piped, np.stack(voices, axis=1))
        assert len(piped) == 4000


def test_strongest_of_cancelling_channels_is_separated_and_reported(tmp_path, model, capsys, pipe):
    stereo(tmp_path / "a.wav", 0.9 * tone(9000), -tone(9000))
    argv = ("--model", model, "--out-dir")
    report = tmp_path / "report.json"
    assert infer(tmp_path / "a.wav", *argv, tmp_path / "mix", "--json", report) == 0
    assert (
        "channel 2 of 2 because the channels cancel when averaged (opposite phase)"
        in capsys.readouterr().out
    )
    assert json.loads(report.read_text())[0]["separated"] == 2
    assert infer(tmp_path / "a.wav", *argv, tmp_path / "one", "--channels", 2) == 0
    for k in (1, 2):
        mixed, one = (tmp_path / name for name in (f"mix/a_spk{k}.wav", f"one/a_ch2_spk{k}.wav"))
        assert mixed.read_bytes() == one.read_bytes()
    capsys.readouterr()
    pipe((tmp_path / "a.wav").read_bytes())
    assert infer("-", "--live", "--model", model) == 0
    assert "opposite phase and cancel when averaged; give --channels 2" in capsys.readouterr().err
