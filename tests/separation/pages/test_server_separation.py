import io
import json
import tempfile
from functools import partial

import numpy as np
import pytest
import soundfile
from helpers.web.serve import (
    error_message,
    read_response,
    recording,
    send_request,
    serving,
)

from spikesep.separation.inference.in_memory import Model
from spikesep.separation.pages.uploads import Limits


@pytest.mark.parametrize(
    ("kind", "rate", "channels"), [("WAV", 8000, 1), ("FLAC", 16000, 2), ("OGG", 44100, 1)]
)
def test_response_contains_the_voices_of_the_model(service, separator, kind, rate, channels):
    content = recording(0.7, rate, channels, kind)
    status, _, answer = send_request(
        service, "POST", "/separate", content, X_File_Name=f"talk.{kind.lower()}"
    )
    assert status == 200
    lines, parts = read_response(answer)
    assert list(parts) == ["mixture", "voice1", "voice2"]
    report = lines[-1]["report"]
    assert report["sample_rate"] == rate
    assert ("averaged" in report["summary"]) == (channels > 1)
    samples = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].T
    expected = Model(separator).separate(samples, rate)
    for k, voice in enumerate(expected):
        found, found_rate = soundfile.read(io.BytesIO(parts[f"voice{k + 1}"]))
        assert found_rate == rate
        np.testing.assert_allclose(found, voice, atol=2e-4)
    np.testing.assert_allclose(
        soundfile.read(io.BytesIO(parts["mixture"]))[0], samples.mean(0), atol=2e-4
    )


BAD = {
    "text": (b"hello\n", "not a readable audio file"),
    "nothing": (b"", "not a readable audio file"),
    "no samples": (recording(0), "no samples"),
    "cut off": (recording(1)[:5000], "cut off"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_file_is_one_line_that_names_it(service, content, message):
    answer = send_request(service, "POST", "/separate", content, X_File_Name="bad.wav")
    assert answer[0] == 422
    assert message in error_message(answer)
    assert "/dev/fd" not in error_message(answer)


@pytest.mark.parametrize(
    ("content", "status", "option"),
    [
        (recording(2.1), 422, "a larger --max-seconds"),
        (recording(0.3, 655_350), 422, "a larger --max-seconds"),  # 196,605 samples in 0.3 s
        (recording(0.9, 27_000, channels=8), 422, "a larger --max-seconds"),
        (recording(2, 44_100), 413, "--max-megabytes 1"),
    ],
    ids=["long", "rate", "channels", "large"],
)
def test_rejection_names_the_option_with_the_limit(separator, content, status, option):
    limits = Limits(megabytes=0.1 if status == 413 else 1, seconds=2)
    with serving(Model(separator), limits) as service:
        answer = send_request(service, "POST", "/separate", content, X_File_Name="talk.wav")
        assert answer[0] == status
        message = error_message(answer)
        assert message.startswith("talk.wav")
        assert f"start spikesep-serve with {option}" in message
        assert "or use spikesep-infer" in message


def test_missing_and_huge_lengths_are_rejected_unread(service):
    assert send_request(service, "POST", "/separate", b"", Content_Length=str(10**12))[0] == 413
    for length in (None, "-1", "many", "1" * 30):
        assert send_request(service, "POST", "/separate", b"", Content_Length=length)[0] == 411


@pytest.mark.parametrize(
    "number", range(5), ids=["upload", "average", "voice1", "voice2", "estimates"]
)
def test_full_disk_is_one_line_that_names_the_folder(service, monkeypatch, number):
    kinds = iter([False] * number + [True] + [False] * 9)
    ordinary = tempfile.TemporaryFile
    full = partial(open, "/dev/full", "w+b")
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda **options: full() if next(kinds) else ordinary(**options)
    )
    status, _, content = send_request(
        service, "POST", "/separate", recording(), X_File_Name="talk.wav"
    )
    # Once the response has begun, the error is in its last line.
    assert status == (507 if number < 2 else 200)
    message = json.loads(content.splitlines()[-1])["error"]
    assert message.startswith(f"talk.wav: not enough space in {tempfile.gettempdir()}")
    assert "TMPDIR" in message


def test_recording_may_have_fewer_samples_than_channels(service):
    status, _, answer = send_request(service, "POST", "/separate", recording(0.0005, channels=8))
    assert status == 200
    assert len(soundfile.read(io.BytesIO(read_response(answer)[1]["voice1"]))[0]) == 4


def test_headerless_gsm_is_recognized_by_its_name(service):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(1600), 8000, format="RAW", subtype="GSM610")
    status, _, answer = send_request(
        service, "POST", "/separate", buffer.getvalue(), X_File_Name="talk.GSM"
    )
    assert status == 200
    assert len(soundfile.read(io.BytesIO(read_response(answer)[1]["voice1"]))[0]) == 1600


def test_progress_is_reported_after_each_block(service):
    lines, _ = read_response(send_request(service, "POST", "/separate", recording(45))[2])
    shares = [line["share"] for line in lines[:-1]]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    assert len(shares) >= 5
