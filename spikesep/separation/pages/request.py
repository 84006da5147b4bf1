"""One request to the server: checks, upload, separation, and the streamed response."""

import json
import re
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote

from spikesep.errors import SpikeSepError
from spikesep.separation.pages.errors import RequestError, as_request_error
from spikesep.separation.pages.uploads import (
    Upload,
    describe_separation,
    read_upload,
    separate_upload,
)

if TYPE_CHECKING:
    from spikesep.separation.pages.server import Service

ADDRESS = "127.0.0.1"
SEGMENT_SECONDS = 10.0
"""Length of the network's blocks. Progress is reported, and cancellation noticed, after each."""
PATIENCE = 20.0
"""Seconds that a client may stay silent, and that closing the server waits for a running block."""
MIN_BYTES_PER_SECOND = 1e6
"""Clients that send more slowly than this, beyond `PATIENCE`, are rejected."""
CHUNK = 2**20
"""Bytes received at once."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class StoppedError(Exception):
    """The client has disconnected, or the server is closing."""


class Handler(BaseHTTPRequestHandler):
    """One request to a `Service`."""

    server: "Service"
    server_version, sys_version = "spikesep", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Send the page, or one of its files."""
        try:
            self._check_origin()
            if self.path not in self.server.pages:
                raise RequestError(HTTPStatus.NOT_FOUND, "there is no such page here")
            content_type, content = self.server.pages[self.path]
            self._respond(HTTPStatus.OK, content_type, content)
        except RequestError as error:
            self._reject(error)

    def do_POST(self) -> None:
        """Separate the recording in the body of a request to `/separate`.

        The response consists of lines of JSON, followed by WAV files. Progress lines have the form
        `{"share": 0.25}`. The last line is `{"report": {...}, "parts": {"mixture": n, "voice1": n,
        ...}}`; the files follow in this order, n bytes each. An error after the first line ends the
        response with `{"error": "..."}`; an earlier one has an HTTP status of its own.
        """
        self.unread, self.responding = 0, False
        try:
            self._check_origin()
            name = self._check_headers()
            with as_request_error(name), ExitStack() as files:  # closing a file may fail, too
                upload, averaged, *voices = [  # unnamed: they vanish with the process
                    files.enter_context(tempfile.TemporaryFile())
                    for _ in range(2 + self.server.model.n_speakers)
                ]
                self._receive(upload, name)
                with self.server.reserve_model(self):
                    recording, report = self._separate(name, upload, averaged, voices)
                self._send_voices(recording, voices, report)
        except RequestError as error:
            if self.responding:
                self._send_line({"error": str(error)})
            else:
                self._reject(error)
                self._drain()

    def _check_origin(self) -> None:
        """Reject other host names, and requests from other pages."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        port = self.server.server_port
        if host not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            raise RequestError(HTTPStatus.FORBIDDEN, f"this page is only at {self.server.url}")
        if origin != f"http://{host}" and (origin or self.command != "GET"):
            raise RequestError(HTTPStatus.FORBIDDEN, "requests from other pages are rejected")

    def _check_headers(self) -> str:
        """Check the headers of an upload; return its display name."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,15}", length):
            raise RequestError(HTTPStatus.LENGTH_REQUIRED, "the request gives no length")
        self.unread = int(length)
        if self.path != "/separate":
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no such page here")
        if self.headers.get("Content-Type") != "application/octet-stream":
            reason = "send the recording as application/octet-stream"
            raise RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason)
        name = _display_name(self.headers.get("X-File-Name", ""))
        try:
            self.server.limits.check_size(name, self.unread)
        except SpikeSepError as error:
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
        return name

    def _receive(self, file: BinaryIO, name: str) -> None:
        """Write the body to `file`; reject one that arrives too slowly."""
        seconds = PATIENCE + self.unread / MIN_BYTES_PER_SECOND
        try:
            for chunk in self._read_body(seconds, self.unread):
                file.write(chunk)
        except TimeoutError as error:
            reason = f"{name}: did not arrive within {seconds:.0f} s; send it again"
            raise RequestError(HTTPStatus.REQUEST_TIMEOUT, reason) from error
        if self.unread:
            raise StoppedError
        file.flush()

    def _read_body(self, seconds: float, n_bytes: int) -> Iterator[bytes]:
        """Yield up to `n_bytes` of the body as they arrive.

        Raises:
            TimeoutError: that takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while n_bytes > 0:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.connection.settimeout(min(PATIENCE, left))
            chunk = self.rfile.read1(min(n_bytes, CHUNK))
            if not chunk:
                break
            n_bytes -= len(chunk)
            self.unread -= len(chunk)
            yield chunk
        self.connection.settimeout(PATIENCE)

    def _separate(
        self, name: str, file: BinaryIO, averaged: BinaryIO, voices: Sequence[BinaryIO]
    ) -> tuple[Upload, dict[str, Any]]:
        """Separate an upload into `voices`; return it with its report."""
        upload = read_upload(file, name, self.server.limits, averaged, self.check_active)
        self._begin_response()
        self.server.warming.join()
        self._send_progress(0.0)
        begun = time.perf_counter()
        separation = separate_upload(
            self.server.model, upload, voices, SEGMENT_SECONDS, self._send_progress
        )
        return upload, describe_separation(
            self.server.model, upload, separation, time.perf_counter() - begun
        )

    def is_connected(self) -> bool:
        """Whether the client still waits; one that hung up leaves an end of file to read."""
        try:
            readable = select.select([self.connection], [], [], 0)[0]
            return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""
        except (OSError, ValueError):  # reset, or closed
            return False

    def check_active(self) -> None:
        """Raise StoppedError once the client has disconnected, or the server is closing."""
        if self.server.closing or not self.is_connected():
            raise StoppedError

    def _send_progress(self, share: float) -> None:
        self.check_active()
        self._send_line({"share": round(share, 4)})

    def _begin_response(self) -> None:
        """Begin a response whose length is not known yet."""
        self.responding = True
        self._send_head(HTTPStatus.OK, {"Content-Type": "application/octet-stream"})

    def _send_line(self, line: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(line).encode() + b"\n")

    def _send_voices(
        self, upload: Upload, voices: Sequence[BinaryIO], report: dict[str, Any]
    ) -> None:
        """Send the report, then the recording and its voices as WAV files."""
        sizes = [file.seek(0, 2) for file in voices]
        names = ["mixture", *(f"voice{k + 1}" for k in range(len(voices)))]
        parts = dict(zip(names, [sizes[0], *sizes], strict=True))
        self._send_line({"report": report, "parts": parts})
        for chunk in upload.pcm_blocks():
            self.wfile.write(chunk)
        for file in voices:
            file.seek(0)
            shutil.copyfileobj(file, self.wfile)

    def _drain(self) -> None:
        """Read the rest of a rejected body, within limits.

        A client that is still sending would not see the response.
        """
        try:
            for _ in self._read_body(PATIENCE, min(self.unread, 4 * self.server.limits.n_bytes)):
                pass
        except OSError:  # too slow, or disconnected
            self.close_connection = True

    def _reject(self, error: RequestError) -> None:
        content = json.dumps({"error": str(error)}).encode()
        self._respond(error.status, "application/json", content)

    def _respond(self, status: HTTPStatus, content_type: str, content: bytes) -> None:
        self._send_head(status, {"Content-Type": content_type, "Content-Length": str(len(content))})
        self.wfile.write(content)

    def _send_head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Log nothing, as the names of recordings are private."""


def _display_name(header: str) -> str:
    """Return the display name of an upload: no folders, at most 100 printable characters."""
    name = re.split(r"[/\\]", unquote(header))[-1]
    return "".join(letter for letter in name if letter.isprintable())[-100:] or "the recording"
