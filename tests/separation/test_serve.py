import errno
import http.client
import io
import json
import os
import socket
import threading
from email import message_from_bytes
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from spikesep.errors import SpikeSepError
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model import Separator
from spikesep.separation.separate import Model
from spikesep.separation.serve import Service


class Waiting(Model):
    """Between its blocks it waits until the test lets it go on."""

    def __init__(self, separator):
        super().__init__(separator)
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def separate_recording(self, samples, sample_rate, level="match-mix", segment_seconds=30.0, on_progress=None):
        on_progress(0.25)
        self.begun.set()
        assert self.go.wait(10)
        try:
            return super().separate_recording(samples, sample_rate, level, segment_seconds, on_progress)
        finally:
            self.ended.set()


@pytest.fixture
def separator():
    torch.manual_seed(0)
    return Separator(SeparatorConfig(n_filters=16, n_channels=8, dilations=[1, 2]))


@pytest.fixture
def service(separator):
    with serving(Model(separator)) as running:
        yield running


class serving:  # noqa: N801
    """A service that runs in a thread."""

    def __init__(self, model, **options):
        self.service = Service(model, "a model", **options)

    def __enter__(self) -> Service:
        self.thread = threading.Thread(target=self.service.serve_forever, args=(0.01,))
        self.thread.start()
        return self.service

    def __exit__(self, *_):
        self.service.shutdown()
        self.service.server_close()
        self.thread.join()


def connect(service) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", service.server_port, timeout=10)


def ask(service, method="GET", path="/", body=None, **headers):
    """Status, headers and content of the answer; header names with _ for -, None leaves one out."""
    address = service.url.rstrip("/")
    given = {"Host": address[7:]}
    if method == "POST":
        given |= {
            "Origin": address,
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(body or b"")),
        }
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = connect(service)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def error_of(answer) -> str:
    status, headers, content = answer
    assert 400 <= status < 600
    assert headers["Content-Type"] == "application/json"
    (message,) = json.loads(content).values()
    assert message
    assert "\n" not in message
    return message


def recording(seconds=1.0, rate=8000, channels=1, kind="WAV") -> bytes:
    samples = 0.1 * np.random.default_rng(0).normal(size=(int(seconds * rate), channels))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


def parts_of(headers, content) -> dict[str, bytes]:
    message = message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + content)
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.get_payload()
    }


def test_a_disk_without_room_is_told(service, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    answer = ask(service, "POST", "/separate", recording(), X_File_Name="talk.wav")
    assert answer[0] == 507
    assert "talk.wav: cannot be kept" in error_of(answer)


@pytest.mark.parametrize(("kind", "rate", "channels"), [("WAV", 8000, 1), ("FLAC", 16000, 2), ("OGG", 44100, 1)])
def test_a_recording_comes_back_as_the_voices_that_the_model_makes_of_it(service, separator, kind, rate, channels):
    content = recording(0.7, rate, channels, kind)
    status, headers, answer = ask(service, "POST", "/separate", content, X_File_Name=f"talk.{kind.lower()}")
    assert status == 200
    parts = parts_of(headers, answer)
    assert list(parts) == ["report", "mixture", "voice1", "voice2"]
    report = json.loads(parts["report"])
    assert report["sample_rate"] == rate
    assert ("averaged" in report["summary"]) == (channels > 1)
    samples = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].T
    expected = Model(separator).separate(samples, rate)
    for k, voice in enumerate(expected):
        found, found_rate = soundfile.read(io.BytesIO(parts[f"voice{k + 1}"]))
        assert found_rate == rate
        np.testing.assert_allclose(found, voice, atol=2e-4)
    np.testing.assert_allclose(soundfile.read(io.BytesIO(parts["mixture"]))[0], samples.mean(0), atol=2e-4)


def test_the_page_may_load_nothing_from_elsewhere_and_is_not_kept(service):
    for path in ("/", "/player.js", "/style.css", "/serve.js"):
        status, headers, content = ask(service, path=path)
        assert status == 200
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert headers["Cache-Control"] == "no-store"
        assert b"http://" not in content
        assert b"https://" not in content


@pytest.mark.parametrize(
    "path",
    [
        "/../serve.py",
        "/..%2f..%2fpyproject.toml",
        "//etc/passwd",
        "/etc/passwd",
        "/page.py",
        "/player.html",
        "/./player.js",
    ],
)
def test_no_path_leads_to_another_file(service, path):
    assert ask(service, path=path)[0] == 404
    assert ask(service, "POST", path, recording(0.1))[0] == 404


@pytest.mark.parametrize(
    "name", ["../../../evil.wav", "/etc/evil.wav", "..%2Fevil.wav", "%00%0Aevil.wav", "C:\\evil.wav"]
)
def test_the_name_of_an_upload_leads_nowhere_and_is_shown_without_folders(service, name):
    message = error_of(ask(service, "POST", "/separate", b"hello", X_File_Name=name))
    assert message.startswith("evil.wav: not a readable audio file")
    assert not list(Path(service.folder.name).iterdir())


def test_another_name_for_this_address_is_refused(service):
    port = service.server_port
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "127.0.0.1:1", "", None):
        assert ask(service, Host=host)[0] == 403
        assert ask(service, "POST", "/separate", recording(0.1), Host=host)[0] == 403
    assert ask(service, Host=f"localhost:{port}")[0] == 200


def test_another_page_can_neither_send_nor_ask(service):
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{service.server_port + 1}", None):
        assert ask(service, "POST", "/separate", recording(0.1), Origin=origin)[0] == 403
    assert ask(service, path="/progress", Origin="http://evil.example")[0] == 403
    status, headers, _ = ask(service, "OPTIONS", "/separate", Origin="http://evil.example")
    assert status == 501
    assert "Access-Control-Allow-Origin" not in headers
    assert ask(service, "POST", "/separate", recording(0.1), Content_Type="multipart/form-data")[0] == 415


BAD = {
    "text": (b"hello\n", "not a readable audio file"),
    "nothing": (b"", "not a readable audio file"),
    "no samples": (recording(0), "no samples"),
    "cut off": (recording(1)[:5000], "cut off"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line_that_names_it(service, content, message):
    answer = ask(service, "POST", "/separate", content, X_File_Name="bad.wav")
    assert answer[0] == 422
    assert message in error_of(answer)
    assert service.folder.name not in error_of(answer)


def test_what_is_too_large_or_too_long_is_refused_with_the_option_that_says_so(separator):
    with serving(Model(separator), max_megabytes=0.1, max_seconds=2) as service:
        assert ask(service, "POST", "/separate", recording(2))[0] == 200
        long, large = (ask(service, "POST", "/separate", recording(2.1, rate)) for rate in (8000, 44100))
        assert (long[0], large[0]) == (422, 413)
        assert "--max-seconds" in error_of(long)
        assert "--max-megabytes" in error_of(large)
        huge = ask(service, "POST", "/separate", b"", Content_Length=str(10**12))
        assert huge[0] == 413
        for length in (None, "-1", "many", "1" * 30):
            assert ask(service, "POST", "/separate", b"", Content_Length=length)[0] == 411


def test_fewer_samples_than_channels_are_still_a_recording(service):
    status, headers, answer = ask(service, "POST", "/separate", recording(0.0005, channels=8))
    assert status == 200
    assert len(soundfile.read(io.BytesIO(parts_of(headers, answer)["voice1"]))[0]) == 4


def test_one_recording_at_a_time_the_next_is_told_busy_and_progress_is_shown(separator):
    model = Waiting(separator)
    with serving(model) as service:
        first: list = []
        thread = threading.Thread(target=lambda: first.append(ask(service, "POST", "/separate", recording())))
        thread.start()
        assert model.begun.wait(10)
        assert json.loads(ask(service, path="/progress")[2]) == {"busy": True, "share": 0.25}
        second = ask(service, "POST", "/separate", recording(5, 44100))
        assert second[0] == 503
        assert "busy" in error_of(second)
        model.go.set()
        thread.join()
        assert first[0][0] == 200
        assert ask(service, "POST", "/separate", recording())[0] == 200


def test_a_model_that_fails_is_an_answer_and_the_next_recording_is_taken(separator, monkeypatch):
    with serving(Model(separator)) as service:
        with monkeypatch.context() as patched:
            patched.setattr(separator, "separate_with_cost", lambda mixture: torch.zeros(2) @ torch.zeros(3))
            answer = ask(service, "POST", "/separate", recording(), X_File_Name="talk.wav")
        assert answer[0] == 500
        assert error_of(answer).startswith("talk.wav: could not be separated (")
        assert ask(service, "POST", "/separate", recording())[0] == 200


def test_a_client_that_hangs_up_frees_the_model(separator):
    model = Waiting(separator)
    with serving(model) as service:
        connection = connect(service)
        headers = {"Origin": service.url[:-1], "Content-Type": "application/octet-stream"}
        connection.request("POST", "/separate", recording(), headers)
        assert model.begun.wait(10)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        model.go.set()
        assert model.ended.wait(10)
        assert service.busy.acquire(timeout=10)
        service.busy.release()


def test_the_end_stops_what_is_under_way_and_leaves_nothing(separator):
    model = Waiting(separator)
    with serving(model) as service:
        folder = Path(service.folder.name)
        assert folder.is_dir()
        connection = connect(service)
        headers = {"Origin": service.url[:-1], "Content-Type": "application/octet-stream"}
        connection.request("POST", "/separate", recording(), headers)
        assert model.begun.wait(10)
        assert not list(folder.iterdir())  # read already
        threading.Timer(0.2, model.go.set).start()
    assert model.ended.is_set()
    assert not folder.exists()
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        connection.getresponse()


def test_only_the_loopback_address_is_listened_on_and_a_taken_port_is_one_line(service, separator):
    assert service.server_address[0] == "127.0.0.1"
    with pytest.raises(SpikeSepError, match=rf"--port {service.server_port}: .*0 for a free one"):
        Service(Model(separator), "a model", service.server_port)
