"""What masks lack: a small network on the spectra of a mixture and of what is decoded of its talkers.

Shapes: S sources, F bins, T windows, C channels.
"""

import torch
from torch import nn
from torch.nn import functional

FLOOR = 1e-3  # of magnitudes, 60 to 70 dB below speech whose peak is 1


class Refiner(nn.Module):
    """How much more of each bin, in nepers, than its estimate says a talker has: 0 before it is trained.

    A codec at 675 bit/s decodes harmonics roughly and fills silences; the mixture shows where they really are. Each
    talker is looked at alike, beside the sum of the others, by 2-D convolutions of `channels` at every second bin, with
    dilations in both directions. `context` windows on either side have a part in one.
    """

    def __init__(self, channels=16, n_blocks=8):
        super().__init__()
        # 65 values and lines between them: what is usual in a band, at any number of bins
        self.band = nn.Parameter(torch.zeros(channels, 65))
        self.first = nn.Conv2d(3, channels, (5, 3), (2, 1), (2, 1))
        dilations = [(2 ** (i % 3), 2 ** (i % 4)) for i in range(n_blocks)]
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in dilations)
        self.scale = nn.Parameter(torch.full((n_blocks, channels, 1, 1), 0.1))
        self.last = nn.Conv2d(channels, 2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.context = 2 + sum(time for _, time in dilations)

    def forward(self, mix, voices):
        """Magnitudes of a mixture whose peak is 1, `[F, T]`, and of the estimates, `[S, F, T]` -> `[S, F, T]`."""
        others = voices.sum(0) - voices
        x = torch.stack([mix.expand_as(voices), voices, others], 1)
        x = 0.3 * (x.clamp(min=0) + FLOOR).log()
        x = self.first(x)
        x = functional.elu(x + functional.interpolate(self.band[None], x.shape[2], mode="linear")[..., None])
        for scale, block in zip(self.scale, self.blocks, strict=True):
            x = x + scale * functional.elu(block(x))
        return self.last(x).transpose(1, 2).flatten(1, 2)[:, : len(mix)].float()
