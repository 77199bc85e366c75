"""How the prompts join the quantized stream before the decoder."""

from torch import nn


class Add(nn.Module):
    """PSCodec-Base: the element-wise sum. `z_q` `[B, D, T]`, prompts `[B, D, 1]` (None: absent) -> `[B, D, T]`."""

    def forward(self, z_q, z_vp=None, z_mel=None):
        for prompt in (z_vp, z_mel):
            if prompt is not None:
                z_q = z_q + prompt
        return z_q
