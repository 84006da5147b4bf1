import http.client
import io
import json
import select
import socket
import tempfile
import threading
import time
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from spikesep.errors import SpikeSepError
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.inference.separate import Model
from spikesep.separation.model.separator import Separator
from spikesep.separation.pages import server
from spikesep.separation.pages.server import Service


class Gate:
    """Holds the network of a running service before each block, until the test lets it go on."""

    def __init__(self, service):
        self.network, self.calls = service.model.separator.separate_with_cost, 0
        self.begun, self.go = threading.Event(), threading.Event()
        service.model.separator.separate_with_cost = self

    def __call__(self, mixture):
        self.calls += 1
        self.begun.set()
        assert self.go.wait(10)
        return self.network(mixture)


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
        self.service.warming.join()
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


def read_answer(content) -> tuple[list[dict], dict[str, bytes]]:
    """The lines of an answer, and the files behind the last of them."""
    lines = []
    while content:
        line, _, content = content.partition(b"\n")
        lines.append(json.loads(line))
        if "parts" in lines[-1]:
            break
    files = {}
    for name, size in lines[-1].get("parts", {}).items():
        files[name], content = content[:size], content[size:]
    assert not content
    return lines, files


def headers_of(service) -> dict[str, str]:
    return {"Origin": service.url[:-1], "Content-Type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("kind", "rate", "channels"), [("WAV", 8000, 1), ("FLAC", 16000, 2), ("OGG", 44100, 1)]
)
def test_a_recording_comes_back_as_the_voices_that_the_model_makes_of_it(
    service, separator, kind, rate, channels
):
    content = recording(0.7, rate, channels, kind)
    status, _, answer = ask(
        service, "POST", "/separate", content, X_File_Name=f"talk.{kind.lower()}"
    )
    assert status == 200
    lines, parts = read_answer(answer)
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


def test_the_page_may_load_nothing_from_elsewhere_and_is_not_kept(service):
    for path in ("/", "/player.js", "/style.css", "/serve.js", "/queue.js"):
        status, headers, content = ask(service, path=path)
        assert status == 200
        assert headers["Content-Security-Policy"].startswith(
            "default-src 'none'; script-src 'self'; style-src 'self';"
        )
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
    "name",
    ["../../../evil.wav", "/etc/evil.wav", "..%2Fevil.wav", "%00%0Aevil.wav", "C:\\evil.wav"],
)
def test_the_name_of_an_upload_leads_nowhere_and_is_shown_without_folders(service, name):
    message = error_of(ask(service, "POST", "/separate", b"hello", X_File_Name=name))
    assert message.startswith("evil.wav: not a readable audio file")


def test_another_name_for_this_address_is_refused(service):
    port = service.server_port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        "127.0.0.1:1",
        "",
        None,
    ):
        assert ask(service, Host=host)[0] == 403
        assert ask(service, "POST", "/separate", recording(0.1), Host=host)[0] == 403
    assert ask(service, Host=f"localhost:{port}")[0] == 200


def test_another_page_can_neither_send_nor_ask(service):
    for origin in (
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{service.server_port + 1}",
        None,
    ):
        assert ask(service, "POST", "/separate", recording(0.1), Origin=origin)[0] == 403
    assert ask(service, Origin="http://evil.example")[0] == 403
    status, headers, _ = ask(service, "OPTIONS", "/separate", Origin="http://evil.example")
    assert status == 501
    assert "Access-Control-Allow-Origin" not in headers
    assert (
        ask(service, "POST", "/separate", recording(0.1), Content_Type="multipart/form-data")[0]
        == 415
    )


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
    assert "/dev/fd" not in error_of(answer)


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
def test_a_refusal_names_what_takes_more(separator, content, status, option):
    with serving(
        Model(separator), max_megabytes=0.1 if status == 413 else 1, max_seconds=2
    ) as service:
        answer = ask(service, "POST", "/separate", content, X_File_Name="talk.wav")
        assert answer[0] == status
        message = error_of(answer)
        assert message.startswith("talk.wav")
        assert f"start spikesep-serve with {option}" in message
        assert "or use spikesep-infer" in message


def test_the_length_of_an_upload_must_be_given_and_a_huge_one_is_refused_unread(service):
    assert ask(service, "POST", "/separate", b"", Content_Length=str(10**12))[0] == 413
    for length in (None, "-1", "many", "1" * 30):
        assert ask(service, "POST", "/separate", b"", Content_Length=length)[0] == 411


@pytest.mark.parametrize(
    "number", range(5), ids=["upload", "average", "voice1", "voice2", "estimates"]
)
def test_a_full_disk_is_one_line_that_says_where_to_make_room(service, monkeypatch, number):
    kinds = iter([False] * number + [True] + [False] * 9)
    ordinary = tempfile.TemporaryFile
    full = partial(open, "/dev/full", "w+b")
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda **options: full() if next(kinds) else ordinary(**options)
    )
    status, _, content = ask(service, "POST", "/separate", recording(), X_File_Name="talk.wav")
    assert status == (
        507 if number < 2 else 200
    )  # an answer that has begun tells it in its last line
    message = json.loads(content.splitlines()[-1])["error"]
    assert message.startswith(f"talk.wav: no room for it in {tempfile.gettempdir()}")
    assert "TMPDIR" in message


def test_fewer_samples_than_channels_are_still_a_recording(service):
    status, _, answer = ask(service, "POST", "/separate", recording(0.0005, channels=8))
    assert status == 200
    assert len(soundfile.read(io.BytesIO(read_answer(answer)[1]["voice1"]))[0]) == 4


def test_bare_gsm_frames_are_told_by_their_name(service):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(1600), 8000, format="RAW", subtype="GSM610")
    status, _, answer = ask(service, "POST", "/separate", buffer.getvalue(), X_File_Name="talk.GSM")
    assert status == 200
    assert len(soundfile.read(io.BytesIO(read_answer(answer)[1]["voice1"]))[0]) == 1600


def test_the_answer_tells_how_far_it_is_block_by_block(service):
    lines, _ = read_answer(ask(service, "POST", "/separate", recording(45))[2])
    shares = [line["share"] for line in lines[:-1]]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    assert len(shares) >= 5


def test_the_network_has_run_before_the_first_recording(separator, monkeypatch):
    calls, network = [], separator.separate_with_cost
    monkeypatch.setattr(
        separator, "separate_with_cost", lambda mixture: calls.append(1) or network(mixture)
    )
    with serving(Model(separator)):
        assert calls


def test_one_recording_at_a_time_and_the_next_is_told_busy(service):
    gate, first = Gate(service), []
    thread = threading.Thread(
        target=lambda: first.append(ask(service, "POST", "/separate", recording()))
    )
    thread.start()
    assert gate.begun.wait(10)
    second = ask(service, "POST", "/separate", recording(5, 44100))
    assert second[0] == 503
    assert "busy" in error_of(second)
    gate.go.set()
    thread.join()
    assert first[0][0] == 200
    assert ask(service, "POST", "/separate", recording())[0] == 200


def test_a_client_that_sends_or_reads_slowly_holds_no_place(service):
    slow, lazy, content = connect(service), connect(service), recording(40, 48000)
    try:
        slow.putrequest("POST", "/separate")
        for name, value in (headers_of(service) | {"Content-Length": "1000"}).items():
            slow.putheader(name, value)
        slow.endheaders(b"RIFF")  # and no more
        lazy.request("POST", "/separate", content, headers_of(service))
        assert lazy.getresponse().status == 200  # whose body, of 11 MB, is not read
        end = time.monotonic() + 10
        while (answer := ask(service, "POST", "/separate", recording()))[
            0
        ] == 503 and time.monotonic() < end:
            time.sleep(0.02)
        assert answer[0] == 200
    finally:
        slow.close()
        lazy.close()


def test_a_body_must_arrive_in_time_however_steadily_it_trickles(service, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.3)
    slow = connect(service)
    slow.putrequest("POST", "/separate")
    for name, value in (
        headers_of(service) | {"Content-Length": "1000", "X-File-Name": "talk.wav"}
    ).items():
        slow.putheader(name, value)
    slow.endheaders()
    for _ in range(100):
        slow.send(b"x")
        time.sleep(0.02)
        if select.select([slow.sock], [], [], 0)[0]:
            break
    answer = slow.getresponse()
    assert answer.status == 408
    assert "talk.wav: did not arrive" in json.loads(answer.read())["error"]


def test_a_model_that_fails_is_told_and_the_next_recording_is_taken(service, monkeypatch):
    with monkeypatch.context() as patched:

        def fail(mixture):
            return torch.zeros(2) @ torch.zeros(3)

        patched.setattr(service.model.separator, "separate_with_cost", fail)
        _, _, content = ask(service, "POST", "/separate", recording(), X_File_Name="talk.wav")
    lines, files = read_answer(content)
    assert lines[-1]["error"].startswith("talk.wav: could not be separated (")
    assert not files
    assert ask(service, "POST", "/separate", recording())[0] == 200


def test_a_client_that_hangs_up_stops_the_work_and_the_next_one_need_not_try_again(service):
    gate, connection = Gate(service), connect(service)
    connection.request("POST", "/separate", recording(60), headers_of(service))
    assert gate.begun.wait(10)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    threading.Timer(0.1, gate.go.set).start()
    assert ask(service, "POST", "/separate", recording())[0] == 200  # which waits for that block
    assert gate.calls <= 3  # 6 blocks, and one of the next recording


def test_the_end_stops_what_is_under_way_and_leaves_no_file(separator, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(Model(separator)) as service:
        gate, connection = Gate(service), connect(service)
        connection.request("POST", "/separate", recording(60), headers_of(service))
        assert gate.begun.wait(10)
        assert not list(tmp_path.iterdir())
        threading.Timer(0.1, gate.go.set).start()
    assert gate.calls <= 2
    assert not service.busy.acquire(blocking=False)  # the end holds it
    content = connection.getresponse().read()
    assert b'"parts"' not in content


def test_only_the_loopback_address_is_listened_on_and_a_taken_port_is_one_line(service, separator):
    assert service.server_address[0] == "127.0.0.1"
    with pytest.raises(SpikeSepError, match=rf"--port {service.server_port}: .*0 for a free one"):
        Service(Model(separator), "a model", service.server_port)
