import json
import select
import socket
import tempfile
import threading
import time

import torch
from helpers.web.serve import (
    Gate,
    connect,
    error_message,
    read_response,
    recording,
    send_request,
    serving,
    upload_headers,
)

from spikesep.separation.inference.in_memory import Model
from spikesep.separation.pages import request


def test_second_recording_is_rejected_as_busy(service):
    gate, first = Gate(service), []
    thread = threading.Thread(
        target=lambda: first.append(send_request(service, "POST", "/separate", recording()))
    )
    thread.start()
    assert gate.begun.wait(10)
    second = send_request(service, "POST", "/separate", recording(5, 44100))
    assert second[0] == 503
    assert "busy" in error_message(second)
    gate.go.set()
    thread.join()
    assert first[0][0] == 200
    assert send_request(service, "POST", "/separate", recording())[0] == 200


def test_slow_clients_do_not_block_the_model(service):
    slow, lazy, content = connect(service), connect(service), recording(40, 48000)
    try:
        slow.putrequest("POST", "/separate")
        for name, value in (upload_headers(service) | {"Content-Length": "1000"}).items():
            slow.putheader(name, value)
        slow.endheaders(b"RIFF")  # and nothing after it
        lazy.request("POST", "/separate", content, upload_headers(service))
        assert lazy.getresponse().status == 200  # its body of 11 MB is not read
        end = time.monotonic() + 10
        while (answer := send_request(service, "POST", "/separate", recording()))[
            0
        ] == 503 and time.monotonic() < end:
            time.sleep(0.02)
        assert answer[0] == 200
    finally:
        slow.close()
        lazy.close()


def test_slow_uploads_time_out(service, monkeypatch):
    monkeypatch.setattr(request, "PATIENCE", 0.3)
    slow = connect(service)
    slow.putrequest("POST", "/separate")
    for name, value in (
        upload_headers(service) | {"Content-Length": "1000", "X-File-Name": "talk.wav"}
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


def test_service_continues_after_an_error_of_the_model(service, monkeypatch):
    with monkeypatch.context() as patched:

        def fail(samples):
            return torch.zeros(2) @ torch.zeros(3)

        patched.setattr(service.model.separator, "encode_frames", fail)
        _, _, content = send_request(
            service, "POST", "/separate", recording(), X_File_Name="talk.wav"
        )
    lines, files = read_response(content)
    assert lines[-1]["error"].startswith("talk.wav: could not be separated (")
    assert not files
    assert send_request(service, "POST", "/separate", recording())[0] == 200


def test_disconnecting_stops_the_separation(service):
    gate, connection = Gate(service), connect(service)
    connection.request("POST", "/separate", recording(60), upload_headers(service))
    assert gate.begun.wait(10)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    threading.Timer(0.1, gate.go.set).start()
    assert (
        send_request(service, "POST", "/separate", recording())[0] == 200
    )  # after waiting for that block
    assert gate.calls <= 3  # 6 blocks, and one of the next recording


def test_closing_stops_the_separation_and_leaves_no_file(separator, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(Model(separator)) as service:
        gate, connection = Gate(service), connect(service)
        connection.request("POST", "/separate", recording(60), upload_headers(service))
        assert gate.begun.wait(10)
        assert not list(tmp_path.iterdir())
        threading.Timer(0.1, gate.go.set).start()
    assert gate.calls <= 2
    assert not service.busy.acquire(blocking=False)  # held by server_close
    content = connection.getresponse().read()
    assert b'"parts"' not in content


def test_network_is_warmed_up(separator, monkeypatch):
    calls, network = [], separator.encode_frames
    monkeypatch.setattr(
        separator, "encode_frames", lambda *given: calls.append(1) or network(*given)
    )
    with serving(Model(separator)):
        assert calls
