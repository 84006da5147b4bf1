"""Files that are whole or absent, lines of lists, and folders in which one process works at a time."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from spikesep.errors import SpikeSepError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCKED = ".spikesep-locked-"
"""Start of the temporary names of `atomic_file`."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    Works for a file and for a directory; each replaces its like at `path`, never the other. The
    temporary name keeps the suffix but is short, so `path` may use the longest name allowed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    _unfinished.add(temporary)
    try:
        with room_for(path):
            yield temporary
        if path.is_dir() and temporary.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        _remove(temporary)
        _unfinished.discard(temporary)


_unfinished: set[Path] = set()


def remove_unfinished() -> None:
    """Remove what this process is writing through `atomic_path`, for one that is about to end without unwinding."""
    for path in list(_unfinished):
        if f".{os.getpid()}.part" in path.name:  # a forked process inherits its parent's, too
            with suppress(OSError):
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block ends, then deliver them.

    For code that loses an exception raised by a signal handler (callbacks from C), or that must not stop half way.
    Nesting is allowed. In another thread than the main one, which no handler interrupts, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {
        number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in came:
            signal.raise_signal(number)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a binary file that appears at `path` on success and is removed on failure.

    The file stays locked until then, so that `remove_abandoned` can tell it from one whose process
    was killed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, file = _create_locked(path)
    _unfinished.add(temporary)
    try:
        with file:
            with room_for(path):
                yield file
                file.flush()
            if fcntl is None:
                file.close()  # Windows renames no open file
            temporary.replace(path)  # while it is locked
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def remove_abandoned(folder: Path) -> None:
    """Remove partial files of `atomic_file` from `folder` if no live process holds their lock."""
    if fcntl is None:
        return
    for path in folder.glob(f"{LOCKED}*"):
        with suppress(OSError), path.open("r+b") as file:  # locked, gone, or locks are unsupported
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _beside(path: Path, start: str = ".spikesep-") -> Path:
    """Make up a temporary name, unique across threads, processes and machines."""
    return path.with_name(f"{start}{secrets.token_hex(4)}.{os.getpid()}.part{path.suffix}")


def _create_locked(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = _beside(path, LOCKED)
        file = temporary.open("xb")
        if fcntl is not None:
            with suppress(OSError):  # the file system has no locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():  # not removed as abandoned before it was locked
            return temporary, file
        file.close()


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Make one clear line of a write to `path` that found no room.

    Raises:
        SpikeSepError: the disk, the quota or the largest size of a file is exhausted.
    """
    try:
        yield
    except OSError as error:
        short = error.errno is None and "requested and" in str(error)  # all that numpy tells of it
        if not short and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        reason = os.strerror(error.errno or errno.ENOSPC)
        raise SpikeSepError(
            f"{path}: cannot be written ({reason}); make room and give the same command again"
        ) from error


@contextmanager
def work_in(folder: Path, shared: bool = False, part: str = "") -> Iterator[None]:
    """Be the only one who works in `folder`: the lock ends with the process, however that ends.

    What a killed process left half written is removed, as nobody else can be writing it. If the
    work fails, so is what its killed worker processes left.

    Args:
        folder: is made if it is not there, and removed again if nothing came of it.
        shared: only keep out those who want it alone.
        part: name of a part of the work in it, to be alone with.

    Raises:
        SpikeSepError: somebody else works there.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".lock{part}"
    with _lock(path, shared) as file:
        alone = file and not shared and not part
        if alone:
            _remove_left_behind(folder)
        try:
            yield
        except BaseException:
            if alone:
                _remove_left_behind(folder)
            raise
        finally:
            with suppress(OSError):  # others share it
                if file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # there is something in it
                    folder.rmdir()


@contextmanager
def _lock(path: Path, shared: bool) -> Iterator[IO | None]:
    """The locked file; None where the system or the file system knows no locks."""
    if fcntl is None:
        yield None
        return
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SpikeSepError(
                    f"{path.parent}: another process works in it; wait for its end, or give another folder"
                ) from error
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                    raise
                yield None
                return
            if path.exists() and os.path.samestat(
                os.fstat(file.fileno()), path.stat()
            ):  # not removed meanwhile
                yield file
                return


def _remove_left_behind(folder: Path) -> None:
    for path in [
        path
        for path in folder.rglob(".*.part*")
        if re.fullmatch(r"\..+\.\d+\.part(\..*)?", path.name)
    ]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


SPACES = " \t\n\v\f\r"
"""What separates fields to Kaldi: whitespace of ASCII."""


def read_lines(path: str | Path, errors: str = "strict") -> list[str]:
    """Read the lines of a UTF-8 list, without their ends and without a byte-order mark.

    A line ends with a newline, perhaps after a carriage return, and with nothing else. `str.splitlines` also splits at
    form feeds, U+0085 and U+2028, which paths may hold.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8, and `errors` is `strict`.
    """
    lines = Path(path).read_bytes().decode("utf-8-sig", errors).split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def fields_of(line: str) -> list[str]:
    """The fields of a line that ASCII whitespace separates; `str.split` also splits at U+0085, U+00A0 or U+2028."""
    return re.findall(f"[^{SPACES}]+", line)


def listable(text: str, ends: str) -> bool:
    """Whether a UTF-8 list can hold `text` in a field or line that any of the characters `ends` would end."""
    try:
        text.encode()
    except UnicodeEncodeError:  # a name in the bytes of another encoding
        return False
    return not set(text) & set(ends)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_of_files(paths: list[Path]) -> str:
    """A short hash of the files' contents, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def keep_content(path: str | Path, content: bytes) -> bool:
    """See that a file holds `content`; whether it had to be written."""
    path = Path(path)
    if path.is_file() and path.read_bytes() == content:
        return False
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return True


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        SpikeSepError: it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpikeSepError(f"{path}: not a readable JSON file ({error})") from error


def is_json(path: str | Path, value: Any) -> bool:
    """Whether a JSON file is there and holds `value`, as it comes back from JSON: tuples are lists."""
    try:
        return read_json(path) == json.loads(json.dumps(value))
    except SpikeSepError:
        return False
