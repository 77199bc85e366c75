"""Multiply-accumulate operations of a forward pass, counted where they happen: attention too."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# a hook on each of these, by exact class, is how counters of modules work (PyTorch-OpCounter among them)
PLAIN_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass
class Macs:
    """`total`; of it `attention`, the products of queries, keys and values; and `plain`, what is spent inside modules
    whose class is exactly one of torch's linear and convolution layers: all that a counter of modules can see. It sees
    neither attention's own projections where these are bare matrices (nn.MultiheadAttention), nor subclasses, nor
    layers with a weight norm."""

    total: int = 0
    attention: int = 0
    plain: int = 0


def count_macs(function, *inputs):
    """`Macs` of `function(*inputs)`, run once without gradients. A bias, an activation or a norm counts nothing."""
    counter = _Counter()
    modules = function.modules() if isinstance(function, nn.Module) else ()
    hooks = [h for m in modules if type(m) in PLAIN_LAYERS for h in counter.hooks(m)]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator, whose size would have to be guessed
    try:
        with torch.no_grad(), counter:
            function(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()
    return counter.macs


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.macs, self.depth = Macs(), 0

    def hooks(self, module):
        def enter(*_):
            self.depth += 1

        def leave(*_):
            self.depth -= 1

        return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in _COUNTS:
            macs = _COUNTS[name](args, result)
            self.macs.total += macs
            self.macs.attention += macs * (name in _ATTENTION)
            self.macs.plain += macs * (self.depth > 0)
        return result


def _product(a, b):
    return a.numel() * b.shape[-1]


def _convolution(args, result):
    x, weight, transposed = args[0], args[1], args[6]
    # forwards every output looks at a window of the input; transposed every input spreads over a window
    return (x if transposed else result).numel() * weight[0].numel()


def _attention(args, result):
    q, k, v = args[:3]
    return q[..., 0].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])


_ATTENTION = {
    "bmm": lambda args, result: _product(args[0], args[1]),
    "baddbmm": lambda args, result: _product(args[1], args[2]),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}
_COUNTS = {
    "mm": lambda args, result: _product(args[0], args[1]),
    "addmm": lambda args, result: _product(args[1], args[2]),
    "convolution": _convolution,
    **_ATTENTION,
}
