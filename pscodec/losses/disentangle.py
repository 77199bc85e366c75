"""DRL: the encoders are pulled towards telling different things. PSCodec, section III-B.1, eqs. (3) and (4)."""

from torch import nn


def ssim(a, b, c1=0.01, c2=0.03, over="utterance"):
    """Eq. (3), structural similarity in [-1, 1] of latents `[B, D, T]` or `[B, D, 1]` (repeated over time) -> `[B]`.

    Means, variances and the covariance are taken `over` all of an `utterance`'s D * T numbers, or over the D numbers
    of each `frame`, whose similarities are then averaged. c1 and c2 are the constants themselves.
    """
    if over not in ("utterance", "frame"):
        raise ValueError(f"SSIM is taken over utterance or frame, not {over!r}")
    frames = max(a.shape[2], b.shape[2])
    a, b = (x.float().expand(-1, -1, frames) for x in (a, b))
    axes = (1, 2) if over == "utterance" else 1
    mean_a, mean_b = a.mean(axes, keepdim=True), b.mean(axes, keepdim=True)
    var_a, var_b = (a - mean_a).pow(2).mean(axes), (b - mean_b).pow(2).mean(axes)
    covariance = ((a - mean_a) * (b - mean_b)).mean(axes)
    mean_a, mean_b = mean_a.squeeze(axes), mean_b.squeeze(axes)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.pow(2) + mean_b.pow(2) + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).reshape(len(a), -1).mean(1)


class DRL(nn.Module):
    """Eq. (4): weighted sum of the similarities of z_q, z_vp and z_mel, mean over the batch.

    `sign`: `raw` minimises the similarity as the paper writes it, down to anti-correlation; `abs` and `relu` are
    content at zero. Pairs with a latent that the codec does not have count nothing. `stopgrad`: latents that are only
    looked at, `[z_q]`, say, so that the prompts move away from the codes and not the codes from the prompts.
    """

    def __init__(self, q_mel=2.0, q_vp=5.0, vp_mel=1.0, c1=0.01, c2=0.03, over="utterance", sign="raw", stopgrad=()):
        super().__init__()
        if sign not in ("raw", "abs", "relu"):
            raise ValueError(f"the sign of DRL is raw, abs or relu, not {sign!r}")
        self.pairs = {("z_q", "z_mel"): q_mel, ("z_q", "z_vp"): q_vp, ("z_vp", "z_mel"): vp_mel}
        self.c1, self.c2, self.over, self.sign, self.stopgrad = c1, c2, over, sign, tuple(stopgrad)

    def forward(self, evidence):
        latents = evidence.output.latents
        latents = {name: z.detach() if name in self.stopgrad else z for name, z in latents.items()}
        if "z_mel" in latents:  # of several vectors (melprompt's `pool`) their mean
            latents["z_mel"] = latents["z_mel"].mean(2, keepdim=True)
        total = evidence.output.wav_hat.new_zeros(())
        for (a, b), weight in self.pairs.items():
            if a in latents and b in latents:
                similarity = ssim(latents[a], latents[b], self.c1, self.c2, self.over)
                similarity = {"raw": lambda x: x, "abs": abs, "relu": lambda x: x.relu()}[self.sign](similarity)
                total = total + weight * similarity.mean()
        return total
