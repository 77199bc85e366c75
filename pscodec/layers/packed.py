"""Convolutions for use, not for training: weights folded, cast and laid out for the processor once, when they are made.

On a CPU oneDNN wants the weights of a convolution in blocks of its own. `layers/conv.py` hands them over as training
keeps them, and every call arranges them anew (and casts them, under autocast): on a few frames that is most of a call.
Worse is to hand over blocks of another kind than it wants: those are arranged anew number by number, which takes up to
a thousand times as long as the convolution, and which kind it wants changes with the length of the input (`Blocks`).
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import channels_last, conv1d, conv_transpose1d, lift, pad_ends, wrong_by_amx
from pscodec.utils.machine import onednn_takes

DESCRIBED = 112  # bytes of a descriptor before its padded sizes and strides: sizes and type, which are known, and a gap


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
                self.packed = Blocks(self.ARRANGE, weight, self._options(), self.in_channels)
        if bias and layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to(self.dtype), requires_grad=False)

    def forward(self, x):
        x = x.to(self.dtype)
        if any(self.ends):
            x = pad_ends(x, self.ends, self.ends_mode)
        y = self._blocked(x) if isinstance(self.packed, Blocks) else self._plain(x)
        return y[..., : y.shape[-1] - self.crop] if self.crop else y

    def _blocked(self, x):
        compute, options = getattr(torch.ops.mkldnn, self.COMPUTE), self._options()
        x = lift(F.pad(x, (0, self.beyond)) if self.beyond else x)
        return compute(x, self.packed.wanted(x.shape, options), self.bias, *options, "none", [], "").squeeze(2)


class Blocks:
    """A convolution's `weight` in each kind of blocks that oneDNN wants of it for inputs of LENGTHS, and in others when
    they are wanted; `arrange`: its operation that makes them, `options`: what that one takes of the layer."""

    LENGTHS = (16, 48, 128, 512, 2048)  # frames

    def __init__(self, arrange, weight, options, channels):
        lifted, self.kinds = lift(weight), {}
        self.arrange, self.shape, self.dtype = arrange, lifted.shape, lifted.dtype
        span = (weight.shape[2] - 1) * options[-2][1] + 1
        for length in self.LENGTHS:
            size = torch.Size((1, channels, 1, length + span))
            kind = self.kind(size, options)
            if kind not in self.kinds:
                self.kinds[kind] = getattr(torch.ops.mkldnn, arrange)(lifted, *options, size)

    def kind(self, size, options):
        """What oneDNN calls the blocks that it wants for an input of `size`: bytes to compare."""
        return _kind_of_blocks(self.arrange, self.shape, self.dtype, size, options, torch.get_num_threads())

    def wanted(self, size, options):
        """The blocks that an input of `size` is to meet."""
        kind = self.kind(size, options)
        if kind not in self.kinds:  # of a length, or a number of threads, that was not foreseen
            plain = next(iter(self.kinds.values())).to_dense()
            if self.arrange == PackedConvTranspose1d.ARRANGE:  # whose blocks have the outputs first
                plain = plain.unflatten(0, (options[-1], -1)).transpose(1, 2).flatten(0, 1)
            plain = plain.contiguous(memory_format=torch.channels_last)
            self.kinds[kind] = getattr(torch.ops.mkldnn, self.arrange)(plain, *options, size)
        return self.kinds[kind]


@functools.lru_cache(1 << 14)
def _kind_of_blocks(arrange, shape, dtype, size, options, threads):
    weight = torch.empty(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
    arranged = getattr(torch.ops.mkldnn, arrange)(weight, *options, size)
    told = torch.ops.mkldnn._get_mkldnn_serialized_md(arranged)
    return bytes(told[DESCRIBED:].tolist())


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

    def _options(self):
        return (0, *self.padding), (1, *self.stride), (1, *self.dilation), self.groups

    def _plain(self, x):
        return conv1d(x, self.packed, self.bias, self.stride, self.padding, self.dilation, self.groups)


class PackedConvTranspose1d(_Packed, nn.ConvTranspose1d):
    """A packed `nn.ConvTranspose1d`. `[B, C, T]` of any precision -> `[B, C', T']` of its own."""

    OPTIONS = (*_Packed.OPTIONS, "output_padding")
    ARRANGE, COMPUTE = "_reorder_convolution_transpose_weight", "_convolution_transpose_pointwise"

    def _is_wrong(self, weight):
        return False  # only its gradients would be

    def _options(self):
        return (0, *self.padding), (0, *self.output_padding), (1, *self.stride), (1, *self.dilation), self.groups

    def _plain(self, x):
        options = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return conv_transpose1d(x, self.packed, self.bias, *options)
