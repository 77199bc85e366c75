"""What the machine is built for, and how to let it."""

import ctypes
import resource
import sys

import torch


def best_precision(device):
    """`bf16` where `device` multiplies bfloat16 natively (AMX or AVX512-BF16, Ampere and later), else `fp32`.

    What the processor has counts on a CPU where oneDNN makes use of it; without, torch computes, but many times slower.
    """
    if str(device).startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native and onednn_takes(torch.bfloat16) else "fp32"


def onednn_takes(dtype):
    """Whether this torch has oneDNN, and that takes numbers of `dtype` (float32, bfloat16) on this CPU: bfloat16 only
    from AVX512 (or AVX2 with NE-CONVERT) on, and as far as ONEDNN_MAX_CPU_ISA lets it."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def keep_memory():
    """Let glibc keep the memory that tensors give back (Linux; elsewhere nothing happens).

    By default every large tensor on the CPU is mapped afresh and its pages are faulted in one by one, which costs
    more than the arithmetic of element-wise layers. The process then holds on to its peak.
    """
    if not sys.platform.startswith("linux"):
        return
    libc, m_trim_threshold, m_mmap_max = ctypes.CDLL(None), -1, -4
    if hasattr(libc, "mallopt"):  # not in every libc
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def peak_memory():
    """The most memory that this process has had resident so far, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
