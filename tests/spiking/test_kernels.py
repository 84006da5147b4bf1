import pytest

from spikesep.spiking import kernels

KEY = (("uint8[:]",), ("x86_64-linux", "znver4", "+avx512vbmi2"), ("bytecode", ""))


def code(folder, stamp=(1.0, 100)):
    return kernels.CodeByKey(str(folder), "kernels.f-1.py311", stamp)


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


def test_loops_keep_their_code_so():
    assert isinstance(kernels.collect._cache._cache_file, kernels.CodeByKey)
