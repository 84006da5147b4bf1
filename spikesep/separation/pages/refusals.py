"""What a server answers in place of voices: an HTTP status, and a line with reason and remedy."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from spikesep.errors import SpikeSepError


class RefusalError(Exception):
    """A request that is refused, with its HTTP status and a reason of one line."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(" ".join(reason.split()))
        self.status = status


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turn whatever goes wrong with an upload into a RefusalError that names it."""
    try:
        yield
    except (SpikeSepError, OSError, MemoryError, RuntimeError) as error:
        refusal = _refusal_of(error, name)
        if refusal is None:
            raise
        raise refusal from error


def _refusal_of(error: Exception, name: str) -> RefusalError | None:
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RefusalError(
            HTTPStatus.INSUFFICIENT_STORAGE,
            f"{name}: no room for it in {tempfile.gettempdir()} ({cause.strerror}); make room there, "
            "or start spikesep-serve with TMPDIR set to another folder",
        )
    if isinstance(error, OSError):  # of the connection
        return None
    if isinstance(error, SpikeSepError):
        reason = str(error) if name in str(error) else f"{name}: {error}"
        return RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        reason = (
            "too little memory; close other programs, or use spikesep-infer with a short --segment"
        )
    else:  # of torch
        reason = f"could not be separated ({(str(error).splitlines() or ['no reason given'])[0]})"
    return RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, f"{name}: {reason}")
