"""LSTM layers along time, beside a skip connection, whole or piece by piece."""

import torch
from torch import Tensor, nn

from pscodec.utils.machine import onednn_takes


def _step(lstm, x, state):
    """The next frames `[B, C, n]`, n >= 1, after those that `state` (None: none) remembers; and the new state."""
    frames = x.permute(2, 0, 1).contiguous()
    y, state = lstm(frames, state)
    return (y + frames).permute(1, 2, 0), state


class ResidualLSTM(nn.Module):
    """x + `n_layers` LSTM layers over it, from the past to the future. `[B, C, T]` -> `[B, C, T]`.

    Source: Defossez et al., EnCodec (2022), section 3.1.
    """

    def __init__(self, channels, n_layers=2):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, n_layers)

    def forward(self, x: Tensor) -> Tensor:
        return _step(self.lstm, x, None)[0]

    def push_form(self):
        return PushLSTM(self)


class PackedLSTM(nn.Module):
    """An `nn.LSTM` for use, not for training: its weights cast to `dtype` and in oneDNN's order, made once; torch
    arranges them at every call, which takes longer than dozens of frames. (`[T, B, C]`, state) -> the same."""

    def __init__(self, lstm, dtype):
        super().__init__()
        self.channels, self.dtype, self.packed = lstm.hidden_size, dtype, []  # no parameters, as layers/packed
        for i in range(lstm.num_layers):
            names = (f"weight_ih_l{i}", f"weight_hh_l{i}", f"bias_ih_l{i}", f"bias_hh_l{i}")
            wide, deep, *biases = (getattr(lstm, name).detach().to(dtype) for name in names)
            arranged = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight(wide, deep, self.channels, False, True, False)
            self.packed.append((*arranged, *biases))

    def forward(self, x, state=None):
        x = x.to(self.dtype)
        if state is None:
            state = [x.new_zeros(len(self.packed), x.shape[1], self.channels) for _ in range(2)]
        ends = []
        for weights, h, c in zip(self.packed, *(part.split(1) for part in state), strict=True):
            options = False, [], 2, self.channels, 1, True, False, False, False  # 2: an LSTM; forward; with biases
            x, *end, _ = torch.ops.aten.mkldnn_rnn_layer(x, *weights, h, c, *options)
            ends.append(end)
        return x, [torch.cat(parts) for parts in zip(*ends, strict=True)]


def pack_lstm(lstm, dtype=None):
    """The packed form of an `nn.LSTM` in `dtype` (None: its own), or it itself where oneDNN is not to be had."""
    dtype = dtype or getattr(lstm, "dtype", None) or lstm.weight_ih_l0.dtype
    if isinstance(lstm, PackedLSTM) or lstm.weight_ih_l0.device.type != "cpu" or not onednn_takes(dtype):
        return lstm
    return PackedLSTM(lstm, dtype)


class PushLSTM:
    """The push form (layers/push) of a `ResidualLSTM`: what it remembers is its state. `[B, C, n]` -> `[B, C, n]`."""

    def __init__(self, layer):
        self.lstm = pack_lstm(layer.lstm)
        self.reset()

    def reset(self):
        self.state = None

    def push(self, x, last=False):
        if x.shape[-1] == 0:
            return x
        y, self.state = _step(self.lstm, x, self.state)
        return y

    def ready(self, n):
        return n
