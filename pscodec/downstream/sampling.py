"""How codes are drawn from a model of them, one after another."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Sampling:
    """`temperature` divides the logits (0: the likeliest code, nothing is drawn); `top_p`: of the likeliest codes that
    together have so much probability (nucleus sampling: Holtzman et al., 2020).

    Repetition-aware sampling (VALL-E 2, Chen et al., 2024, section 3.3): a code that makes up more than `repeated` of
    the last `window` codes is drawn again, from all codes; `window` 0 does without. `candidates` are drawn beside each
    other, and the one that the model finds likeliest, a code of it on average, is taken.
    """

    temperature: float = 1.0
    top_p: float = 0.9
    window: int = 10
    repeated: float = 0.3
    candidates: int = 1

    def draw(self, logits: Tensor, before: Tensor, rng: torch.Generator) -> Tensor:
        """Codes `[B]` from `logits` `[B, S]`, after the codes `before` `[B, T]`."""
        if self.temperature <= 0:
            return logits.argmax(1)
        shares = (logits / self.temperature).softmax(1)
        drawn = self._of(nucleus(shares, self.top_p), rng)
        if self.window and before.shape[1]:
            often = (before[:, -self.window :] == drawn[:, None]).float().mean(1) > self.repeated
            if often.any():
                drawn = torch.where(often, self._of(shares, rng), drawn)
        return drawn

    @staticmethod
    def _of(shares, rng):
        return torch.multinomial(shares, 1, generator=rng)[:, 0]


def nucleus(shares: Tensor, top_p: float) -> Tensor:
    """`shares` `[B, S]` without all but the likeliest that have `top_p` together, at least one."""
    ordered, places = shares.sort(1, descending=True)
    beyond = ordered.cumsum(1) - ordered >= top_p
    beyond[:, 0] = False
    return shares.scatter(1, places, ordered.masked_fill(beyond, 0))


@torch.inference_mode()
def write_codes(model, text, prompt, sampling, rng, most):
    """Codes `[T]`, at most `most`, that `model` (valle.AutoRegressive) writes to `text` `[1, N]` after the codes
    `prompt` `[1, P]` (P may be 0); whether it ended them itself; and what a code was worth to it, nats on average.

    Of candidates that have ended, the codes up to there count.
    """
    n = sampling.candidates
    begun = model.begin(text.expand(n, -1), prompt.expand(n, -1), prompt.shape[1] + most)
    known = begun.frames is not None and begun.frames <= most
    most = begun.frames if known else most
    codes, nats = text.new_zeros(n, 0), begun.logits.new_zeros(n)
    lengths = torch.full((n,), most + 1, device=text.device)
    for frame in range(most + (not known)):
        logits = begun.logits.float()
        if begun.frames is not None or not frame:  # nobody says nothing
            logits[:, model.edge] = -torch.inf
        drawn = sampling.draw(logits, codes, rng)
        going = lengths > most
        nats += torch.where(going, logits.log_softmax(1).gather(1, drawn[:, None])[:, 0], 0)
        lengths[going & (drawn == model.edge)] = frame
        if frame == most or (lengths <= most).all():
            break
        drawn = drawn.clamp(max=model.edge - 1)  # of those that have ended
        codes = torch.cat([codes, drawn[:, None]], 1)
        model.step(begun, drawn)
    ended = (lengths <= most) | known
    worth = nats / (lengths.clamp(max=most) + (not known)).clamp(min=1)
    best = int(torch.where(ended | ~ended.any(), worth, -torch.inf).argmax())
    return codes[best, : lengths[best].clamp(max=most)], bool(ended[best]), worth[best].item()
