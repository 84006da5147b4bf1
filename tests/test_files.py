import errno
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress

import pytest

from spikesep.errors import SpikeSepError
from spikesep.files import (
    atomic_file,
    atomic_path,
    defer_signals,
    lock_folder,
    remove_abandoned,
    walk_files,
    write_text,
)


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "list"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["list"]
    assert path.read_text() == "old"


def test_names_of_maximum_length_can_be_written(tmp_path):
    name = "x" * 251 + ".wav"
    write_text(tmp_path / name, "text")
    with atomic_file(tmp_path / name) as file:
        file.write(b"new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "new")]


def test_locked_file_is_removed_on_failure(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "new" / "a") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list((tmp_path / "new").iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from spikesep.files import atomic_file
with atomic_file(Path(sys.argv[1]) / "voice.wav") as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_only_abandoned_files_are_removed(tmp_path):
    subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    (left,) = tmp_path.iterdir()
    kept = [tmp_path / name for name in (".spikesep-1f.7.part.wav", ".a.part.wav", "a.wav")]
    for path in kept:
        path.touch()
    with atomic_file(tmp_path / "other.wav") as file:
        file.write(b"whole")
        remove_abandoned(tmp_path)
        assert not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "other.wav"])


def test_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious").write_text("old")
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "a", "new")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["a", "a/precious"]


@pytest.mark.parametrize("is_link", [False, True])
def test_folder_is_replaced_before_the_old_one_is_removed(tmp_path, monkeypatch, is_link):
    path, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    (elsewhere if is_link else path).mkdir()
    (elsewhere if is_link else path).joinpath("old").touch()
    if is_link:
        path.symlink_to(elsewhere)

    def interrupted(_):
        assert [p.name for p in path.iterdir()] == ["new"]
        raise InterruptedError

    monkeypatch.setattr("spikesep.files.shutil.rmtree", interrupted)
    with suppress(InterruptedError), atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert not path.is_symlink()
    assert not is_link or [p.name for p in elsewhere.iterdir()] == ["old"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_error_names_file_and_remedy(tmp_path, number):
    with (
        pytest.raises(SpikeSepError, match=r"model: cannot be written .*make room"),
        atomic_path(tmp_path / "model"),
    ):
        raise OSError(number, "whatever")


def test_writing_to_a_full_device_is_reported(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with (
        pytest.raises(SpikeSepError, match="No space left"),
        atomic_path(tmp_path / "model") as temporary,
    ):
        temporary.symlink_to("/dev/full")
        temporary.write_text("tensors")
    assert list(tmp_path.iterdir()) == []


def test_folder_lock_is_exclusive_or_shared(tmp_path):
    with (
        lock_folder(tmp_path),
        pytest.raises(SpikeSepError, match="another process works in it"),
        lock_folder(tmp_path),
    ):
        pass
    with ExitStack() as stack:
        for part in ("-1of2", "-2of2"):
            stack.enter_context(lock_folder(tmp_path, shared=True))
            stack.enter_context(lock_folder(tmp_path, part=part))
        with (
            pytest.raises(SpikeSepError, match="another process"),
            lock_folder(tmp_path, part="-1of2"),
        ):
            pass
        with pytest.raises(SpikeSepError, match="another process"), lock_folder(tmp_path):
            pass
    with lock_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []  # no lock is left


def test_file_system_without_locks_is_supported(tmp_path, monkeypatch):
    def no_locks(file, kind):
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr("spikesep.files.fcntl.flock", no_locks)
    with lock_folder(tmp_path), atomic_file(tmp_path / "model"):
        remove_abandoned(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_created_folder_is_removed_if_it_stays_empty(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path / "exp" / "of" / "mine"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_failed_work_removes_partial_files(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock_folder(tmp_path):
        (tmp_path / ".spikesep-1f.7.part.wav").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_next_lock_removes_only_partial_files_of_killed_processes(tmp_path):
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from spikesep.files import atomic_path, lock_folder\n"
        "folder = Path(sys.argv[1])\n"
        "with lock_folder(folder), atomic_path(folder / 'snn') as one:\n"
        "    one.mkdir()\n"
        "    (one / 'config.json').write_text('{')\n"
        "    with atomic_path(folder / 'wav' / 'a.b.wav') as other:\n"
        "        other.write_text('RIFF')\n"
        f"        os.kill(os.getpid(), {signal.SIGKILL:d})\n"
    )
    (tmp_path / "wav").mkdir()
    kept = [tmp_path / name for name in (".hidden", "wav/x.part", "wav/.notes.part.txt")]
    for path in kept:
        path.write_text("mine")
    killed = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert (
        len([p for p in tmp_path.rglob("*") if p.name.startswith(".") and p not in kept]) == 3
    )  # a lock, two parts
    with lock_folder(tmp_path):
        pass
    assert sorted(p for p in tmp_path.rglob("*") if not p.is_dir()) == sorted(kept)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_deferred_signals_arrive_after_the_block_unless_they_are_ignored(number):
    received = []
    before = signal.signal(number, lambda number, _: received.append(number))
    try:
        with defer_signals():
            signal.raise_signal(number)
            assert received == []
        assert received == [number]
        signal.signal(number, signal.SIG_IGN)
        with defer_signals():
            assert signal.getsignal(number) is signal.SIG_IGN
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert received == [number]


def test_walk_follows_links_and_reads_each_folder_once(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for path in ("b/c/1.wav", ".hidden/2.wav", "b/.3.wav"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    elsewhere.mkdir()
    (elsewhere / "4.wav").touch()
    (root / "a").symlink_to(root / "b")  # of two ways to a folder, not the link
    (root / "b" / "loop").symlink_to(root)
    (root / "b" / "linked").symlink_to(elsewhere)
    (root / "5.wav").symlink_to(elsewhere / "4.wav")
    (root / "6.wav").symlink_to(tmp_path / "gone")
    found = sorted(path.relative_to(root).as_posix() for path in walk_files(root))
    assert found == ["5.wav", "b/c/1.wav", "b/linked/4.wav"]


def test_walk_reports_folders_that_cannot_be_read(tmp_path):
    errors = []
    assert list(walk_files(tmp_path / "gone", errors.append)) == []
    assert [error.filename for error in errors] == [str(tmp_path / "gone")]
