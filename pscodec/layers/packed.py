"""Convolutions for use, not for training: weights folded, cast and laid out for the processor once, when they are made.

On a CPU oneDNN wants the weights of a convolution in blocks of its own. `layers/conv.py` hands them over as training
keeps them, and every call arranges them anew (and casts them, under autocast): on a few frames that is most of a call.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import lift


def pack(layer, dtype=None, bias=True, **changes):
    """The packed form of an `nn.Conv1d` or `nn.ConvTranspose1d`, on the device where it is.

    `dtype`: of its weights and arithmetic (None: the layer's own). `bias=False` leaves the bias away. `changes`: of
    options that leave the weights as they are (padding, output_padding). What is packed already shares its weights.
    """
    kind = PackedConvTranspose1d if isinstance(layer, nn.ConvTranspose1d) else PackedConv1d
    return kind(layer, dtype, bias, changes)


class _Packed:
    """The options of a layer, its bias as a parameter, its weights as `packed`: no parameter, because in the blocks of
    oneDNN they can be neither moved, nor read, nor saved."""

    OPTIONS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")

    def __init__(self, layer, dtype, bias, changes):
        super().__init__(**{name: getattr(layer, name) for name in self.OPTIONS} | changes, bias=False, device="meta")
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError(f"{layer}: only zero padding of a given width is packed")
        del self.weight
        if isinstance(layer, _Packed):
            self.dtype, self.packed = layer.dtype, layer.packed
        else:
            weight = layer.weight.detach().unsqueeze(2).to(dtype or layer.weight.dtype)
            self.dtype, self.packed = weight.dtype, weight.contiguous(memory_format=torch.channels_last)
            if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
                self.packed = self._in_blocks(self.packed)
        if bias and layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to(self.dtype), requires_grad=False)

    def _flat(self, name, height):
        """An option of the 1-D convolution for the 2-D one of height 1."""
        return (height, getattr(self, name)[0])


class PackedConv1d(_Packed, nn.Conv1d):
    """A packed `nn.Conv1d`. `[B, C, T]` of any precision -> `[B, C', T']` of its own."""

    def forward(self, x):
        x, options = lift(x.to(self.dtype)), self._options
        if self.packed.is_mkldnn:
            y = torch.ops.mkldnn._convolution_pointwise(
                x, self.packed, self.bias, *options, self.groups, "none", [], ""
            )
        else:
            padding, stride, dilation = options
            y = F.conv2d(x, self.packed, self.bias, stride, padding, dilation, self.groups)
        return y.squeeze(2)

    def _in_blocks(self, weight):
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self._options, self.groups, None)

    @property
    def _options(self):
        return self._flat("padding", 0), self._flat("stride", 1), self._flat("dilation", 1)


class PackedConvTranspose1d(_Packed, nn.ConvTranspose1d):
    """A packed `nn.ConvTranspose1d`. `[B, C, T]` of any precision -> `[B, C', T']` of its own."""

    OPTIONS = (*_Packed.OPTIONS, "output_padding")

    def forward(self, x):
        x, options, groups = lift(x.to(self.dtype)), self._options, self.groups
        if self.packed.is_mkldnn:
            op = torch.ops.mkldnn._convolution_transpose_pointwise
            y = op(x, self.packed, self.bias, *options, groups, "none", [], "")
        else:
            padding, more, stride, dilation = options
            y = F.conv_transpose2d(x, self.packed, self.bias, stride, padding, more, groups, dilation)
        return y.squeeze(2)

    def _in_blocks(self, weight):
        return torch.ops.mkldnn._reorder_convolution_transpose_weight(weight, *self._options, self.groups, None)

    @property
    def _options(self):
        flat = self._flat
        return flat("padding", 0), flat("output_padding", 0), flat("stride", 1), flat("dilation", 1)
