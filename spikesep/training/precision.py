"""Which number format a processor trains fastest in."""

import torch


def supports_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16 itself; elsewhere bf16 is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def exact_products(device: torch.device) -> None:
    """Have an accelerator compute float32 in full: TF32's short products would tip neurons on their threshold."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context for `auto`, `bf16` or `float32`."""
    enabled = precision == "bf16" or (precision == "auto" and supports_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
