"""300 bad or odd inputs, each generated from its number.

Every one ends in a result, or in one clear line and status 2.
"""

import io
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from helpers.infer import COMMAND, environment, write_tones
from helpers.separators import tiny_separator

from spikesep.cli.infer import main
from spikesep.separation.model.separator import save_separator

N_INPUTS = 300
NAMES = [
    "a",
    "wörter 語",
    "two\nlines",
    "[bold]x[-]",
    "tab\tand 'quotes\"",
    "-dash",
    "{0}%s",
    "*",
    "null",
    "1e5",
]
NAMES += ["\udcff\udcfe", "x" * 250, "..a", "é" * 60, "~home", "a.b.c", " ", "data:audio"]
CONTAINERS = {
    "WAV": ["PCM_16", "PCM_16", "FLOAT", "DOUBLE", "PCM_U8", "ULAW", "IMA_ADPCM", "MS_ADPCM"],
    "WAVEX": ["PCM_24"],
    "FLAC": ["PCM_16"],
    "OGG": ["VORBIS", "OPUS"],
    "MP3": ["MPEG_LAYER_III"],
    "AIFF": ["PCM_16"],
    "AU": ["FLOAT"],
    "CAF": ["PCM_32"],
    "W64": ["PCM_16"],
    "RF64": ["PCM_16"],
}
FORMATS = [(kind, subtype) for kind, subtypes in CONTAINERS.items() for subtype in subtypes]
SPHERE = (
    b"NIST_1A\n   1024\nsample_count -i 1000\nsample_rate -i 8000\nchannel_count -i 1\nend_head\n"
)
MP3_RATES = (8000, 11025, 16000, 44100, 48000)
MAGICS = [b"", b"RIFF", b"OggS", b"fLaC", b"ID3\x04", b"\0\0\0\x18ftypM4A "]
TEXTS = ["hello\n" * 50, "{}", "1\n00:00:01,000 --> 00:00:02,000\nhello\n", "#!/bin/sh\n"]
CHARACTERS = [
    "noise",
    "noise",
    "noise",
    "silence",
    "direct current",
    "clipped",
    "nan",
    "inf",
    "huge",
    "tiny",
]
KINDS = ["sound"] * 12 + [
    "random",
    "text",
    "empty",
    "missing",
    "folder",
    "link",
    "sphere",
    "model",
    "pattern",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "ann"
    save_separator(tiny_separator(n_filters=8, n_channels=4, dilations=[1]), folder)
    return folder


def sound(chance: random.Random) -> bytes:
    """Return an audio file of random format, rate, length and character."""
    rng = np.random.default_rng(chance.randrange(2**32))
    kind, subtype = chance.choice(FORMATS)
    rate = chance.choice([8000, 8000, 11025, 16000, 44100, 48000, 96000, 192000, 12345])
    rate = 48000 if subtype == "OPUS" or (kind == "MP3" and rate not in MP3_RATES) else rate
    n, channels = chance.choice([0, 1, 2, 17, 800, 4000]), chance.choice([1, 1, 2, 5, 8])
    channels = min(channels, 2) if "ADPCM" in subtype or kind == "MP3" else channels
    samples = rng.normal(0, 0.3, (n, channels))
    character = chance.choice(CHARACTERS)
    if character in ("silence", "direct current"):
        samples[:] = 0.0 if character == "silence" else 0.7
    elif character == "clipped":
        samples = np.sign(samples)
    elif character in ("huge", "tiny"):
        samples *= chance.choice([1e3, 1e12, 1e37]) if character == "huge" else 1e-37
    elif n and character in ("nan", "inf") and subtype in ("FLOAT", "DOUBLE"):
        samples[rng.integers(n)] = np.nan if character == "nan" else np.inf
    if subtype not in ("FLOAT", "DOUBLE"):
        samples = samples.clip(-1, 1)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Truncate, extend or change some bytes, mostly in the header."""
    content = bytearray(content)
    damage = chance.choice(
        ["none"] * 6 + ["header", "header", "bytes", "cut", "cut early", "grow", "word", "word"]
    )
    if damage == "cut":
        return bytes(content[: chance.randrange(len(content) + 1)])
    if damage == "cut early":
        return bytes(content[: chance.randrange(60)])
    if damage == "grow":
        return bytes(content) + chance.randbytes(chance.randrange(1, 5000))
    if (
        damage == "word" and len(content) > 48
    ):  # a field of a wav header: channels, rate, bits, lengths
        at = chance.choice([4, 16, 20, 22, 24, 28, 32, 34, 40])
        value = chance.choice(
            [0, 1, 3, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 192_001, 999, 2**24]
        )
        content[at : at + 4] = value.to_bytes(4, "little")
    elif content and damage in ("header", "bytes"):
        for _ in range(chance.choice([1, 3, 30])):
            content[
                chance.randrange(min(64, len(content)) if damage == "header" else len(content))
            ] = chance.randrange(256)
    return bytes(content)


def make_output(out, path, chance: random.Random):
    """Put an obstacle where the output folder should be, or none; return the folder to give."""
    state = chance.choice(["fine"] * 8 + ["a file", "below a file", "read-only", "taken"])
    if state in ("a file", "below a file"):
        out.write_text("precious")
        out = out / "deep" if state == "below a file" else out
    elif state == "read-only":
        out.mkdir()
        out.chmod(0o500)
        # Root may write anywhere but there.
        out = out if os.geteuid() else type(out)("/proc/spikesep")
    elif state == "taken" and len(path.name) < 200:
        (out / f"{path.stem}_spk2.wav").mkdir(parents=True)
    return out


def make_input(folder, number: int) -> list[str]:
    """Create an input in the folder; return the arguments of the command."""
    chance = random.Random(number)
    name = chance.choice(NAMES) + chance.choice(
        [".wav", ".wav", ".flac", ".mp3", ".m4a", ".gsm", "", ".ogg", ".txt"]
    )
    name = name if len(os.fsencode(name)) < 256 else name[:40]
    path = folder / "in" / name
    path.parent.mkdir()
    kind = chance.choice(KINDS)
    if kind == "sound":
        path.write_bytes(damaged(sound(chance), chance))
    elif kind == "random":
        path.write_bytes(chance.choice(MAGICS) + chance.randbytes(3000))
    elif kind == "text":
        path.write_text(chance.choice(TEXTS))
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(
            chance.choice([path.name, "nowhere", "/dev/null", "."])
            if chance.random() < 0.5
            else "nowhere"
        )
    elif kind == "sphere":
        path.write_bytes(damaged((SPHERE + b"\n").ljust(1024) + chance.randbytes(2000), chance))
    elif kind == "model":
        path.write_bytes(bytes(8) + b'{"format": 1}')
    argument = str(path.parent / "*.w?v") if kind == "pattern" else str(path)
    argument = str(path.parent) if chance.random() < 0.1 else argument
    out = make_output(folder / "out", path, chance)
    level = chance.choice(["match-mix", "peak", "none"])
    return [
        f"--out-dir={out}",
        f"--level={level}",
        f"--segment={chance.choice([0.05, 1, 30])}",
        "--",
        argument,
    ]


def listing(folder):
    return {path for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, N_INPUTS, 50))
def test_odd_inputs_end_in_a_result_or_one_line(first, model, tmp_path, capfd):
    results = 0
    for number in range(first, first + 50):
        folder = tmp_path / str(number)
        folder.mkdir()
        argv = make_input(folder, number)
        before = listing(folder)
        with pytest.raises(SystemExit) as ended:
            main(["--model", str(model), *argv])
        sys.stdout.flush()
        out, err = capfd.readouterr()
        err = "".join(
            line
            for line in err.splitlines(keepends=True)
            if " without an audio suffix (" not in line
        )
        made = listing(folder) - before
        about = (number, argv, out, err, made)
        if ended.value.code == 0:
            assert out.endswith("\n"), about
            assert out.count("\n") == 1, about
            assert len(made) == 2, about
            for path in made:
                samples, _ = soundfile.read(os.fsencode(path))
                assert np.isfinite(samples).all(), about
            results += 1
        else:
            assert ended.value.code == 2, about
            *notes, error = err.splitlines()
            assert error.startswith("spikesep-infer: error: "), about
            assert all(note.startswith("spikesep-infer: /") for note in notes), about
            assert len(notes) < 2, about
            assert "Traceback" not in err, about
            assert not made, about
    assert 5 < results < 45


def test_names_that_standard_output_cannot_show_are_escaped(tmp_path, model):
    write_tones(tmp_path, "文.wav", "b.wav")
    done = subprocess.run(
        [*COMMAND, "文.wav", "b.wav", "--model", model, "--out-dir", "o"],
        cwd=tmp_path,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode("ascii").splitlines()
    assert [line.partition(" ")[0] for line in lines] == [r"\u6587.wav", "b.wav"]
