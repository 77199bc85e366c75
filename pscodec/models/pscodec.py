"""PSCodec: a HifiCodec-like encoder, quantizer and decoder, helped by two prompt encoders.

Source: Pan et al., PSCodec, section III: fig. 2 (Base, and DRL-ICT, which trains the same model differently).
"""

import torch

from pscodec.models.base import Codec


class PSCodec(Codec):
    """The parts are built elsewhere (YAML) and joined here as in fig. 2; a prompt encoder may be None (Table V).

    In training each item goes without a prompt with probability `prompt_dropout` (ours, not the paper's), so that the
    decoder learns to do without one.
    """

    def __init__(
        self, encoder, quantizer, decoder, fusion, vpp_enc=None, melp_enc=None, sample_rate=24000, prompt_dropout=0.0
    ):
        super().__init__(encoder, quantizer, decoder, sample_rate, vpp_enc=vpp_enc, melp_enc=melp_enc, fusion=fusion)
        self.prompt_dropout = prompt_dropout
        prompt_encoders = {("voiceprint", "z_vp"): vpp_enc, ("mel", "z_mel"): melp_enc}
        there = [names for names, part in prompt_encoders.items() if part is not None]
        self.sees = tuple(seen for seen, _ in there)
        self.side_sizes = {sent: None for _, sent in there}

    def side(self, prompt):
        """The prompt as vectors: `z_vp` and `z_mel`, `[B, D, 1]` each, for those encoders that exist; {} for None."""
        if prompt is None:
            return {}
        side = {}
        if self.vpp_enc is not None:
            side["z_vp"] = self.vpp_enc(prompt)
        if self.melp_enc is not None:
            side["z_mel"] = self.melp_enc(prompt.mel)
        return side

    def synthesise(self, z_q, side):
        return self.decoder(self.fusion(z_q, **(self._dropped(side) or self.no_side(z_q))))

    def no_side(self, z_q):
        """Zeros, as items that training has dropped."""
        return {name: z_q.new_zeros(*z_q.shape[:2], 1) for name in self.side_sizes}

    def _dropped(self, side):
        """`side` with zeros for the items, drawn anew in each training step, that go without a prompt."""
        if not (side and self.training and self.prompt_dropout):
            return side
        like = next(iter(side.values()))
        kept = torch.rand(like.shape[0], 1, 1, device=like.device) >= self.prompt_dropout
        return {name: z * kept for name, z in side.items()}
