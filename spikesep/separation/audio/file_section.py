"""Part of a file as a file object of its own."""

import io
import os
from typing import IO


class FileSection(io.RawIOBase):
    """Part of a file as a file object without a name, by which libraries could judge its format.

    Args:
        file: File on disk, which may be closed afterwards. All sections of a file share its
            position, so only one of them may be read at a time.
        start: First byte.
        stop: Byte after the last one; None for the end of the file.
    """

    def __init__(self, file: "IO[bytes] | FileSection", start: int = 0, stop: int | None = None):
        self._descriptor = os.dup(file.fileno())
        self._start, self._position = start, 0
        self._stop = os.fstat(self._descriptor).st_size if stop is None else stop

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all that are left if it is negative."""
        return super().read(size) or b""

    def readinto(self, memory) -> int:
        """Read up to `len(memory)` bytes into `memory` and return their number."""
        position = self._start + self._position
        os.lseek(self._descriptor, position, os.SEEK_SET)
        content = os.read(self._descriptor, min(len(memory), max(0, self._stop - position)))
        memory[: len(content)] = content
        self._position += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position relative to the section, and return it."""
        origin = (0, self._position, self._stop - self._start)[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        """Return the position relative to the section."""
        return self._position

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the whole file."""
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


BinaryFile = IO[bytes] | FileSection
