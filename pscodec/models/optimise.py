"""A codec made fast, once it is only used."""

import torch
from torch import nn

from pscodec.layers.lstm import pack_lstm
from pscodec.layers.packed import pack
from pscodec.utils.errors import UserError
from pscodec.utils.machine import best_precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def optimise(model, precision="auto"):
    """Prepare `model` (models.base.Codec, in eval mode, on the device where it will be used) for coding; returns it.

    Its encoder and decoder are changed in place: weight norm is folded, every convolution and LSTM packed
    (layers/packed, lstm), all their numbers are of `precision`: fp32, bf16, or auto, which is bf16 where the device
    multiplies it natively. The quantizer and the prompt encoders stay in fp32: what they compute costs little and
    decides which codes are sent.
    The model can then be neither trained, saved nor moved; take its fingerprint before.
    """
    if precision == "auto":
        precision = best_precision(next(model.parameters()).device)
    if precision not in DTYPES:
        raise UserError(f"precision is auto, fp32 or bf16, not {precision!r}")
    for part in (model.encoder, model.decoder):
        for parent in list(part.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                    setattr(parent, name, pack(layer, DTYPES[precision]))
                elif isinstance(layer, nn.LSTM):
                    setattr(parent, name, pack_lstm(layer, DTYPES[precision]))
        part.to(DTYPES[precision])  # what is not packed
    return model
