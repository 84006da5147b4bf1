"""Errors of the server: an HTTP status, and one line with the reason and a remedy."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from spikesep.errors import SpikeSepError


class RequestError(Exception):
    """A rejected request, with its HTTP status and a reason of one line."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(" ".join(reason.split()))
        self.status = status


@contextmanager
def as_request_error(name: str) -> Iterator[None]:
    """Turn errors in processing an upload into a RequestError that names it.

    Connection errors are passed on.
    """
    try:
        yield
    except (SpikeSepError, OSError, MemoryError, RuntimeError) as error:
        rejection = _request_error(error, name)
        if rejection is None:
            raise
        raise rejection from error


def _request_error(error: Exception, name: str) -> RequestError | None:
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RequestError(
            HTTPStatus.INSUFFICIENT_STORAGE,
            f"{name}: not enough space in {tempfile.gettempdir()} ({cause.strerror}); make room "
            "there, or start spikesep-serve with TMPDIR set to another folder",
        )
    if isinstance(error, OSError):  # of the connection
        return None
    if isinstance(error, SpikeSepError):
        reason = str(error) if name in str(error) else f"{name}: {error}"
        return RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        reason = (
            "not enough memory; close other programs, or use spikesep-infer with a short --segment"
        )
    else:  # of torch
        reason = f"could not be separated ({(str(error).splitlines() or ['no reason given'])[0]})"
    return RequestError(HTTPStatus.INTERNAL_SERVER_ERROR, f"{name}: {reason}")
