"""The push form of a whole network, read off its own forward pass.

The forward pass is recorded once (torch.fx) as a list of layers and element-wise operations; each becomes its push
form (layers/push). So what is streamed is what was trained, and a new codec made of such layers streams without a
line of its own. What looks further than a bounded stretch of the signal is refused by name.
"""

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from pscodec.layers.hifigan import LayerNorm
from pscodec.layers.push import PushConv, PushConvTranspose, PushPointwise
from pscodec.layers.source import SourceFilter
from pscodec.utils.errors import UserError

# What acts on each frame (or number) by itself, as a function, a method of tensors, a module.
FUNCTIONS = {
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.neg),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.sin, torch.cos, torch.exp, torch.reciprocal),
    *(torch.tanh, torch.sigmoid, torch.relu, torch.clamp),
    *(F.leaky_relu, F.relu, F.elu, F.gelu, F.silu, F.softplus),
}
METHODS = {
    "abs",
    "angle",
    "log",
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "sin",
    "cos",
    "exp",
    "reciprocal",
    "tanh",
    "sigmoid",
    "clamp",
    "float",
    "to",
    "detach",
}
MODULES = (
    *(nn.Identity, nn.Dropout, LayerNorm, nn.Tanh, nn.Sigmoid, SourceFilter),
    *(nn.LeakyReLU, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.PReLU, nn.Softplus),
)


class _Root(nn.Module):
    """`function(x)`, which calls modules of `model`, as a module that fx can record."""

    def __init__(self, model, function):
        super().__init__()
        self.model = model
        self.__dict__["function"] = function  # not a second name for the same modules

    def forward(self, x):
        return self.function(x)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        known = isinstance(module, (nn.Conv1d, nn.ConvTranspose1d, *MODULES)) or hasattr(module, "push_form")
        return known or super().is_leaf_module(module, name)


class Pushed:
    """`function(x)` of a signal `[B, C, n]`, which calls modules of `model`, in push form (see layers/push).

    Tensors that `function` brings along (a speaker's vectors, `[B, C, 1]`) are constants. Weights are read once:
    weight norm is folded, later changes of the model are not seen.

    A module of another kind can bring its own push form: a method `push_form(*constants)`, called with its arguments
    but the first, which is the signal, returns an object with `push`, `ready` and `reset`.

    Raises UserError, naming the part, for what cannot be done piece by piece.
    """

    def __init__(self, model, function):
        self.name = type(model).__name__
        root = _Root(model, function)
        try:
            nodes = list(_Tracer().trace(root).nodes)
        except fx.proxy.TraceError as error:
            raise UserError(f"{self.name} cannot be coded piece by piece: {str(error).splitlines()[0]}") from None
        self.steps = []  # (node, form, the signals that go in)
        constants, signals = {}, set()
        for node in nodes:
            inputs = [n for n in node.all_input_nodes if n in signals]
            if node.op == "placeholder":
                self.input = node
                signals.add(node)
            elif node.op == "get_attr":
                constants[node] = operator.attrgetter(node.target)(root)
            elif node.op == "output":
                (self.output,) = inputs
            elif inputs:
                self.steps.append((node, self._form(node, root, inputs, constants), inputs))
                signals.add(node)
            else:  # made of constants alone
                constants[node] = _call(node, root)(constants)
        last_use = {n: i for i, (_, _, inputs) in enumerate(self.steps) for n in inputs}
        self.done = [[n for n, i in last_use.items() if i == step] for step in range(len(self.steps))]

    def _form(self, node, root, inputs, constants):
        module = root.get_submodule(node.target) if node.op == "call_module" else None
        if hasattr(module, "push_form"):
            args, kwargs = fx.map_arg((node.args[1:], node.kwargs), lambda n: constants[n])
            return module.push_form(*args, **kwargs)
        if isinstance(module, nn.ConvTranspose1d):
            return PushConvTranspose(module)
        if isinstance(module, nn.Conv1d):
            return PushConv(module)
        known = {"call_function": FUNCTIONS, "call_method": METHODS}.get(node.op, ())
        wide = any(constants[n].dim() and constants[n].shape[-1] != 1 for n in node.all_input_nodes if n in constants)
        if wide or not (node.target in known or isinstance(module, MODULES)):
            what = getattr(node.target, "__name__", node.target) if module is None else type(module).__name__
            within = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
            where = node.target if module is not None else (within or [""])[-1]
            raise UserError(
                f"{self.name} cannot be coded piece by piece: "
                f"{where.removeprefix('model').lstrip('.') or self.name} ({what}) may look at the whole recording"
            )
        call = _call(node, root)
        return PushPointwise(lambda *xs: call({**constants, **dict(zip(inputs, xs, strict=True))}), len(inputs))

    def push(self, x, last=False):
        """The next `[B, C, n]` of the signal, n >= 0 -> the outputs that it completes."""
        values = {self.input: x}
        for (node, form, inputs), done in zip(self.steps, self.done, strict=True):
            values[node] = form.push(*(values[n] for n in inputs), last=last)
            for n in done:
                del values[n]
        return values[self.output]

    def ready(self, n):
        """How many outputs n inputs complete."""
        counts = {self.input: n}
        for node, form, inputs in self.steps:
            counts[node] = form.ready(*(counts[n] for n in inputs))
        return counts[self.output]

    def reset(self):
        """Forget the signal."""
        for _, form, _ in self.steps:
            form.reset()


def _call(node, root):
    """What `node` computes, as a function of the values of the nodes that it uses."""
    if node.op == "call_method":
        function = getattr(torch.Tensor, node.target)
    else:
        function = root.get_submodule(node.target) if node.op == "call_module" else node.target

    def call(values):
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
        return function(*args, **kwargs)

    return call
