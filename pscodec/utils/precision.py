"""Which arithmetic a machine is built for."""

import torch


def best_precision(device):
    """`bf16` where `device` multiplies bfloat16 natively (AMX or AVX512-BF16, Ampere and later), else `fp32`."""
    if str(device).startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"
