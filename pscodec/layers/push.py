"""Layers that are fed a signal piece by piece and return, all told, what one pass over the whole of it returns.

A layer's push form has

- `push(x, last=False)`: the next inputs `[B, C, n]`, n >= 0, to every output that they complete, `[B, C', m]`, m >= 0;
  with `last` nothing follows, and the outputs that reach beyond the end come too. Nothing is computed twice.
- `ready(n)`: how many outputs n inputs complete, m summed over all pushes. Latency follows from it.
- `reset()`: forget the signal.

What a form holds between pushes does not grow with the signal: less than a kernel's span, or what one branch of a
sum is ahead of the other. The outputs are the whole pass's up to the rounding of sums taken in another order.
"""

import torch
from torch import nn

from pscodec.layers.conv import join_frames, pad_ends
from pscodec.layers.packed import pack
from pscodec.utils.errors import UserError


class Held:
    """The end of a signal, kept until it is needed: `[B, C, n]`, in the order in memory that layers/conv wants."""

    def __init__(self):
        self.x = None

    def add(self, x):
        """What is held, and `x` after it."""
        if self.x is None or self.x.shape[-1] == 0:
            return x
        if x.shape[-1] == 0:
            return self.x
        return join_frames([self.x, x])

    def keep(self, x):
        self.x = x.clone()  # a view would keep all of a long piece alive


def _nothing(x, form):
    """No frames `[B, C', 0]` from inputs `x`, in the numbers that frames of the packed layer of `form` would have."""
    return x.new_empty(len(x), form.channels, 0, dtype=getattr(form.function, "dtype", x.dtype))


class PushFrames:
    """Output t is `function` of the inputs from t * stride - padding, `span` of them. `[B, C, n]` -> `[B, C', m]`.

    `function` takes `[B, C, (m - 1) * stride + span]`, the padding among them, to `[B, channels, m]`. `end`: frames of
    padding on the right (None: as on the left). `mode`: `zeros`, or the signal mirrored at its ends (`reflect`), for
    which its beginning is awaited. Inputs stay until no output to come needs them.
    """

    def __init__(self, function, channels, stride, padding, span, end=None, mode="zeros"):
        end = padding if end is None else end
        if stride > span:
            raise UserError(f"{function}: only strides up to the kernel can be pushed")
        if mode == "reflect" and end > padding:
            raise UserError(f"{function}: mirrored further at the end than at the beginning, so it cannot be pushed")
        self.function, self.channels = function, channels
        self.stride, self.span, self.ends, self.mode = stride, span, (padding, end), mode
        # what mirroring needs of the signal: before the first output, and behind the last one
        self.first, self.tail = (padding + 1, end + 1) if mode == "reflect" and padding else (0, 0)
        self.reset()

    def reset(self):
        self.held, self.begun, self.done = Held(), False, 0  # done: inputs held that no output to come needs

    def push(self, x, last=False):
        x = self.held.add(x)
        left, right = (0 if self.begun else self.ends[0]), (self.ends[1] if last else 0)
        if not self.begun and not last and x.shape[-1] < self.first:
            self.held.keep(x)
            return x.new_empty(len(x), self.channels, 0)
        self.begun = True
        x = pad_ends(x, (left, right), self.mode)[..., self.done :]
        n = self._outputs(x.shape[-1])
        keep = max(0, min(n * self.stride, x.shape[-1] - self.tail))
        self.held.keep(x[..., keep:])
        self.done = n * self.stride - keep
        if n == 0:
            return _nothing(x, self)
        return self.function(x[..., : (n - 1) * self.stride + self.span])

    def ready(self, n):
        return self._outputs(n + self.ends[0]) if n >= self.first else 0

    def _outputs(self, n):
        return max(0, (n - self.span) // self.stride + 1)


class PushConv(PushFrames):
    """A convolution. `[B, C, n]` -> `[B, C', m]`."""

    def __init__(self, layer):
        (stride,), (padding,) = layer.stride, layer.padding
        left, right = getattr(layer, "ends", (0, 0))
        if layer.padding_mode != "zeros" or padding and (left or right):
            raise UserError(f"{layer}: only zero padding can be pushed")
        span = (layer.kernel_size[0] - 1) * layer.dilation[0] + 1
        ends = (padding, padding) if padding else (left, right)
        mode = getattr(layer, "ends_mode", "zeros")
        super().__init__(pack(layer, padding=0, ends=(0, 0)), layer.out_channels, stride, ends[0], span, ends[1], mode)


class PushOverlap:
    """Input t adds to the `span` sums from t * stride - padding; outputs are `finish` of the sums, number by number.

    `function` takes inputs `[B, C, n]` to all their sums, `[B, channels, (n - 1) * stride + span]`; `end`: sums beyond
    the last input's, or, negative, so many fewer. After n inputs the sums before n * stride - padding have all their
    addends; the others are held. `[B, C, n]` -> `[B, C', m]`.
    """

    def __init__(self, function, channels, stride, padding, span, end=0, finish=None):
        if span < stride or span + end < stride:
            raise UserError(f"{function}: shorter than its inputs times its stride, so it cannot be pushed")
        self.function, self.channels = function, channels
        self.stride, self.padding, self.end, self.finish = stride, padding, end, finish
        self.reset()

    def reset(self):
        self.sums, self.crop = None, self.padding

    def push(self, x, last=False):
        n = x.shape[-1] * self.stride
        if x.shape[-1]:
            y = self.function(x)
            if self.sums is not None:
                y[..., : self.sums.shape[-1]] += self.sums
            self.sums = y[..., n:].clone()
        else:
            y = _nothing(x, self)
        y = y[..., :n]
        if last:
            sums = nn.functional.pad(self.sums, (0, max(0, self.end)))
            y = torch.cat([y, sums[..., : sums.shape[-1] + min(0, self.end)]], -1)
        crop, self.crop = self.crop, max(0, self.crop - y.shape[-1])
        y = y[..., crop:]
        return y if self.finish is None else self.finish(y)

    def ready(self, n):
        return max(0, n * self.stride - self.padding)


class PushConvTranspose(PushOverlap):
    """A transposed convolution, whose bias is added as outputs leave. `[B, C, n]` -> `[B, C', m]`."""

    def __init__(self, layer):
        (stride,), (padding,), (more,) = layer.stride, layer.padding, layer.output_padding
        span = (layer.kernel_size[0] - 1) * layer.dilation[0] + 1
        bias = None if layer.bias is None else layer.bias.detach()[:, None]
        finish = None if bias is None else bias.add
        bare = pack(layer, bias=False, padding=0, output_padding=0, crop=0)
        end = more - padding - getattr(layer, "crop", 0)
        super().__init__(bare, layer.out_channels, stride, padding, span, end, finish)


class PushPointwise:
    """`function` of signals `[B, C, n]`, frame by frame; one that is ahead waits for the others. -> `[B, C', m]`."""

    def __init__(self, function, n_inputs=1):
        self.function, self.n_inputs = function, n_inputs
        self.reset()

    def reset(self):
        self.held = [Held() for _ in range(self.n_inputs)]

    def push(self, *xs, last=False):
        if len(xs) == 1:
            return self.function(*xs)
        xs = [held.add(x) for held, x in zip(self.held, xs, strict=True)]
        n = min(x.shape[-1] for x in xs)
        for held, x in zip(self.held, xs, strict=True):
            held.keep(x[..., n:])
        if last and any(held.x.shape[-1] for held in self.held):
            raise ValueError(f"signals of {[x.shape[-1] for x in xs]} frames do not end together")
        return self.function(*(x[..., :n] for x in xs))

    def ready(self, *ns):
        return min(ns)


class PushWindows:
    """`function` in windows of `context` frames, half a context apart, of which the middle half is kept.

    The first window is kept from its beginning; the last ends with the signal and is kept to its end; a signal of up to
    `context` frames is one window. Between pushes six quarters of a context at most are held. `[B, C, n]` ->
    `[B, C', m]`.
    """

    def __init__(self, function, context):
        self.function, self.context, self.quarter = function, context, context // 4
        self.reset()

    def reset(self):
        self.held, self.end = Held(), Held()  # the signal from the last window on; that window's last quarter
        self.begin, self.kept = None, 0  # of the last window; outputs so far

    def push(self, x, last=False):
        x, y = self.held.add(x), []
        start = self.begin or 0  # the frame that x begins with
        total = start + x.shape[-1]
        begin = 0 if self.begin is None else start + 2 * self.quarter
        while begin + self.context <= total:
            self.begin = begin
            y.append(self._window(x[..., begin - start :][..., : self.context], self.context - self.quarter))
            begin += 2 * self.quarter
        if last and self.begin is not None and self.begin + self.context == total:
            y.append(self.end.x)
        elif last:
            self.begin = max(0, total - self.context)
            y.append(self._window(x[..., self.begin - start :], total - self.begin))
        self.held.keep(x[..., (self.begin or 0) - start :])
        return torch.cat(y, -1) if y else x.new_empty(len(x), x.shape[1], 0)

    def _window(self, x, end):
        """Of the window `x` at `begin`, what is not given yet, up to its frame `end`."""
        y = self.function(x)
        self.end.keep(y[..., end:])
        first, self.kept = self.kept - self.begin, self.begin + end
        return y[..., first:end]

    def ready(self, n):
        windows = max(0, (n - self.context) // (2 * self.quarter) + 1)
        return (2 * windows + 1) * self.quarter if windows else 0
