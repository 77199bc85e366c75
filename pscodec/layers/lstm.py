"""LSTM layers along time, beside a skip connection, whole or piece by piece."""

from torch import Tensor, nn


class ResidualLSTM(nn.Module):
    """x + `n_layers` LSTM layers over it, from the past to the future. `[B, C, T]` -> `[B, C, T]`.

    Source: Defossez et al., EnCodec (2022), section 3.1.
    """

    def __init__(self, channels, n_layers=2):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, n_layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x, None)[0]

    def step(self, x: Tensor, state):
        """The next frames `[B, C, n]`, n >= 1, after those that `state` (None: none) remembers; and the new state."""
        frames = x.permute(2, 0, 1).contiguous()
        y, state = self.lstm(frames, state)
        return (y + frames).permute(1, 2, 0), state

    def push_form(self):
        return PushLSTM(self)


class PushLSTM:
    """The push form (layers/push) of a `ResidualLSTM`: what it remembers is its state. `[B, C, n]` -> `[B, C, n]`."""

    def __init__(self, layer):
        self.layer = layer
        self.reset()

    def reset(self):
        self.state = None

    def push(self, x, last=False):
        if x.shape[-1] == 0:
            return x
        y, self.state = self.layer.step(x, self.state)
        return y

    def ready(self, n):
        return n
