"""A page on the loopback address on which a model can be tried: a recording goes in, its voices come out.

The server keeps nothing: an upload lies on the disk only while it is being read, and the voices go back in the answer
to the request that brought the recording. It talks to the page that it served and to nobody else: another host's name
(DNS rebinding) and another page's requests are refused, and the page may load nothing but what lies here.
"""

import json
import re
import secrets
import select
import socket
import socketserver
import sys
import tempfile
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath
from urllib.parse import unquote

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio import open_sound, to_pcm16, wav_bytes
from spikesep.separation.demo import assets
from spikesep.separation.separate import Model, Separated

ADDRESS = "127.0.0.1"
SEGMENT_SECONDS = 10.0
"""Blocks of the separation: between two of them progress is told, and a request that nobody waits for ends."""
PATIENCE = 20.0
"""Seconds: how long a client may be silent, and how long the end waits for a block that is being worked on."""
FILES = {
    "/style.css": "text/css; charset=utf-8",
    "/player.js": "text/javascript; charset=utf-8",
    "/serve.js": "text/javascript; charset=utf-8",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class RefusalError(Exception):
    """A request that is not served: HTTP status, and one line that says why."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


class StoppedError(Exception):
    """Nobody waits for the voices any more."""


class Service(ThreadingHTTPServer):
    """The server; `serve_forever` until it is interrupted, `server_close` (or leaving `with`) removes what it had.

    Args:
        model: separates one recording at a time.
        name: of the model, for the page.
        port: on 127.0.0.1; 0 takes a free one.
        max_megabytes: largest upload, in 10^6 bytes.
        max_seconds: longest recording.

    Raises:
        SpikeSepError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, model: Model, name: str, port: int = 0, max_megabytes: float = 50, max_seconds: float = 600):
        self.model = model
        self.max_bytes, self.max_seconds = int(max_megabytes * 1e6), max_seconds
        self.busy, self.closing, self.share = threading.Lock(), False, 0.0
        self.pages = {path: (kind, assets.source(path[1:]).encode()) for path, kind in FILES.items()}
        self.pages["/"] = ("text/html; charset=utf-8", _page(model, name, max_megabytes, max_seconds).encode())
        self.folder = tempfile.TemporaryDirectory(prefix="spikesep-serve-", ignore_cleanup_errors=True)
        try:
            super().__init__((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            raise SpikeSepError(f"--port {port}: cannot be had ({error}); give another, or 0 for a free one") from error

    def server_bind(self) -> None:
        """Without the look-up of a name that HTTPServer makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def server_close(self) -> None:
        """Let a separation that is under way end at its next block, and remove the temporary folder."""
        self.closing = True
        super().server_close()
        self.busy.acquire(timeout=PATIENCE)
        self.folder.cleanup()

    def handle_error(self, request, client_address) -> None:
        """A client that went away is none."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError, StoppedError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request to a `Service`."""

    server: Service
    server_version, sys_version = "spikesep", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """The page, what belongs to it, and `/progress`: whether a separation is under way, and its share done."""
        try:
            self._admit()
            if self.path == "/progress":
                state = {"busy": self.server.busy.locked(), "share": self.server.share}
                self._answer(HTTPStatus.OK, "application/json", json.dumps(state).encode())
            elif self.path in self.server.pages:
                self._answer(HTTPStatus.OK, *self.server.pages[self.path])
            else:
                raise RefusalError(HTTPStatus.NOT_FOUND, "there is no such page here")
        except RefusalError as refusal:
            self._refuse(refusal)

    def do_POST(self) -> None:
        """`/separate`: a recording is the body; the answer is a form with `report`, `mixture`, `voice1`, ..."""
        self.unread = 0
        try:
            self._admit()
            kind, content = self._separate()
            self._answer(HTTPStatus.OK, kind, content)
        except RefusalError as refusal:
            self._refuse(refusal)
            self._drain()

    def _admit(self) -> None:
        """Only this page may ask, by this address: no other name for it, no other page's script or form."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host not in (f"{ADDRESS}:{self.server.server_port}", f"localhost:{self.server.server_port}"):
            raise RefusalError(HTTPStatus.FORBIDDEN, f"this page is at {self.server.url} only")
        if origin != f"http://{host}" and (origin or self.command != "GET"):
            raise RefusalError(HTTPStatus.FORBIDDEN, "another page's request is not served")

    def _separate(self) -> tuple[str, bytes]:
        limit = self.server.max_bytes
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,15}", length):
            raise RefusalError(HTTPStatus.LENGTH_REQUIRED, "the length of the recording is not given")
        self.unread = int(length)
        if self.path != "/separate":
            raise RefusalError(HTTPStatus.NOT_FOUND, "there is no such page here")
        if self.headers.get("Content-Type") != "application/octet-stream":
            raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the recording as application/octet-stream")
        name = _display_name(self.headers.get("X-File-Name", ""))
        if self.unread > limit:
            raise RefusalError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{name} has {self.unread / 1e6:.1f} MB; {limit / 1e6:g} are taken at most (--max-megabytes)",
            )
        if not self.server.busy.acquire(blocking=False):
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "busy with another recording; try again when it is done")
        try:
            self.server.share = 0.0
            content = self.rfile.read(self.unread)
            if len(content) < self.unread:
                raise StoppedError
            self.unread = 0
            return self._voices(name, content)
        finally:
            self.server.busy.release()

    def _voices(self, name: str, content: bytes) -> tuple[str, bytes]:
        model = self.server.model
        try:
            mixture, n_channels, rate = self._read(name, content)
            begun = time.perf_counter()
            result = model.separate_recording(
                mixture, rate, segment_seconds=SEGMENT_SECONDS, on_progress=self._progress
            )
        except (SpikeSepError, ValueError) as error:
            raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, " ".join(str(error).split())) from error
        except MemoryError as error:
            raise RefusalError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{name}: too much for this computer's memory; give a shorter one"
            ) from error
        except RuntimeError as error:  # of torch
            reason = f"{name}: could not be separated ({str(error).splitlines()[0]})"
            raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, reason) from error
        seconds = len(mixture) / rate
        summary = _summary(seconds, n_channels, rate, result, time.perf_counter() - begun)
        voices = {"mixture": mixture / max(1.0, float(np.abs(mixture).max()))}
        voices |= {f"voice{k + 1}": voice for k, voice in enumerate(result.estimates)}
        report = {"sample_rate": rate, "seconds": seconds, "kind": model.kind, "summary": summary}
        return _form(
            {
                "report": ("application/json", json.dumps(report).encode()),
                **{key: ("audio/wav", wav_bytes(to_pcm16(voice), rate)) for key, voice in voices.items()},
            }
        )

    def _read(self, name: str, content: bytes) -> tuple[np.ndarray, int, int]:
        """Samples [T], channels averaged, how many there were, and the rate; the upload is on the disk meanwhile.

        Samples are counted as they are read: what a header says of them is the sender's word.
        """
        suffix = PurePath(name).suffix.lower()
        path = Path(self.server.folder.name) / f"recording{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else ''}"
        try:
            if self.server.closing:
                raise StoppedError
            try:
                path.write_bytes(content)
            except OSError as error:
                reason = f"{name}: cannot be kept in {path.parent} while it is read ({error.strerror})"
                raise RefusalError(HTTPStatus.INSUFFICIENT_STORAGE, reason) from error
            sound = open_sound(path)
            pieces, left = [], int(self.server.max_seconds * sound.sample_rate)
            for block in sound.blocks:
                left -= block.shape[1]
                if left < 0:
                    most = self.server.max_seconds
                    raise SpikeSepError(f"{path}: lasts more than {most:g} s, which are taken at most (--max-seconds)")
                pieces.append(block.mean(0))
            return np.concatenate(pieces), sound.channels, sound.sample_rate
        except SpikeSepError as error:
            raise SpikeSepError(str(error).replace(str(path), name)) from error
        finally:
            path.unlink(missing_ok=True)

    def _progress(self, share: float) -> None:
        self.server.share = share
        if self.server.closing or self._gone():
            raise StoppedError

    def _gone(self) -> bool:
        """Whether the client hung up: then there is an end to read, where nothing should come."""
        readable = select.select([self.connection], [], [], 0)[0]
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def _drain(self) -> None:
        """Read what was refused, within bounds: a client that is still sending would not see the answer."""
        left = min(self.unread, 4 * self.server.max_bytes)
        while left > 0 and (piece := self.rfile.read(min(left, 1 << 20))):
            left -= len(piece)

    def _refuse(self, refusal: RefusalError) -> None:
        self._answer(refusal.status, "application/json", json.dumps({"error": str(refusal)}).encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args) -> None:
        """Nothing: what somebody listens to is nobody's business."""


def _page(model: Model, name: str, max_megabytes: float, max_seconds: float) -> str:
    minutes, seconds = divmod(round(max_seconds), 60)
    return assets.render(
        "serve.html",
        model=name,
        kind=model.kind,
        n_speakers=model.n_speakers,
        sample_rate=model.sample_rate,
        max_khz=model.sample_rate / 2000,
        max_megabytes=max_megabytes,
        max_seconds=max_seconds,
        length=" ".join(f"{n} {unit}" for n, unit in ((minutes, "min"), (seconds, "s")) if n),
        formats="wav, flac, ogg, mp3, m4a and others",
    )


def _display_name(header: str) -> str:
    """The name of an upload as it may be shown: no folders, nothing but printable characters, not too long."""
    name = re.split(r"[/\\]", unquote(header))[-1]
    return "".join(letter for letter in name if letter.isprintable())[-100:] or "the recording"


def _form(parts: dict[str, tuple[str, bytes]]) -> tuple[str, bytes]:
    """Content type and content of multipart/form-data (RFC 7578), which a browser takes apart by itself."""
    boundary = secrets.token_hex(16)
    content = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"; filename="{key}"\r\n'
        f"Content-Type: {kind}\r\n\r\n".encode()
        + body
        + b"\r\n"
        for key, (kind, body) in parts.items()
    )
    return f"multipart/form-data; boundary={boundary}", content + f"--{boundary}--\r\n".encode()


def _summary(seconds: float, n_channels: int, rate: int, result: Separated, spent: float) -> str:
    cost, notes = result.cost, []
    if n_channels > 1:
        notes.append(f"{n_channels} channels averaged")
    if result.scale < 1:
        notes.append(f"voices lowered by {result.scale:.2f} to stay within full scale")
    work = f"{cost.macs / 1e6:,.0f} million multiply-accumulates"
    if cost.n_steps:
        work = f"{cost.synops / 1e6:,.0f} million synaptic operations, where the analog network takes {work}"
    return "; ".join([f"{seconds:.1f} s at {rate} Hz, separated in {spent:.1f} s", work, *notes])
