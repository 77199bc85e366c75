"""Codes by analysis-by-synthesis: those from which the decoder makes what is nearest to the recording.

An encoder answers at once, for all recordings alike. A search begins with its latents and goes down the gradient of
what is heard of *this* recording, through decoder and quantizer. The decoder is as it is, and so are files: who
decodes them need not know.

Sources: Schroeder and Atal, Code-excited linear prediction, ICASSP 1985, for the principle; Campos et al., Content
adaptive optimization for neural image compression, CVPR workshops 2019, for latents that learn.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from pscodec.losses.base import WeightedSum
from pscodec.losses.intelligibility import STOILoss
from pscodec.losses.neurogram import NSIMLoss
from pscodec.losses.perceptual import PerceptualLoss
from pscodec.losses.spectral import MultiMelL1, MultiSTFTL1
from pscodec.types import CodecOutput, Evidence
from pscodec.utils.errors import UserError

WINDOW = 10.0  # seconds searched at once; memory grows with them
CONTEXT = 0.5  # seconds to either side that are decoded, too, but stay as they are
SHORTEST = 0.5  # seconds that losses are shown at least
RATE = 0.25  # of Adam, in root mean squared errors of the quantizer; falls to a tenth of it
COMMITMENT = 0.3  # times the distance from the encoder's latents, in squared errors: decoders know codes like those
FLOOR = 0.2  # magnitudes below it are not told apart, as the released codecs were trained


class Search:
    """`model` (models.base.Codec, in eval mode, before models/optimise) searching for codes, in so many `steps`, each
    a decoding and its gradient. Raises UserError for a codec that cannot be searched.

    Latents are rounded to codes in every step, with straight-through gradients; of all steps the codes with the lowest
    loss are kept, the encoder's among them. What is heard: spectra, Mel spectra, and what STOI, PESQ and ViSQOL hear;
    weights by trials on speakers of `dev` (recipes/Small24k/RESULTS.md).
    """

    def __init__(self, model, steps=10):
        if model.chunk:
            raise UserError("a codec of chunks has no search for its codes")
        if model.sampling:
            raise UserError("a codec that generates what it decodes has no search for its codes")
        if steps < 1:
            raise UserError(f"a search of {steps} steps; it has 1 at least")
        self.model, self.steps = copy.deepcopy(model, {id(model.quantizer): model.quantizer}), steps  # n_q is shared
        self.model.requires_grad_(False)
        rate = model.sample_rate
        terms = {
            "mel": MultiMelL1(rate, floor=FLOOR),
            "stft": MultiSTFTL1(floor=FLOOR),
            "stoi": STOILoss(rate),
            "perceptual": PerceptualLoss(rate),
            "nsim": NSIMLoss(rate),
        }
        weights = {"mel": 2, "stft": 2, "stoi": 20, "perceptual": 1, "nsim": 10}
        self.loss = WeightedSum(terms, weights).to(next(model.parameters()).device)

    def codes(self, wav, side):
        """Codes `[K, T]` (numpy) of `wav` `[C, L]` at the codec's rate, decoded with `side` (Coder.side)."""
        return np.concatenate([codes for _, codes in self.pieces([wav], side)], 1)

    def pieces(self, wavs, side):
        """Blocks `[C, n]` of a recording -> pairs of each and the codes `[K, t]` (numpy) that it completes; the last
        block is empty."""
        hop, frame_rate = self.model.hop_length, self.model.frame_rate
        window, context = round(WINDOW * frame_rate), round(CONTEXT * frame_rate)
        held = torch.zeros(self.model.channels, 0)  # from the first frame of the context on
        before = torch.zeros(1, self.model.n_q, 0, dtype=torch.long)  # codes of the context
        for wav in wavs:
            held, found = torch.cat([held, wav], 1), []
            while held.shape[1] >= (before.shape[2] + window + context) * hop:
                n = (before.shape[2] + window + context) * hop
                codes = self._window(held[:, :n], before, window, side)
                found.append(codes)
                kept = torch.cat([before, codes], 2)[..., -context:]
                held, before = held[:, (before.shape[2] + window - kept.shape[2]) * hop :], kept
            yield wav, torch.cat([before[..., :0], *found], 2)[0].numpy()
        rest = max(-(-held.shape[1] // hop) - before.shape[2], int(before.shape[2] == 0))
        codes = self._window(held, before, rest, side) if rest else before[..., :0]
        yield torch.zeros(self.model.channels, 0), codes[0].numpy()

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _window(self, wav, before, n, side):
        """Codes `[1, K, n]` of the frames of `wav` `[C, L]` that come after those that have the codes `before`, and
        before what is context, too."""
        model = self.model
        device = next(model.parameters()).device
        wav, start = model.pad(wav[None].to(device)).clone(), before.shape[2]  # a clone can be differentiated
        side = {name: sent.clone() for name, sent in side.items()}
        with torch.no_grad():
            encoded = model.encoder(wav)
            after = encoded[..., start + n :]
            after = model.quantizer(after).z_q if after.shape[2] else after
            before = model.quantizer.decode(before.to(device)) if start else encoded[..., :0]
            encoded = encoded[..., start : start + n]
            error = (model.quantizer(encoded).z_q - encoded).square().mean()
        z = encoded.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=RATE * error.sqrt().item(), betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, self.steps)
        best, found = None, None
        for step in range(self.steps + 1):
            quantized = model.quantizer(z)
            made = model.synthesise(torch.cat([before, quantized.z_q, after], 2), side)
            loss, _ = self.loss(Evidence(_long(wav, model), CodecOutput(_long(made, model))))
            loss = loss + COMMITMENT * (quantized.z_q - encoded).square().mean() / error
            if best is None or loss < best:
                best, found = loss.detach(), quantized.codes
            if step < self.steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return found.cpu()


def _long(wav, model):
    return F.pad(wav, (0, max(0, round(SHORTEST * model.sample_rate) - wav.shape[-1])))
