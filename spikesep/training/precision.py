"""Number formats of training."""

import os
from functools import cache

import torch

ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that limit the instruction sets of oneDNN, torch's CPU backend."""
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
"""Names of the instruction sets with bf16 products in torch; the last is ARM's."""


@cache
def supports_bf16(device: torch.device) -> bool:
    """Return whether the device has instructions for bf16 products and torch uses them.

    Without them, bf16 is emulated and many times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if any(os.environ.get(name, "").upper() in LIMITS_WITHOUT_BF16 for name in ONEDNN_LIMITS):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in BF16_INSTRUCTIONS)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return whether the precision `auto`, `bf16` or `float32` means bf16 on this device."""
    return precision == "bf16" or (precision == "auto" and supports_bf16(device))


def exact_products(device: torch.device) -> None:
    """Disable TF32, whose rounding would make neurons near their threshold fire differently."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context of the precision `auto`, `bf16` or `float32`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))
