"""CAM++: the frozen speaker network whose embedding is the voice print of a prompt.

Architecture: Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking"
(2023). The modules bear the names of the published checkpoints, so that these load strictly.
Shapes: B batch, C channels, F feature frames of 10 ms, T = ceil(F / 2) frames after the first TDNN layer.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.utils.errors import UserError

SEGMENT_FRAMES = 100  # frames of 20 ms over which a CAM layer averages its local context
WIDTH_KEY = "xvector.dense.linear.weight"  # [embedding_dim, 1024, 1]: tells one published checkpoint from another


class CAMPPlus(nn.Module):
    """Speaker embedding of Kaldi filter banks, 6.85 M parameters at 192 dimensions.

    The network is frozen by construction: no parameter asks for a gradient (one does flow through to the input), and
    `train()` leaves it in eval mode, for its 120-odd BatchNorms would drift. A stretch of any length from 3 frames on
    will do, but no padding: it shifts every mean over time (3 s of speech and 3 s of zeros: cosine 0.93 to the speech
    alone; the same speech twice over: 0.997).
    """

    def __init__(self, n_mels=80, embedding_dim=192):
        super().__init__()
        self.n_mels, self.embedding_dim = n_mels, embedding_dim
        self.head = Head(n_mels)
        self.xvector = XVector(self.head.out_channels, embedding_dim)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode=True):
        """Stay in eval mode, whatever `mode` a surrounding model is put into."""
        return super().train(False)

    def forward(self, fbank):
        """Embed `fbank` `[B, 80, F]`, mean not subtracted (it is here, per bin over time) -> `[B, embedding_dim]`.

        The answer is float32, under autocast too. ValueError when F < 3, which leaves no deviation to pool.
        """
        if fbank.shape[-1] < 3:
            raise ValueError(f"CAM++ needs at least 3 frames, got {fbank.shape[-1]}")
        fbank = fbank.float()
        return self.xvector(self.head(fbank - fbank.mean(-1, keepdim=True))).float()


class Head(nn.Module):
    """Two-dimensional residual front end, an eighth of the bins: `[B, n_mels, F]` -> `[B, 32 * n_mels / 8, F]`."""

    def __init__(self, n_mels, channels=32):
        super().__init__()
        self.out_channels = channels * (n_mels // 8)
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(ResidualBlock(channels, stride=2), ResidualBlock(channels))
        self.layer2 = nn.Sequential(ResidualBlock(channels, stride=2), ResidualBlock(channels))
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.to(memory_format=torch.channels_last)  # twice as fast on CPUs

    def forward(self, fbank):
        x = F.relu_(self.bn1(self.conv1(fbank.unsqueeze(1))))
        x = self.layer2(self.layer1(x))
        return F.relu_(self.bn2(self.conv2(x))).flatten(1, 2)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; `stride` thins the frequency axis only."""

    def __init__(self, channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(x)))))
        return F.relu_(y + self.shortcut(x))


class XVector(nn.Module):
    """Time-delay network with densely connected CAM layers: `[B, C, F]` -> `[B, embedding_dim]`."""

    def __init__(self, in_channels, embedding_dim, channels=128, growth=32, depths=(12, 24, 16), dilations=(1, 2, 2)):
        super().__init__()
        self.tdnn = TDNN(in_channels, channels)
        self.stages = len(depths)
        for i, (depth, dilation) in enumerate(zip(depths, dilations, strict=True), 1):
            wide = channels + depth * growth
            self.add_module(f"block{i}", DenseBlock(depth, channels, growth, dilation))
            self.add_module(f"transit{i}", Transit(wide, wide // 2))
            channels = wide // 2
        self.out_nonlinear = Norm(channels)
        self.dense = Dense(2 * channels, embedding_dim)

    def forward(self, x):
        x = self.tdnn(x)
        for i in range(1, self.stages + 1):
            x = self.get_submodule(f"block{i}")(x)
            x = self.get_submodule(f"transit{i}")(x)
        # float32: under autocast a variance taken in bfloat16 would lose most of its digits
        x = F.relu_(self.out_nonlinear(x)).float()
        return self.dense(torch.cat([x.mean(-1), x.std(-1)], dim=1))


class Norm(nn.Module):
    """BatchNorm under the name that the checkpoints give it."""

    def __init__(self, channels, affine=True):
        super().__init__()
        self.batchnorm = nn.BatchNorm1d(channels, affine=affine)

    def forward(self, x):
        return self.batchnorm(x)


class TDNN(nn.Module):
    """First layer of the network, halves the frame rate: `[B, C, F]` -> `[B, 128, T]`."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 5, stride=2, padding=2, bias=False)
        self.nonlinear = Norm(out_channels)

    def forward(self, x):
        return F.relu_(self.nonlinear(self.linear(x)))


class DenseBlock(nn.ModuleDict):
    """`depth` layers, each of which sees the input and all earlier answers: C -> C + depth * growth channels."""

    def __init__(self, depth, channels, growth, dilation):
        super().__init__({f"tdnnd{i + 1}": DenseLayer(channels + i * growth, growth, dilation) for i in range(depth)})

    def forward(self, x):
        for layer in self.values():
            x = torch.cat([x, layer(x)], dim=1)
        return x


class DenseLayer(nn.Module):
    """Bottleneck and CAM layer, each after BatchNorm and ReLU: `[B, C, T]` -> `[B, growth, T]`."""

    def __init__(self, channels, growth, dilation, bottleneck=128):
        super().__init__()
        self.nonlinear1 = Norm(channels)
        self.linear1 = nn.Conv1d(channels, bottleneck, 1, bias=False)
        self.nonlinear2 = Norm(bottleneck)
        self.cam_layer = CAMLayer(bottleneck, growth, dilation)

    def forward(self, x):
        x = self.linear1(F.relu_(self.nonlinear1(x)))
        return self.cam_layer(F.relu_(self.nonlinear2(x)))


class CAMLayer(nn.Module):
    """Context-aware masking: a convolution, each channel of which is scaled by what the whole and the segment hold."""

    def __init__(self, in_channels, out_channels, dilation, reduction=2):
        super().__init__()
        hidden = in_channels // reduction
        self.linear_local = nn.Conv1d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(in_channels, hidden, 1)
        self.linear2 = nn.Conv1d(hidden, out_channels, 1)

    def forward(self, x):
        context = x.mean(-1, keepdim=True) + segment_means(x)  # [B, C, ceil(T / 100)]: one column a segment
        mask = torch.sigmoid(self.linear2(F.relu_(self.linear1(context))))
        return self.linear_local(x) * spread(mask, x.shape[-1])


def segment_means(x, frames=SEGMENT_FRAMES):
    """Mean of each `frames` frames: `[B, C, T]` -> `[B, C, ceil(T / frames)]`; the last one over what there is."""
    return F.avg_pool1d(x, frames, stride=frames, ceil_mode=True)


def spread(segments, n_frames, frames=SEGMENT_FRAMES):
    """Each segment's value at all of its frames: `[B, C, S]` -> `[B, C, n_frames]`."""
    return segments.repeat_interleave(frames, dim=2)[..., :n_frames]  # -1: the ONNX exporter would spoil others' -1


class Transit(nn.Module):
    """Halves the channels between dense blocks: BatchNorm, ReLU, 1 x 1 convolution."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.nonlinear = Norm(in_channels)
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)

    def forward(self, x):
        return self.linear(F.relu_(self.nonlinear(x)))


class Dense(nn.Module):
    """Statistics to embedding, normalised without scale or shift: `[B, 2 * C]` -> `[B, embedding_dim]`."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.nonlinear = Norm(out_channels, affine=False)

    def forward(self, x):
        return self.nonlinear(self.linear(x.unsqueeze(-1)).squeeze(-1))


def load_campplus(path, embedding_dim=192):
    """The published CAM++ of the file `path`, frozen and in eval mode.

    UserError when the file is missing, is no CAM++ checkpoint, or holds embeddings of another size.
    """
    state = _read_checkpoint(path)
    found = state[WIDTH_KEY].shape[0]
    if found != embedding_dim:
        raise UserError(f"{path}: this CAM++ gives {found}-dimensional embeddings, the codec wants {embedding_dim}")
    model = CAMPPlus(embedding_dim=embedding_dim)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path}: not a CAM++ checkpoint: {' '.join(str(error).split())[:200]}") from error
    return model


def _read_checkpoint(path):
    """Tensors by name; only tensors are unpickled."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; stage 0 of the recipe fetches CAM++") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch.load has no one class for "this is not mine": Unpickling, Runtime, EOF, Key ...
        raise UserError(f"{path}: not a CAM++ checkpoint (PyTorch cannot read it)") from error
    if not isinstance(state, dict) or not isinstance(state.get(WIDTH_KEY), torch.Tensor):
        raise UserError(f"{path}: not a CAM++ checkpoint (it has no {WIDTH_KEY})")
    return state
