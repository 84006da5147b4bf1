"""A page on the loopback address to try a model: recordings go in, their voices come out.

The server keeps nothing. An upload lives in files without a name for as long as its request, and
the voices travel back in the answer to that request. The server talks only to the page that it
served: it refuses other host names (DNS rebinding) and requests of other pages, and the page may
load nothing from anywhere else.
"""

import json
import re
import select
import shutil
import socket
import socketserver
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePath
from typing import BinaryIO
from urllib.parse import unquote

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.inference.separate import Model
from spikesep.separation.pages import assets
from spikesep.separation.pages.refusals import RefusalError, refusing
from spikesep.separation.pages.uploads import (
    Limits,
    Recording,
    read_upload,
    report_of,
    separate_upload,
)

ADDRESS = "127.0.0.1"
SEGMENT_SECONDS = 10.0
"""Length of the network's blocks: between two of them progress is reported, and a cancelled request
ends."""
PATIENCE = 20.0
"""Seconds that a client may stay silent, and that closing waits for the block in work."""
SLOWEST = 1e6
"""Bytes a second: a client that sends more slowly than this, after `PATIENCE`, is turned away."""
PIECE = 2**20
"""Bytes received at once."""
SCRIPTS = (
    "theme.js",
    "pictures.js",
    "player.js",
    "saving.js",
    "recorder.js",
    "queue.js",
    "serve.js",
)
KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class StoppedError(Exception):
    """Nobody waits for the voices any more."""


class Service(ThreadingHTTPServer):
    """The server: `serve_forever` runs it, `server_close` (or leaving `with`) ends it.

    Args:
        model: separates one recording at a time.
        name: of the model, as the page shows it.
        port: on 127.0.0.1; 0 takes a free one.
        max_megabytes: largest upload, in 10^6 bytes.
        max_seconds: longest recording; see `Limits` for the samples that it may hold.

    Raises:
        SpikeSepError: the port is taken or does not exist.
    """

    daemon_threads = True

    def __init__(
        self,
        model: Model,
        name: str,
        port: int = 0,
        max_megabytes: float = 50,
        max_seconds: float = 600,
    ):
        self.model, self.limits = model, Limits(max_megabytes, max_seconds)
        self.busy, self.closing = threading.Lock(), False
        self.holder: Handler | None = None  # of the place
        self.warming = threading.Thread(target=self._warm_up, daemon=True)
        self.pages = {
            f"/{name}": (KINDS[PurePath(name).suffix], assets.source(name).encode())
            for name in ("style.css", *SCRIPTS)
        }
        self.pages["/"] = ("text/html; charset=utf-8", _page(model, name, self.limits).encode())
        try:
            super().__init__((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            raise SpikeSepError(
                f"--port {port}: cannot be had ({error}); give another, or 0 for a free one"
            ) from error
        self.warming.start()

    def server_bind(self) -> None:
        """Bind without the look-up of a host name that HTTPServer makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    @contextmanager
    def place(self, client: "Handler") -> Iterator[None]:
        """Hold the one place at the model; wait for it only if its holder has hung up.

        Raises:
            RefusalError: somebody else holds it.
        """
        while not self.busy.acquire(timeout=0.1):
            if self.holder is None or self.holder.is_there():
                reason = "busy with another recording; try again when it is done"
                raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, reason)
            client.go_on()
        self.holder = client
        try:
            yield
        finally:
            self.holder = None
            self.busy.release()

    def server_close(self) -> None:
        """Stop listening, and wait for the separation in work to end at its next block."""
        self.closing = True
        super().server_close()
        if self.warming.is_alive():  # TCPServer closes itself if the port cannot be had
            self.warming.join(PATIENCE)
        self.busy.acquire(timeout=PATIENCE)

    def handle_error(self, request, client_address) -> None:
        """Report an error of ours; a client that went away is none."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError, StoppedError)):
            super().handle_error(request, client_address)

    def _warm_up(self) -> None:
        """Run the network once: the first recording need not wait until its loops are loaded."""
        with suppress(RuntimeError):  # a recording meets it again, and is told
            self.model.separate(np.zeros(self.model.sample_rate // 10, np.float32))


class Handler(BaseHTTPRequestHandler):
    """One request to a `Service`."""

    server: Service
    server_version, sys_version = "spikesep", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Send the page, or one of the files that belong to it."""
        try:
            self._admit()
            if self.path not in self.server.pages:
                raise RefusalError(HTTPStatus.NOT_FOUND, "there is no such page here")
            kind, content = self.server.pages[self.path]
            self._answer(HTTPStatus.OK, kind, content)
        except RefusalError as refusal:
            self._refuse(refusal)

    def do_POST(self) -> None:
        """Separate the recording in the body, for `/separate`.

        The answer is lines of JSON and, behind the last of them, wav files. While it is separated
        there comes `{"share": 0.25}`; at last `{"report": {...}, "parts": {"mixture": n, "voice1":
        n, ...}}` and the files, of n bytes each, in this order. A failure on the way ends it with
        `{"error": "..."}`; one before the first line has an HTTP status of its own.
        """
        self.unread, self.answering = 0, False
        try:
            self._admit()
            name = self._announced()
            with refusing(name), ExitStack() as files:  # closing a file may fail, too
                upload, averaged, *voices = [  # without a name: they end with the process
                    files.enter_context(tempfile.TemporaryFile())
                    for _ in range(2 + self.server.model.n_speakers)
                ]
                self._receive(upload, name)
                with self.server.place(self):
                    recording, report = self._separate(name, upload, averaged, voices)
                self._deliver(recording, voices, report)
        except RefusalError as refusal:
            if self.answering:
                self._tell({"error": str(refusal)})
            else:
                self._refuse(refusal)
                self._drain()

    def _admit(self) -> None:
        """Refuse every host name but our own, and requests of other pages."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host not in (
            f"{ADDRESS}:{self.server.server_port}",
            f"localhost:{self.server.server_port}",
        ):
            raise RefusalError(HTTPStatus.FORBIDDEN, f"this page is at {self.server.url} only")
        if origin != f"http://{host}" and (origin or self.command != "GET"):
            raise RefusalError(HTTPStatus.FORBIDDEN, "requests of other pages are refused")

    def _announced(self) -> str:
        """Check what the headers say of the upload; its name, as it may be shown."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,15}", length):
            raise RefusalError(HTTPStatus.LENGTH_REQUIRED, "the request gives no length")
        self.unread = int(length)
        if self.path != "/separate":
            raise RefusalError(HTTPStatus.NOT_FOUND, "there is no such page here")
        if self.headers.get("Content-Type") != "application/octet-stream":
            reason = "send the recording as application/octet-stream"
            raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason)
        name = _display_name(self.headers.get("X-File-Name", ""))
        try:
            self.server.limits.check_size(name, self.unread)
        except SpikeSepError as error:
            raise RefusalError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
        return name

    def _receive(self, file: BinaryIO, name: str) -> None:
        """Write the body to `file`; one that comes too slowly is refused."""
        seconds = PATIENCE + self.unread / SLOWEST
        try:
            for piece in self._body(seconds, self.unread):
                file.write(piece)
        except TimeoutError as error:
            reason = f"{name}: did not arrive within {seconds:.0f} s; send it again"
            raise RefusalError(HTTPStatus.REQUEST_TIMEOUT, reason) from error
        if self.unread:
            raise StoppedError
        file.flush()

    def _body(self, seconds: float, most: int) -> Iterator[bytes]:
        """Read `most` bytes of the body, or up to its end, as they come.

        Raises:
            TimeoutError: that takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while most > 0:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.connection.settimeout(min(PATIENCE, left))
            piece = self.rfile.read1(min(most, PIECE))
            if not piece:
                break
            most -= len(piece)
            self.unread -= len(piece)
            yield piece
        self.connection.settimeout(PATIENCE)

    def _separate(
        self, name: str, upload: BinaryIO, averaged: BinaryIO, voices: list[BinaryIO]
    ) -> tuple[Recording, dict]:
        """Separate an upload into `voices`: the recording, and a report."""
        recording = read_upload(upload, name, self.server.limits, averaged, self.go_on)
        self._begin()
        self.server.warming.join()
        self._progress(0.0)
        begun = time.perf_counter()
        found = separate_upload(
            self.server.model, recording, voices, SEGMENT_SECONDS, self._progress
        )
        return recording, report_of(recording, found, time.perf_counter() - begun)

    def is_there(self) -> bool:
        """Whether the client still waits: one that hung up leaves an end of file to read."""
        try:
            readable = select.select([self.connection], [], [], 0)[0]
            return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""
        except (OSError, ValueError):  # reset, or closed
            return False

    def go_on(self) -> None:
        """Raise StoppedError once the client has hung up, or the server is closing."""
        if self.server.closing or not self.is_there():
            raise StoppedError

    def _progress(self, share: float) -> None:
        self.go_on()
        self._tell({"share": round(share, 4)})

    def _begin(self) -> None:
        """Begin an answer whose length is not known yet."""
        self.answering = True
        self._head(HTTPStatus.OK, {"Content-Type": "application/octet-stream"})

    def _tell(self, line: dict) -> None:
        self.wfile.write(json.dumps(line).encode() + b"\n")

    def _deliver(self, recording: Recording, voices: list[BinaryIO], report: dict) -> None:
        """Send the report, then the recording and its voices, all as wav files."""
        sizes = [file.seek(0, 2) for file in voices]
        names = ["mixture", *(f"voice{k + 1}" for k in range(len(voices)))]
        self._tell({"report": report, "parts": dict(zip(names, [sizes[0], *sizes], strict=True))})
        for piece in recording.pcm_blocks():
            self.wfile.write(piece)
        for file in voices:
            file.seek(0)
            shutil.copyfileobj(file, self.wfile)

    def _drain(self) -> None:
        """Read the rest of what was refused, within bounds: a client that still sends would not see
        the answer."""
        try:
            for _ in self._body(PATIENCE, min(self.unread, 4 * self.server.limits.n_bytes)):
                pass
        except OSError:  # too slow, or gone
            self.close_connection = True

    def _refuse(self, refusal: RefusalError) -> None:
        content = json.dumps({"error": str(refusal)}).encode()
        self._answer(refusal.status, "application/json", content)

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self._head(status, {"Content-Type": kind, "Content-Length": str(len(content))})
        self.wfile.write(content)

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args) -> None:
        """Log nothing: what somebody listens to is nobody else's business."""


def _page(model: Model, name: str, limits: Limits) -> str:
    minutes, seconds = divmod(round(limits.seconds), 60)
    return assets.render(
        "serve.html",
        scripts=SCRIPTS,
        model=name,
        kind=model.kind,
        n_speakers=model.n_speakers,
        sample_rate=model.sample_rate,
        max_khz=model.sample_rate / 2000,
        max_megabytes=limits.megabytes,
        max_seconds=limits.seconds,
        length=" ".join(f"{n} {unit}" for n, unit in ((minutes, "min"), (seconds, "s")) if n),
        formats="wav, flac, ogg, mp3, m4a and others",
    )


def _display_name(header: str) -> str:
    """The name of an upload as it may be shown: no folders, up to 100 printable characters."""
    name = re.split(r"[/\\]", unquote(header))[-1]
    return "".join(letter for letter in name if letter.isprintable())[-100:] or "the recording"
