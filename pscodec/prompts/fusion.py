"""How the prompts join the quantized stream before the decoder."""

from torch import nn


class Add(nn.Module):
    """PSCodec-Base: the element-wise sum. `z_q` `[B, D, T]`, prompts `[B, D, N]` (None: absent) -> `[B, D, T]`.

    Of a prompt of several vectors (melprompt's `pool`) the mean is added.
    """

    def forward(self, z_q, z_vp=None, z_mel=None):
        for prompt in (z_vp, z_mel):
            if prompt is not None:
                z_q = z_q + prompt.mean(2, keepdim=True)
        return z_q
