"""Which number format a processor trains fastest in."""

import os
from functools import cache

import torch

ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that forbid oneDNN, which computes torch's products on a CPU, the newer instructions."""
LIMITS_WITHOUT_BF16 = {
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
}
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""In torch's words; the last is ARM's."""


@cache
def supports_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16 products, and torch uses them; elsewhere bf16 is emulated, and many
    times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if any(os.environ.get(name, "").upper() in LIMITS_WITHOUT_BF16 for name in ONEDNN_LIMITS):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in BF16_INSTRUCTIONS)


def exact_products(device: torch.device) -> None:
    """Have an accelerator compute float32 in full: TF32's short products would tip neurons on their threshold."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context for `auto`, `bf16` or `float32`."""
    enabled = precision == "bf16" or (precision == "auto" and supports_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
