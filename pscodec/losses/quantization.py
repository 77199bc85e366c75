"""The quantizer's own loss, L_q of PSCodec eq. (10)."""

from torch import nn


class Quantization(nn.Module):
    """What the quantizer computed on its way: codebook and commitment terms (`quantizers/rvq.py`)."""

    def forward(self, evidence):
        return evidence.output.quantized.loss
