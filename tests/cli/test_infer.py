import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import soundfile
import torch
from numba.core.event import trigger_event

from spikesep.cli.infer import main
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.inference import batch, recordings
from spikesep.separation.model.separator import Separator, save_separator
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.signal import Coding


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    separator = Separator(
        SeparatorConfig(n_filters=16, n_channels=12, dilations=[1, 2], identity="sum")
    ).eval()
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
    return (np.sin(np.arange(n) * 0.3)[:, None] * 0.2 + rng.normal(0, 0.02, (n, channels))).astype(
        np.float32
    )


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
        assert (voice.samplerate, voice.channels, voice.frames, voice.subtype) == (
            rate,
            1,
            n_read,
            "PCM_16",
        )
    line = capsys.readouterr().out
    assert "real-time factor" in line
    assert "SynOps" in line
    assert ("channels averaged" in line) == (channels > 1)


BAD = {
    "missing": (lambda p: None, "no such audio file"),
    "text": (lambda p: p.write_text("hello"), "not a readable audio file"),
    "empty": (lambda p: p.write_bytes(b""), "is empty (0 bytes); copy or record it again"),
    "no samples": (lambda p: soundfile.write(p, np.zeros(0), 8000), "no samples"),
    "nan": (lambda p: soundfile.write(p, np.array([0.1, np.nan]), 8000, subtype="FLOAT"), "NaN"),
    "a folder": (
        lambda p: p.mkdir(),
        "a folder without audio files; give another folder, or name a file in it",
    ),
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
    argv = (
        tmp_path / "bad.wav",
        tmp_path / "good.wav",
        "--model",
        model,
        "--out-dir",
        tmp_path,
        "--json",
        report,
    )
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
        argv = (
            tmp_path / "a.wav",
            "--model",
            model,
            "--out-dir",
            out,
            "--engine",
            engine,
            "--json",
            report,
        )
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


def test_recordings_of_one_name_or_stem_get_voices_of_their_own(tmp_path, model):
    for name in ("x/a.wav", "y/a.wav", "y/b.wav", "y/b.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, tone(800), 8000)
    argv = (tmp_path / "x", tmp_path / "y", "--model", model, "--out-dir", tmp_path / "out")
    assert infer(*argv) == 0
    names = ("b.flac", "b.wav", "x/a", "y/a")
    assert tree(tmp_path / "out") == [f"{name}_spk{k}.wav" for name in names for k in (1, 2)]


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
        (["--channels", "left"], "channels"),
        (["--channels", "0"], "--channels 0: give mix, each, or the number of one"),
        (
            ["--resume", "--overwrite"],
            "--resume: continues a batch of files; leave out --overwrite",
        ),
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
    assert (
        infer(tmp_path / "a.wav", "--model", model, "--network", "ann", "--out-dir", tmp_path) == 0
    )
    assert "MACs" in capsys.readouterr().out


def test_a_recording_is_never_written_over(tmp_path, model, capsys):
    for name in ("a.wav", "a_spk1.wav"):
        soundfile.write(tmp_path / name, tone(400), 8000)
    argv = (
        tmp_path / "a.wav",
        tmp_path / "a_spk1.wav",
        "--model",
        model,
        "--out-dir",
        tmp_path,
        "--overwrite",
    )
    assert infer(*argv) == 2
    assert "is one of the recordings" in capsys.readouterr().err


def test_a_report_takes_no_other_files_place(tmp_path, model, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b.wav"):
        soundfile.write(name, tone(800), 8000)
    os.mkdir("notes")
    before = (tmp_path / "a.wav").read_bytes()
    argv = ["a.wav", "b.wav", "--model", model, "--out-dir", "voices", "--overwrite"]
    for report, message in {
        "notes": "notes: is a folder; give another --json",
        ".": "is a folder",
        "a.wav": "a.wav: is one of the recordings; give another --json",
        "voices/b_spk1.wav": "is where a voice goes",
        "voices": "is a folder that voices go to",
    }.items():
        assert infer(*argv, "--json", report) == 2
        assert message in capsys.readouterr().err
        assert tree(tmp_path) == ["a.wav", "b.wav"]
        assert (tmp_path / "notes").is_dir()
        assert (tmp_path / "a.wav").read_bytes() == before
    (tmp_path / "kept.json").write_text("old")
    assert infer(*argv[:-1], "--json", "kept.json") == 2
    assert "kept.json: is there already; give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "kept.json").read_text() == "old"
    assert infer(*argv, "--json", "kept.json") == 0


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_folders_keep_their_layout_and_processes_share_them(
    tmp_path, model, capsys, monkeypatch, jobs
):
    for name in ("in/a.wav", "in/deep/b.flac", "c.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, tone(800), 8000)
    (tmp_path / "in" / "bad.wav").write_text("no audio")
    out, report = tmp_path / "out", tmp_path / "report.json"
    argv = (
        tmp_path / "in",
        f"{tmp_path}/*.wav",
        "--model",
        model,
        "--out-dir",
        out,
        "--jobs",
        jobs,
        "--json",
        report,
    )
    assert infer(*argv) == 2
    assert tree(out) == [
        "a_spk1.wav",
        "a_spk2.wav",
        "c_spk1.wav",
        "c_spk2.wav",
        "deep/b_spk1.wav",
        "deep/b_spk2.wav",
    ]
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "1 of 4 recordings could not be separated" in printed.err
    assert [("error" in entry) for entry in json.loads(report.read_text())] == [
        False,
        True,
        False,
        False,
    ]


def test_time_steps_can_be_changed_and_the_report_tells(tmp_path, model):
    soundfile.write(tmp_path / "a.wav", tone(4000), 8000)
    synops = {}
    for steps in (2, 8, 16):
        report = tmp_path / f"{steps}.json"
        argv = (
            tmp_path / "a.wav",
            "--model",
            model,
            "--out-dir",
            tmp_path / str(steps),
            "--json",
            report,
        )
        assert infer(*argv, "--steps", steps) == 0
        cost = json.loads(report.read_text())[0]["cost"]
        assert cost["n_steps"] == steps
        synops[steps] = cost["synops"]
    assert synops[2] < synops[8] < synops[16]


@pytest.fixture
def pipe(monkeypatch):
    """Put bytes on standard input; give what comes on standard output."""

    def put(content: bytes):
        stdin, stdout = (
            io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))),
            io.TextIOWrapper(io.BytesIO()),
        )
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        return stdout.buffer

    return put


def wav(samples, rate, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def test_a_pipe_gives_on_standard_output_what_a_file_gives_and_nothing_else(
    tmp_path, model, pipe, capsys
):
    soundfile.write(tmp_path / "a.wav", tone(8000, 2), 16000)
    assert infer(tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path) == 0
    voices = np.stack(
        [soundfile.read(tmp_path / f"a_spk{k}.wav", dtype="int16")[0] for k in (1, 2)], axis=1
    )
    stdout = pipe((tmp_path / "a.wav").read_bytes())
    assert infer("-", "--model", model) == 0
    piped, rate = soundfile.read(io.BytesIO(stdout.getvalue()), dtype="int16")
    assert rate == 16000
    np.testing.assert_array_equal(piped, voices)
    assert "real-time factor" in capsys.readouterr().err


def test_a_stream_whose_header_knows_no_length_is_separated(tmp_path, model, pipe):
    left = tmp_path / ".spikesep-locked-0.1.part.wav"  # by a process that was killed
    left.touch()
    content = bytearray(wav(tone(3000), 8000))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    pipe(bytes(content))
    assert infer("-", "--model", model, "--out-dir", tmp_path) == 0
    assert soundfile.info(tmp_path / "stdin_spk2.wav").frames == 3000
    assert not left.exists()


@pytest.mark.parametrize("live", [True, False])
def test_what_stands_behind_the_samples_of_a_stream_is_not_heard(tmp_path, model, pipe, live):
    content = wav(tone(3000), 8000, "FLOAT") + b"LIST" + (800).to_bytes(4, "little") + b"\x7e" * 800
    content = content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:]
    pipe(content)
    assert infer("-", "--model", model, "--out-dir", tmp_path, *(["--live"] if live else [])) == 0
    assert soundfile.info(tmp_path / "stdin_spk2.wav").frames == 3000


def test_a_stream_that_was_cut_off_is_told(tmp_path, model, pipe, capsys):
    pipe(wav(tone(3000), 8000)[:-100])
    assert infer("-", "--model", model, "--out-dir", tmp_path) == 2
    assert "standard input: cut off" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bare_samples_can_be_piped(tmp_path, model, pipe):
    pipe((tone(3000)[:, 0] * 32767).astype("<i2").tobytes())
    assert infer("-", "--raw", 16000, "--model", model, "--out-dir", tmp_path) == 0
    info = soundfile.info(tmp_path / "stdin_spk1.wav")
    assert (info.samplerate, info.frames) == (16000, 3000)


@pytest.mark.parametrize("raw", [False, True])
def test_live_voices_are_those_of_the_whole_up_to_their_level(tmp_path, model, pipe, capsys, raw):
    samples = (tone(12000)[:, 0] * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    argv = ("--model", model, "--level", "none")
    assert infer(tmp_path / "a.wav", "--out-dir", tmp_path, *argv) == 0
    stdout = pipe(samples.tobytes() if raw else wav(samples, 16000))
    assert infer("-", "--live", "--segment", 0.1, *argv, *(["--raw", 16000] if raw else [])) == 0
    live = np.frombuffer(stdout.getvalue()[44:], np.int16).reshape(-1, 2)
    for k in (1, 2):
        voice = soundfile.read(tmp_path / f"a_spk{k}.wav", dtype="int16")[0]
        np.testing.assert_allclose(live[:, k - 1], voice, atol=1)
    assert "latency" in capsys.readouterr().err


def test_standard_input_that_holds_nothing_is_told(model, pipe, capsys, monkeypatch):
    for argv in (["-"], ["-", "--live"]):
        stdout = pipe(b"")
        assert infer(*argv, "--model", model) == 2
        assert "standard input: is empty" in capsys.readouterr().err
        monkeypatch.setattr(sys, "stdin", None)  # as Python has it where it is closed
        assert infer(*argv, "--model", model) == 2
        assert "-: standard input is closed; give a file" in capsys.readouterr().err
        assert not stdout.getvalue()


def test_a_live_stream_of_no_rate_is_refused_before_anything_is_written(model, pipe, capsys):
    content = bytearray(wav(tone(800), 8000))
    content[24:32] = bytes(8)
    stdout = pipe(bytes(content))
    assert infer("-", "--live", "--model", model) == 2
    assert "standard input: a sample rate of 0 Hz; it must be" in capsys.readouterr().err
    assert not stdout.getvalue()


def test_pipes_are_read_as_files_are(tmp_path, model, capsys):
    soundfile.write(tmp_path / "a.wav", tone(800), 8000)
    os.mkfifo(tmp_path / "fifo")
    for content, status in (((tmp_path / "a.wav").read_bytes(), 0), (b"hello", 2), (b"", 2)):
        writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=[content])
        writer.start()
        argv = (
            tmp_path / "fifo",
            tmp_path / "a.wav",
            "--model",
            model,
            "--out-dir",
            tmp_path / "out",
            "--overwrite",
        )
        assert infer(*argv) == status
        writer.join()
        if status:
            assert f"{tmp_path / 'fifo'}: " in capsys.readouterr().err
    assert (tmp_path / "out" / "fifo_spk1.wav").read_bytes() == (
        tmp_path / "out" / "a_spk1.wav"
    ).read_bytes()


@pytest.mark.slow
def test_live_voices_come_while_the_recording_goes_on(model):
    """A process, a real pipe: the first voices are there before the recording ends, as late as is said."""
    code = "import sys; from spikesep.cli.infer import main; main(sys.argv[1:])"
    argv = [
        sys.executable,
        "-c",
        code,
        "-",
        "--live",
        "--segment",
        "0.1",
        "--raw",
        "8000",
        "--model",
        str(model),
    ]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    impatience = threading.Timer(60, process.kill)  # if nothing came, reading would wait for ever
    impatience.start()
    process.stdin.write(np.zeros(8000, "<i2").tobytes())
    process.stdin.flush()
    header = process.stdout.read(44)
    assert header[:4] == b"RIFF"
    assert (
        len(process.stdout.read(2 * 2 * 6000)) == 24000
    )  # a second was put in, 0.75 s come out; it goes on
    process.stdin.close()
    assert len(process.stdout.read()) == 2 * 2 * 2000
    assert process.wait() == 0
    impatience.cancel()


@pytest.mark.slow
def test_a_live_recording_that_is_ended_by_a_signal_is_kept(tmp_path, model):
    code = "import sys; from spikesep.cli.infer import main; main(sys.argv[1:])"
    argv = [
        sys.executable,
        "-c",
        code,
        "-",
        "--live",
        "--segment",
        "0.1",
        "--raw",
        "8000",
        "--model",
        str(model),
    ]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(
        [*argv, "--out-dir", str(tmp_path)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    process.stdin.write(np.zeros(8000, "<i2").tobytes())
    process.stdin.flush()
    assert b"latency" in process.stderr.readline()
    with suppress(BrokenPipeError):  # it is at its end
        for _ in range(1000):
            time.sleep(0.02)
            process.stdin.write(np.zeros(80, "<i2").tobytes())
            process.stdin.flush()
            if any(part.stat().st_size > 8000 for part in tmp_path.glob(".spikesep-*.part.wav")):
                process.terminate()
                break
    assert process.wait(20) == 0
    assert soundfile.info(tmp_path / "stdin_spk2.wav").frames >= 8000


def test_a_live_recording_that_breaks_off_is_kept_up_to_there_and_told(
    tmp_path, model, pipe, capsys
):
    samples = tone(40000)
    samples[35000] = np.nan  # beyond the first piece of a pipe
    pipe(wav(samples, 8000, "FLOAT"))
    argv = (
        "-",
        "--live",
        "--segment",
        0.1,
        "--model",
        model,
        "--out-dir",
        tmp_path,
        "--json",
        tmp_path / "report",
    )
    assert infer(*argv) == 2
    latency, error = capsys.readouterr().err.strip().splitlines()
    assert "latency" in latency
    assert "NaN" in error
    assert "what came before is separated" in error
    assert 16000 < soundfile.info(tmp_path / "stdin_spk1.wav").frames < 35000
    (report,) = json.loads((tmp_path / "report").read_text())
    assert "NaN" in report["broken_off"]


def test_live_voices_never_pass_full_scale(model, pipe):
    rng = np.random.default_rng(0)
    loud = (rng.normal(0, 0.05, 16000) * np.where(np.arange(16000) > 9000, 6, 1)).clip(-1, 1)
    for level in ("match-mix", "peak", "none"):
        stdout = pipe(wav(loud * 100, 8000, "FLOAT"))
        assert infer("-", "--live", "--segment", 0.05, "--level", level, "--model", model) == 0
        assert len(stdout.getvalue()) == 44 + 4 * 16000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a.wav", "--live"], "--live"),
        (["-", "a.wav"], "standard input is separated alone"),
        (["a.wav", "--raw", "8000"], "--raw 8000"),
        (["-", "--raw", "0"], "--raw 0"),
        (["-", "--raw", "10"], "sample rate of 10 Hz"),
        (["-", "--live"], "no wav stream"),
        (["-"], "not a readable audio file"),
        (["-", "--resume"], "--resume: continues a batch of files"),
        (["-", "--channels", "2", "--raw", "8000"], "--channels 2: the recording has 1"),
        (["mic", "--live"], "sounddevice"),
        (["a.wav", "--jobs", "-1"], "--jobs -1"),
        (["a.wav", "--steps", "0"], "--steps 0"),
        (["a.wav", "--steps", "4", "--network", "ann"], "--steps 4: only a network"),
        (["a.wav", "--segment", "nan"], "segment"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_does_not_go_together_is_one_line_and_status_2(
    tmp_path, model, capsys, pipe, monkeypatch, argv, message
):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    monkeypatch.chdir(tmp_path)
    stdout = pipe(b"hello, I am no recording at all")
    assert infer(*argv, "--model", model) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not stdout.getvalue()
    assert not list(tmp_path.iterdir())


def stereo(path, first, second):
    soundfile.write(path, np.concatenate([first, second], axis=1), 8000, subtype="FLOAT")


def test_channels_are_separated_on_their_own_or_one_of_them(tmp_path, model, capsys, pipe):
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
    assert "call_ch1_spk1.wav: is there already" in capsys.readouterr().err
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


def test_channels_in_opposite_phase_are_told_and_the_strongest_is_separated(
    tmp_path, model, capsys, pipe
):
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


@pytest.mark.parametrize("out", ["day/voices", "day", "voices"])
def test_the_second_night_goes_like_the_first(tmp_path, model, capsys, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    os.mkdir("day")
    soundfile.write("day/a.wav", tone(800), 8000)
    (tmp_path / "day" / "notes.txt").touch()
    argv = ("day", "--model", model, "--out-dir", out)
    assert infer(*argv) == 0
    made = tree(tmp_path)
    assert infer(*argv, "--overwrite") == 0
    assert "1 file without an audio suffix passed over (.txt 1)" in capsys.readouterr().err
    assert infer(*argv) == 2
    assert "is there already; give --overwrite to replace it, --resume" in capsys.readouterr().err
    soundfile.write("day/b.wav", tone(800), 8000)
    assert infer(*argv, "--resume") == 0
    printed = capsys.readouterr()
    assert "1 of 2 recordings skipped" in printed.err
    assert [line.partition(" ")[0] for line in printed.out.splitlines()] == ["day/b.wav"]
    assert tree(tmp_path) == sorted([*made, "day/b.wav", f"{out}/b_spk1.wav", f"{out}/b_spk2.wav"])


def test_a_batch_that_was_ended_between_two_voices_goes_on(tmp_path, model):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, tone(800), 8000)
    argv = (tmp_path / "a.wav", tmp_path / "b.wav", "--model", model, "--out-dir", tmp_path / "out")
    assert infer(*argv) == 0
    whole = {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")}
    kept = (tmp_path / "out" / "a_spk1.wav").stat().st_ino
    (tmp_path / "out" / "b_spk1.wav").unlink()
    (tmp_path / "out" / "b_spk2.wav").write_bytes(b"half")
    (tmp_path / "out" / ".spikesep-locked-0.1.part.wav").touch()  # of a process that was killed
    assert infer(*argv, "--resume", "--json", tmp_path / "report") == 0
    assert {
        name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")
    } == whole
    assert (tmp_path / "out" / "a_spk1.wav").stat().st_ino == kept
    assert "skipped" in json.loads((tmp_path / "report").read_text())[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_voices_are_written_leaves_nothing(
    tmp_path, model, capsys, monkeypatch, number
):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, tone(800), 8000)
    append = recordings.to_pcm16

    def interrupted(voices):
        assert len(list((tmp_path / "out").glob(".*.part.wav"))) == 2
        os.kill(os.getpid(), number)
        return append(voices)

    monkeypatch.setattr(recordings, "to_pcm16", interrupted)
    before = signal.getsignal(number)
    argv = (tmp_path / "a.wav", tmp_path / "b.wav", "--model", model, "--out-dir", tmp_path / "out")
    assert infer(*argv) == 128 + number
    assert list((tmp_path / "out").iterdir()) == []
    assert "stopped after 0 of 2 recordings; --resume continues" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_whatever_is_wrong_with_one_recording_the_rest_goes_on(
    tmp_path, model, capsys, monkeypatch
):
    names = ("a.wav", "b.wav", "x" * 250 + ".wav")
    for name in names:
        soundfile.write(tmp_path / name, tone(800), 8000)
    opened = batch.open_sound

    def fail(path, *options):
        if path.name == "a.wav":
            raise TypeError("samplerate must be specified")
        return opened(path, *options)

    monkeypatch.setattr(batch, "open_sound", fail)
    assert (
        infer(*(tmp_path / name for name in names), "--model", model, "--out-dir", tmp_path / "out")
        == 2
    )
    assert tree(tmp_path / "out") == ["b_spk1.wav", "b_spk2.wav"]
    error = capsys.readouterr().err
    assert (
        "a.wav: unexpected TypeError (samplerate must be specified); please report this as a bug"
        in error
    )
    assert "this name has 259 bytes, the limit is 255; rename the recording" in error
    assert "2 of 3 recordings could not be separated" in error


def test_an_output_folder_that_cannot_be_is_told_with_the_option(tmp_path, model, capsys):
    soundfile.write(tmp_path / "a.wav", tone(800), 8000)
    (tmp_path / "file").write_text("precious")
    for out in ("file", "file/below"):
        assert infer(tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path / out) == 2
        assert "give another --out-dir" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"


def test_at_a_terminal_it_is_told_that_loops_are_compiled(tmp_path, model, capsys, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(800), 8000)

    def separate(*_):
        with trigger_event("numba:compile"):
            return {"recording": "a.wav", "error": "a.wav: no matter"}

    monkeypatch.setattr(batch, "separate_file", separate)
    argv = (tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path / "out")
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert infer(*argv) == 2
        assert ("compiling the spiking layers" in capsys.readouterr().err) == terminal


CLOSED = "import sys; from spikesep.cli.infer import main; main(sys.argv[1:])"


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(tmp_path, model, closed):
    soundfile.write(tmp_path / "a.wav", tone(800), 8000)
    argv = [sys.executable, "-c", CLOSED, "a.wav", "no.wav", "--model", model, "--out-dir", "out"]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "bash", *argv],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert all(soundfile.info(tmp_path / "out" / f"a_spk{k}.wav").frames == 800 for k in (1, 2))


def test_a_disk_that_is_full_is_told_and_nothing_is_left(tmp_path, model, capsys):
    soundfile.write(tmp_path / "a.wav", tone(8000), 8000)
    for size in (1000, 20_000):  # in the spool
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            assert infer(tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path / "out") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "make room" in capsys.readouterr().err
        assert not list((tmp_path / "out").iterdir())
