"""Atomic writes, folder locks, and text and JSON files."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from spikesep.errors import SpikeSepError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCKED_PREFIX = ".spikesep-locked-"
"""Prefix of the temporary names of `atomic_file`."""

WHITESPACE = " \t\n\v\f\r"
"""ASCII whitespace, which separates fields in Kaldi lists."""

_unfinished: set[Path] = set()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` on success and removed on failure.

    The temporary path may become a file or a folder. A file replaces only a file, a folder only a
    folder. The temporary name keeps the suffix and is short, so `path` may have the longest name
    that the file system allows.

    Raises:
        SpikeSepError: If the disk is full (see `explain_full_disk`).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(path)
    _unfinished.add(temporary)
    try:
        with explain_full_disk(path):
            yield temporary
        if path.is_dir() and temporary.is_dir():
            old = _temporary_path(path)
            path.replace(old)  # a kill while it is removed leaves no half of it at `path`
            temporary.replace(path)
            _remove(old)
        else:
            temporary.replace(path)
    finally:
        _remove(temporary)
        _unfinished.discard(temporary)


def remove_unfinished() -> None:
    """Remove the temporary files of this process, for use before it exits without unwinding."""
    for path in list(_unfinished):
        if f".{os.getpid()}.part" in path.name:  # a forked process inherits its parent's entries
            with suppress(OSError):
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Delay SIGINT, SIGTERM and SIGHUP until the block ends.

    Use it around code that would lose an exception raised by a signal handler (C callbacks), or
    that must not stop half way. Blocks may be nested. Ignored signals stay so, also in processes
    that are started in the block. The function does nothing outside the main thread, which alone
    runs signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks the last
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in received:
            signal.raise_signal(number)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a binary file that appears at `path` on success and is removed on failure.

    The temporary file is locked while it is open, so that `remove_abandoned` can recognize one
    whose process was killed.

    Raises:
        SpikeSepError: If the disk is full (see `explain_full_disk`).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, file = _create_locked(path)
    _unfinished.add(temporary)
    try:
        with file:
            with explain_full_disk(path):
                yield file
                file.flush()
            if fcntl is None:
                file.close()  # Windows cannot rename an open file
            temporary.replace(path)  # while it is locked
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of `atomic_file` from `folder` that no live process has locked."""
    if fcntl is None:
        return
    for path in folder.glob(f"{LOCKED_PREFIX}*"):
        with suppress(OSError), path.open("r+b") as file:  # locked, gone, or locks are unsupported
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _temporary_path(path: Path, prefix: str = ".spikesep-") -> Path:
    """Return a temporary path that is unique across threads, processes and machines."""
    return path.with_name(f"{prefix}{secrets.token_hex(4)}.{os.getpid()}.part{path.suffix}")


def _create_locked(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = _temporary_path(path, LOCKED_PREFIX)
        file = temporary.open("xb")
        if fcntl is not None:
            with suppress(OSError):  # the file system has no locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():  # not removed as abandoned before it was locked
            return temporary, file
        file.close()


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn the error of a full disk into a one-line message about `path`.

    Raises:
        SpikeSepError: If the disk, the quota or the maximum file size is exhausted.
    """
    try:
        yield
    except OSError as error:
        # A short write in numpy sets no errno.
        short = error.errno is None and "requested and" in str(error)
        if not short and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        reason = os.strerror(error.errno or errno.ENOSPC)
        raise SpikeSepError(
            f"{path}: cannot be written ({reason}); make room and give the same command again"
        ) from error


@contextmanager
def lock_folder(folder: Path, shared: bool = False, part: str = "") -> Iterator[None]:
    """Hold a lock on `folder`, which ends with this process at the latest.

    Holding the exclusive lock of the whole folder, remove the temporary files of killed processes
    on entry, and those of killed workers if the block fails.

    Args:
        folder: Created if missing, with its parents; what stays empty of these is removed again.
        shared: Take a shared lock, which excludes only exclusive ones.
        part: Name of a part of the work, which is locked instead of the folder.

    Raises:
        SpikeSepError: If another process holds a conflicting lock.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".lock{part}"
    with _lock(path, shared) as file:
        exclusive = file and not shared and not part
        if exclusive:
            _remove_temporaries(folder)
        try:
            yield
        except BaseException:
            if exclusive:
                _remove_temporaries(folder)
            raise
        finally:
            with suppress(OSError):  # others share the lock
                if file and fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            with suppress(OSError):  # a folder is not empty
                for path in created:
                    path.rmdir()


@contextmanager
def _lock(path: Path, shared: bool) -> Iterator[IO | None]:
    """Yield the locked file, or None if the system or the file system has no locks."""
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
                    f"{path.parent}: another process works in it; "
                    "wait until it ends, or give another folder"
                ) from error
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                    raise
                yield None
                return
            if _is_open_file(path, file):  # not removed before it was locked
                yield file
                return


def _is_open_file(path: Path, file: IO) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _remove_temporaries(folder: Path) -> None:
    paths = [
        path
        for path in folder.rglob(".*.part*")
        if re.fullmatch(r"\..+\.\d+\.part(\..*)?", path.name)
    ]
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def walk_files(
    root: str | Path, on_error: Callable[[OSError], object] | None = None
) -> Iterator[Path]:
    """List the files below a folder, except hidden ones and what hidden folders hold.

    Links to folders are followed. A folder that several paths lead to is read once.

    Args:
        root: The folder.
        on_error: Receives the error of a folder that cannot be read; None to leave it out.
    """
    seen = {os.path.realpath(root)}
    for home, folders, names in os.walk(root, onerror=on_error, followlinks=True):
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = []
        for name in sorted(shown, key=lambda name: (os.path.islink(Path(home, name)), name)):
            real = os.path.realpath(Path(home, name))
            if real not in seen:
                seen.add(real)
                folders.append(name)
        for path in (Path(home, name) for name in names if not name.startswith(".")):
            if path.is_file():
                yield path


def read_lines(path: str | Path, errors: str = "strict") -> list[str]:
    r"""Read the lines of a UTF-8 file, without line ends and byte-order mark.

    Only `\n` and `\r\n` end a line. `str.splitlines` also splits at form feeds, U+0085 and U+2028,
    which paths may contain.

    Raises:
        OSError: If the file cannot be read.
        UnicodeDecodeError: If it is not UTF-8 and `errors` is `strict`.
    """
    lines = Path(path).read_bytes().decode("utf-8-sig", errors).split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def split_fields(line: str) -> list[str]:
    """Split a line at ASCII whitespace; `str.split` also splits at U+0085, U+00A0 and U+2028."""
    return re.findall(f"[^{WHITESPACE}]+", line)


def is_listable(text: str, separators: str) -> bool:
    """Return whether `text` is valid UTF-8 and free of the characters `separators`."""
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name in another encoding
        return False
    return not set(text) & set(separators)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_files(paths: list[Path]) -> str:
    """Return 16 hexadecimal digits that identify the concatenated contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_if_changed(path: str | Path, content: bytes) -> bool:
    """Write `content` to `path` unless the file already holds it; return whether it was written."""
    path = Path(path)
    if path.is_file() and path.read_bytes() == content:
        return False
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return True


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        SpikeSepError: If the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpikeSepError(f"{path}: not a readable JSON file ({error})") from error


def json_file_equals(path: str | Path, value: Any) -> bool:
    """Return whether a JSON file exists and holds `value`, with tuples as lists."""
    try:
        return read_json(path) == json.loads(json.dumps(value))
    except SpikeSepError:
        return False
