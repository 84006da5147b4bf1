"""A page on the loopback address that separates recordings.

The server stores nothing. An upload lives in unnamed files for as long as its request, and the
voices are returned in the response to that request. The server answers only the page that it
served: it rejects other host names (DNS rebinding) and requests from other pages, and the page may
load nothing from anywhere else.
"""

import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import PurePath
from typing import Any

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.model.latency import delays_of
from spikesep.separation.pages import assets
from spikesep.separation.pages.errors import RequestError
from spikesep.separation.pages.request import ADDRESS, PATIENCE, Handler, StoppedError
from spikesep.separation.pages.uploads import Limits

SCRIPTS = (
    "theme.js",
    "pictures.js",
    "view.js",
    "turns.js",
    "painter.js",
    "player.js",
    "saving.js",
    "recorder.js",
    "queue.js",
    "serve.js",
)
CONTENT_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class Service(ThreadingHTTPServer):
    """The server: `serve_forever` runs it; `server_close`, or leaving `with`, ends it.

    Args:
        model: the model; it separates one recording at a time.
        name: name of the model, as the page shows it.
        limits: the largest upload accepted.
        port: port on 127.0.0.1; 0 picks a free one.

    Raises:
        SpikeSepError: the port is in use or does not exist.
    """

    daemon_threads = True

    def __init__(self, model: Model, name: str, limits: Limits, port: int = 0):
        self.model, self.limits = model, limits
        self.busy, self.closing = threading.Lock(), False
        self.holder: Handler | None = None  # the request being separated
        self.warming = threading.Thread(target=self._warm_up, daemon=True)
        self.pages = {
            f"/{name}": (CONTENT_TYPES[PurePath(name).suffix], assets.source(name).encode())
            for name in ("style.css", *SCRIPTS)
        }
        self.pages["/"] = ("text/html; charset=utf-8", _page(model, name, limits).encode())
        try:
            super().__init__((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            raise SpikeSepError(
                f"--port {port}: cannot be used ({error}); give another, or 0 for a free one"
            ) from error
        self.warming.start()

    def server_bind(self) -> None:
        """Bind without the host name lookup of HTTPServer."""
        socketserver.TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    @contextmanager
    def reserve_model(self, client: Handler) -> Iterator[None]:
        """Reserve the model for a request; wait for it only if the current client has hung up.

        Raises:
            RequestError: another request is being separated.
        """
        while not self.busy.acquire(timeout=0.1):
            if self.holder is None or self.holder.is_connected():
                reason = "busy with another recording; try again when it is done"
                raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, reason)
            client.check_active()
        self.holder = client
        try:
            yield
        finally:
            self.holder = None
            self.busy.release()

    def server_close(self) -> None:
        """Stop listening, and wait for a running separation to end at its next block."""
        self.closing = True
        super().server_close()
        if self.warming.is_alive():  # not started if TCPServer could not bind
            self.warming.join(PATIENCE)
        self.busy.acquire(timeout=PATIENCE)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print unexpected errors; ignore clients that disconnect."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError, StoppedError)):
            super().handle_error(request, client_address)

    def _warm_up(self) -> None:
        """Run the network once, so that kernels are loaded before the first recording."""
        with suppress(RuntimeError):  # the first recording will report it
            self.model.separate(np.zeros(self.model.sample_rate // 10, np.float32))


def _page(model: Model, name: str, limits: Limits) -> str:
    minutes, seconds = divmod(round(limits.seconds), 60)
    return assets.render(
        "serve.html",
        scripts=SCRIPTS,
        model=name,
        kind=model.kind,
        band=model.band,
        n_speakers=model.n_speakers,
        sample_rate=model.sample_rate,
        max_khz=model.sample_rate / 2000,
        latency=delays_of(model.separator).total,
        max_megabytes=limits.megabytes,
        max_seconds=limits.seconds,
        length=" ".join(f"{n} {unit}" for n, unit in ((minutes, "min"), (seconds, "s")) if n),
        formats="wav, flac, ogg, mp3, m4a and others",
    )
