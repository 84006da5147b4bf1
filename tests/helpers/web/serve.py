"""A running service, and requests to it."""

import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import soundfile

from spikesep.separation.inference.in_memory import Model
from spikesep.separation.pages.server import Service
from spikesep.separation.pages.uploads import Limits


class Gate:
    """Stops the network of a running service before its next block until `go` is set."""

    def __init__(self, service):
        self.network, self.calls = service.model.separator.encode_frames, 0
        self.begun, self.go = threading.Event(), threading.Event()
        service.model.separator.encode_frames = self

    def __call__(self, samples):
        self.calls += 1
        self.begun.set()
        assert self.go.wait(10)
        return self.network(samples)


@contextmanager
def serving(model: Model, limits: Limits | None = None) -> Iterator[Service]:
    """Run a service in a thread."""
    service = Service(model, "a model", limits or Limits())
    thread = threading.Thread(target=service.serve_forever, args=(0.01,))
    thread.start()
    service.warming.join()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join()


def connect(service: Service) -> http.client.HTTPConnection:
    """Open a connection to a service."""
    return http.client.HTTPConnection("127.0.0.1", service.server_port, timeout=10)


def send_request(service, method="GET", path="/", body=None, **headers):
    """Send a request; return status, headers and content of the response.

    In header names _ stands for -; the value None omits a default header.
    """
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


def error_message(response) -> str:
    """Check that a response is an error, and return its message of one line."""
    status, headers, content = response
    assert 400 <= status < 600
    assert headers["Content-Type"] == "application/json"
    (message,) = json.loads(content).values()
    assert message
    assert "\n" not in message
    return message


def recording(seconds=1.0, rate=8000, channels=1, kind="WAV") -> bytes:
    """Encode noise as an audio file."""
    samples = 0.1 * np.random.default_rng(0).normal(size=(int(seconds * rate), channels))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


def read_response(content) -> tuple[list[dict], dict[str, bytes]]:
    """Return the JSON lines of a response, and the files after them."""
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


def upload_headers(service) -> dict[str, str]:
    """Return the headers that an upload must have."""
    return {"Origin": service.url[:-1], "Content-Type": "application/octet-stream"}
