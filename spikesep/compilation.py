"""Loops compiled with numba: options, the cache of machine code, features of the processor."""

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from numba import njit
from numba.core.caching import IndexDataCacheFile
from numba.core.event import Event, Listener, install_listener
from numba.core.registry import cpu_target


def compiled(function: Callable) -> Callable:
    """Compile a function with `njit`, without the GIL, and cache its machine code on disk.

    numba caches in NUMBA_CACHE_DIR if set, else beside the source, else (read-only installation) in
    the user's cache folder. If none is writable, each process compiles anew.
    """
    try:
        kept = njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
    kept._cache._cache_file.__class__ = CodeByKey  # type: ignore[attr-defined]
    return kept


class CodeByKey(IndexDataCacheFile):
    """Cache files of machine code, named after a hash of source, types and processor.

    numba numbers its files and keeps the numbers in an index. If two processes compile at once, or
    one is killed between writing index and file, its index leads to the code of other types or of
    another processor.
    """

    def save(self, key: tuple, data: object) -> None:
        """Write the code for a key, atomically."""
        self._save_data(self._name(key), data)

    def load(self, key: tuple) -> object | None:
        """The code for a key; None if there is none."""
        try:
            return self._load_data(self._name(key))
        except OSError:
            return None

    def flush(self) -> None:
        """Nothing to clear: there is no index."""

    def _name(self, key: tuple) -> str:
        digest = hashlib.sha256(repr((self._version, self._source_stamp, key)).encode()).hexdigest()
        return f"{self._index_name.removesuffix('.nbi')}.{digest[:16]}.nbc"


@contextmanager
def when_compiling(tell: Callable[[], object]) -> Iterator[None]:
    """Call `tell` once, before the first loop that is compiled and not read from the cache."""

    class Waiting(Listener):
        told = False

        def on_start(self, event: Event) -> None:
            if not self.told:
                self.told = True
                tell()

        def on_end(self, event: Event) -> None:
            pass

    with install_listener("numba:compile", Waiting()):
        yield


@cache
def has(feature: str) -> bool:
    """Whether loops are compiled for a processor feature, by its LLVM name ("avx512bw")."""
    codegen = cpu_target.target_context.codegen()  # type: ignore[attr-defined]
    return f"+{feature}" in codegen.magic_tuple()[2].split(",")


def load_without_blas() -> None:
    """Load numba's loops over arrays without SciPy's linear algebra, for a process of our own.

    numba imports it to see whether it can compile matrix products, which no loop here has. It takes
    longer to import than the rest of numba.
    """
    name = "scipy.linalg"
    if name in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment]  # its import fails
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules[name]
