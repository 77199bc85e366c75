"""Convolutions for use, not for training: weights folded, cast and laid out for the processor once, when they are made.

On a CPU oneDNN wants the weights of a convolution in blocks of its own. `layers/conv.py` hands them over as training
keeps them, and every call arranges them anew (and casts them, under autocast): on a few frames that is most of a call.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import channels_last, conv1d, conv_transpose1d, lift, pad_ends, wrong_by_amx
from pscodec.utils.machine import onednn_takes


def pack(layer, dtype=None, bias=True, **changes):
    """The packed form of an `nn.Conv1d` or `nn.ConvTranspose1d`, on the device where it is.

    `dtype`: of its weights and arithmetic (None: the layer's own). `bias=False` leaves the bias away. `changes`: of
    options that leave the weights as they are (padding, output_padding, ends, crop). What is packed already shares its
    weights.
    """
    kind = PackedConvTranspose1d if isinstance(layer, nn.ConvTranspose1d) else PackedConv1d
    return kind(layer, dtype, bias, changes)


def in_blocks(weight):
    """Whether `weight` is kept in oneDNN's blocks: where it is on a CPU, and oneDNN takes its numbers and is fast."""
    return weight.device.type == "cpu" and channels_last(weight.device) and onednn_takes(weight.dtype)


class _Packed:
    """The options of a layer, its bias as a parameter, its weights as `packed`: no parameter, because in the blocks of
    oneDNN they can be neither moved, nor read, nor saved."""

    OPTIONS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    BEYOND = {"ends": (0, 0), "ends_mode": "zeros", "crop": 0}  # layers/conv's own, and what torch's layers have

    def __init__(self, layer, dtype, bias, changes):
        beyond = {name: changes.pop(name, getattr(layer, name, plain)) for name, plain in self.BEYOND.items()}
        super().__init__(**{name: getattr(layer, name) for name in self.OPTIONS} | changes, bias=False, device="meta")
        self.ends, self.ends_mode, self.crop = beyond.values()
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError(f"{layer}: only zero padding of a given width is packed")
        del self.weight
        if isinstance(layer, _Packed):
            self.dtype, self.packed, self.beyond = layer.dtype, layer.packed, layer.beyond
        else:
            weight = layer.weight.detach().to(dtype or layer.weight.dtype)
            self.dtype, self.packed, self.beyond = weight.dtype, weight, 0
            if in_blocks(weight):
                if self._is_wrong(weight):  # one tap more, a zero (layers/conv)
                    weight, self.beyond = F.pad(weight, (0, 1)), self.dilation[0]
                arrange = getattr(torch.ops.mkldnn, self.ARRANGE)
                self.packed = arrange(lift(weight), *self._flat(), self.groups, None)
        if bias and layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to(self.dtype), requires_grad=False)

    def forward(self, x):
        x = x.to(self.dtype)
        if any(self.ends):
            x = pad_ends(x, self.ends, self.ends_mode)
        y = self._plain(x) if not self.packed.is_mkldnn else self._blocked(x)
        return y[..., : y.shape[-1] - self.crop] if self.crop else y

    def _blocked(self, x):
        compute = getattr(torch.ops.mkldnn, self.COMPUTE)
        if self.beyond:
            x = F.pad(x, (0, self.beyond))
        return compute(lift(x), self.packed, self.bias, *self._flat(), self.groups, "none", [], "").squeeze(2)


class GroupNorm(nn.GroupNorm):
    """An `nn.GroupNorm` for use, `[B, C, T]` with the channels innermost, which torch would rearrange twice; its sums
    are then taken in another order."""

    def __init__(self, layer):
        super().__init__(layer.num_groups, layer.num_channels, layer.eps, layer.affine)
        self.load_state_dict(layer.state_dict())

    def forward(self, x):
        return super().forward(lift(x) if channels_last(x.device) else x.unsqueeze(2)).squeeze(2)


class PackedConv1d(_Packed, nn.Conv1d):
    """A packed `nn.Conv1d`. `[B, C, T]` of any precision -> `[B, C', T']` of its own."""

    ARRANGE, COMPUTE = "_reorder_convolution_weight", "_convolution_pointwise"

    def _is_wrong(self, weight):
        return self.groups == 1 and wrong_by_amx(self.in_channels, weight, weight.dtype)

    def _flat(self):
        return (0, *self.padding), (1, *self.stride), (1, *self.dilation)

    def _plain(self, x):
        return conv1d(x, self.packed, self.bias, self.stride, self.padding, self.dilation, self.groups)


class PackedConvTranspose1d(_Packed, nn.ConvTranspose1d):
    """A packed `nn.ConvTranspose1d`. `[B, C, T]` of any precision -> `[B, C', T']` of its own."""

    OPTIONS = (*_Packed.OPTIONS, "output_padding")
    ARRANGE, COMPUTE = "_reorder_convolution_transpose_weight", "_convolution_transpose_pointwise"

    def _is_wrong(self, weight):
        return False  # only its gradients would be

    def _flat(self):
        return (0, *self.padding), (0, *self.output_padding), (1, *self.stride), (1, *self.dilation)

    def _plain(self, x):
        options = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return conv_transpose1d(x, self.packed, self.bias, *options)
