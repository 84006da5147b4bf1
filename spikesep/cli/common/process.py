"""Signals and standard streams of a command's process."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that partial files are removed and children end.

    Further signals are ignored meanwhile. A signal that was ignored before, such as SIGHUP under
    nohup, stays ignored.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {
        number: handler for number, handler in before.items() if handler is not signal.SIG_IGN
    }

    def end(number: int, _frame) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Discard what libraries in C write to standard error, such as complaints of MP3 decoders.

    Messages of Python code still appear.
    """
    kept, python_stderr = os.dup(2), sys.stderr
    ours = os.fdopen(os.dup(2), "w", 1, sys.stderr.encoding, "backslashreplace")
    with open(os.devnull, "wb") as nowhere, ours:
        try:
            if python_stderr is sys.__stderr__:
                sys.stderr = ours
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            sys.stderr = python_stderr


def escape_unencodable() -> None:
    """Let standard output escape what its encoding lacks, as standard error does.

    Otherwise the name of a file, or a minus sign in a table, ends the command with a traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def open_closed_streams() -> None:
    """Open /dev/null in place of closed standard streams.

    Otherwise the next file opened would get the stream's descriptor, and with it messages of
    libraries. `sys.stdin` stays None, so that commands can report it as closed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
