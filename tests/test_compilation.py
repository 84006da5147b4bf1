"""Where compiled loops are kept, and that compiling is told."""

import importlib.util
import shutil

import numba
import numpy as np
import pytest

from spikesep.compilation import CodeByKey, when_compiling
from spikesep.spiking.spike_trains import kernels


def installed(folder):
    """Another copy of the module, as a process that starts would load it."""
    spec = importlib.util.spec_from_file_location("copied_kernels", folder / "kernels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """An installation in which no cache can be made, though root may write anywhere."""
    shutil.copy(kernels.__file__, tmp_path)
    (tmp_path / "__pycache__").touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def times_compiled(module):
    """How often compiling is told while a loop runs twice: 1 or 0."""
    told, totals = [], np.zeros(1, np.int64)
    with when_compiling(lambda: told.append("told")):
        for _ in range(2):
            module.count_rows(0, 1, np.full((2, 1, 3), 2**64 - 1, np.uint64), totals)
    assert totals == 2 * 3 * 64
    return len(told)


def test_loops_of_a_read_only_installation_are_kept_in_the_users_cache(read_only):
    assert times_compiled(installed(read_only)) == 1
    assert [path.suffix for path in (read_only / "cache").rglob("*.nb?")] == [".nbc"]
    assert times_compiled(installed(read_only)) == 0


def test_where_nothing_can_be_written_each_process_compiles(read_only):
    (read_only / "cache").touch()
    assert times_compiled(installed(read_only)) == 1
    assert times_compiled(installed(read_only)) == 1


KEY = (("uint8[:]",), ("x86_64-linux", "znver4", "+avx512vbmi2"), ("bytecode", ""))


def code(folder, stamp=(1.0, 100)):
    return CodeByKey(str(folder), "kernels.f-1.py311", stamp)


@pytest.mark.parametrize(
    "other",
    [
        (KEY[0], ("x86_64-linux", "haswell", "+avx2"), KEY[2]),
        (KEY[0], ("x86_64-linux", "znver4", "+avx2"), KEY[2]),
        (("int32[:]",), *KEY[1:]),
        (*KEY[:2], ("other bytecode", "")),
    ],
    ids=["processor", "features", "types", "source"],
)
def test_code_on_disk_is_never_that_of_another_processor_or_of_other_types(tmp_path, other):
    """Also where two processes, which know nothing of one another's, write at once."""
    one, two = code(tmp_path), code(tmp_path)
    assert one.load(KEY) is None
    one.save(KEY, "mine")
    assert two.load(other) is None
    two.save(other, "another's")
    one.flush()
    assert (one.load(KEY), two.load(KEY)) == ("mine", "mine")
    assert one.load(other) == "another's"


def test_code_on_disk_is_never_that_of_an_older_source(tmp_path):
    code(tmp_path).save(KEY, "old")
    assert code(tmp_path, stamp=(2.0, 101)).load(KEY) is None


def test_code_of_our_loops_is_kept_by_its_key():
    assert isinstance(kernels.collect._cache._cache_file, CodeByKey)
