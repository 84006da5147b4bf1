import pytest
import torch

from spikesep.training.precision import autocast, supports_bf16

PROCESSORS = {
    "Zen 4": ({"avx512_bf16": True}, {}, True),
    "Sapphire Rapids": (
        {"avx512_bf16": True, "amx_bf16": True},
        {"ONEDNN_MAX_CPU_ISA": "AVX10_1_512_AMX"},
        True,
    ),
    "Graviton 3": ({"bf16": True}, {}, True),
    "Zen 3": ({"avx2": True}, {}, False),
    "Ice Lake": (
        {"avx2": True, "avx512_f": True, "avx512_vnni": True, "avx512_bf16": False},
        {},
        False,
    ),
    "Graviton 2": ({"neon": True, "bf16": False}, {}, False),
    "oneDNN held to AVX2": ({"avx512_bf16": True}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
    "oneDNN held to AVX-512": ({"avx512_bf16": True}, {"DNNL_MAX_CPU_ISA": "avx512_core"}, False),
}


@pytest.mark.parametrize(
    ("capabilities", "environment", "has_it"), PROCESSORS.values(), ids=PROCESSORS
)
def test_auto_precision_is_bf16_only_where_it_is_native(
    monkeypatch, capabilities, environment, has_it
):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    supports_bf16.cache_clear()
    try:
        assert supports_bf16(cpu) == has_it
        with autocast("auto", cpu):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
    finally:
        supports_bf16.cache_clear()
    assert product.dtype == (torch.bfloat16 if has_it else torch.float32)
    with autocast("float32", cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
