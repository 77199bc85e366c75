"""PSCodec: a HifiCodec-like encoder, quantizer and decoder, helped by two prompt encoders.

Source: Pan et al., PSCodec, section III: fig. 2 (Base, and DRL-ICT, which trains the same model differently).
"""

import torch
from torch import Tensor

from pscodec.models.base import Codec
from pscodec.types import CodecOutput, Plan, Prompt


class PSCodec(Codec):
    """The parts are built elsewhere (YAML) and joined here as in fig. 2; a prompt encoder may be None (Table V).

    In training each item goes without a prompt with probability `prompt_dropout` (ours, not the paper's), so that the
    decoder learns to do without one.
    """

    plan: Plan | None = None

    def __init__(
        self, encoder, quantizer, decoder, fusion, vpp_enc=None, melp_enc=None, sample_rate=24000, prompt_dropout=0.0
    ):
        super().__init__(encoder, quantizer, decoder, sample_rate, vpp_enc=vpp_enc, melp_enc=melp_enc, fusion=fusion)
        self.prompt_dropout = prompt_dropout
        prompt_encoders = {("voiceprint", "z_vp"): vpp_enc, ("mel", "z_mel"): melp_enc}
        there = [names for names, part in prompt_encoders.items() if part is not None]
        self.sees = tuple(seen for seen, _ in there)
        self.side_sizes = {sent: None for _, sent in there}

    def forward(self, wav: Tensor, prompt: Prompt | None = None) -> CodecOutput:
        """As every codec's; what a decoder tells of the pitch (models/source) is among the latents, `pitch`,
        `[B, 2, T]`, for a loss of its own."""
        output = super().forward(wav, prompt)
        if hasattr(self.decoder, "pitch"):
            side = {name: output.latents[name] for name in self.side_sizes if name in output.latents}
            told = self.decoder.pitch(self.fuse(output.latents["z_q"], side))
            output.latents["pitch"] = torch.cat(told, 1)
        return output

    def side(self, prompt: Prompt | None) -> dict[str, Tensor]:
        """The prompt as vectors, `z_vp` `[B, D, 1]`, `z_mel` `[B, D, N]`, of encoders that exist; {} for None."""
        if prompt is None:
            return {}
        side = {}
        if self.vpp_enc is not None:
            side["z_vp"] = self.vpp_enc(prompt)
        if self.melp_enc is not None:
            side["z_mel"] = self.melp_enc(prompt.mel)
        return side

    def fuse(self, z_q: Tensor, side: dict[str, Tensor]) -> Tensor:
        return self.fusion(z_q, **(self._shown(side) or self.no_side(z_q)))

    def no_side(self, z_q: Tensor) -> dict[str, Tensor]:
        """Zeros, as items that are shown no prompt."""
        return {name: z_q.new_zeros(*z_q.shape[:2], 1) for name in self.side_sizes}

    def draw(self, rng, n_items: int) -> dict[str, Tensor]:
        """For a step's plan: which items are shown their prompt, bool `[n_items]`."""
        if not (self.sees and self.prompt_dropout):
            return {}
        return {"prompted": torch.from_numpy(rng.random(n_items) >= self.prompt_dropout)}

    def _shown(self, side):
        """`side` with zeros for the items that the plan of a training step shows no prompt."""
        prompted = self.plan.drawn.get("prompted") if self.training and self.plan else None
        if prompted is None:
            return side
        return {name: z * prompted.to(z.device).view(-1, 1, 1) for name, z in side.items()}
