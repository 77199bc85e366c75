"""A trained codec for other runtimes: encoder and decoder as ONNX, its weights as safetensors.

    python -m pscodec.bin.export_onnx --exp exp/pscodec_frames_mini --out onnx --safetensors

Writes, in fp32, for any length and batch:

    encoder.onnx         wav [B, C, T * hop_length] at sample_rate, in [-1, 1] -> codes [B, K, T] int64
    decoder.onnx         codes, and the side information, an input each: vectors [B, D, N] or tokens [B, N] int64
                         -> wav [B, C, T * hop_length]
    codec.json           sample_rate, channels, hop_length, n_q, codebook_size, fingerprint, and the numbers of its side
                         information; `chunk` and `overlap` (samples) of a codec of chunks
    codec.safetensors    with --safetensors: the weights, under their names in pscodec

Of a codec of chunks, the graphs code one, divided by its root mean square. The vectors are what a speaker profile
holds (pscodec enroll, profile.read_profile). Nothing is kept that onnxruntime does not compute as torch does. Needs
the extra `onnx`: pip install "pscodec[onnx]".
"""

import argparse
import json
import math
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from pscodec.inference import Coder
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import atomic_path, write_text
from pscodec.utils.hparams import build_only
from pscodec.utils.weights import load_weights

OPSET = 17
FRAMES = (40, 7, 100)  # the first is recorded, all are compared
CODE_ERRORS, ERROR = 0.02, 1e-4  # a share (two entries may be equally near); the largest difference of a number
PULSE_ERROR = 5e-3  # of a waveform with pulses, whose flanks the last bit of a pitch moves
LENGTHS = {"codes": "frames", "z": "frames", "z_q": "frames", "wav": "samples"}  # what the last axis of a tensor counts


class EncoderGraph(nn.Module):
    inputs, outputs = ["wav"], ["codes"]

    def __init__(self, codec):
        super().__init__()
        self.codec = codec

    def forward(self, wav):
        return self.codec.quantizer(self.codec.encoder(wav)).codes

    def example(self, frames):
        return (0.1 * torch.randn(2, self.codec.channels, frames * self.codec.hop_length),)


class DecoderGraph(nn.Module):
    """`sizes`: of the side information, name -> its shape without the batch."""

    outputs = ["wav"]

    def __init__(self, codec, sizes):
        super().__init__()
        self.codec, self.sizes = codec, sizes
        self.inputs = ["codes", *sizes]

    def forward(self, codes, *side):
        return self.codec.synthesise(self.codec.quantizer.decode(codes), dict(zip(self.sizes, side, strict=True)))

    def example(self, frames):
        codes = torch.randint(self.codec.codebook_size, (2, self.codec.n_q, frames))
        entries = self.codec.side_sizes
        return codes, *(
            torch.randn(2, *size) if entries[name] is None else torch.randint(entries[name], (2, *size))
            for name, size in self.sizes.items()
        )


@torch.no_grad()
def export(graph, path):
    """Write `graph`, in eval mode, to `path`; returns its distance from torch.

    A graph has the names of its `inputs` and `outputs`, and gives an `example` of its inputs for so many frames. The
    distance is the share of onnxruntime's codes that differ, or the largest difference of a number. Raises UserError,
    with nothing written, where it is more than rounding explains, and for what ONNX has no operation for.
    """
    import onnxruntime

    names = (*graph.inputs, *graph.outputs)
    axes = {name: {0: "batch"} | ({2: LENGTHS[name]} if name in LENGTHS else {}) for name in names}
    with atomic_path(path) as partial:
        with warnings.catch_warnings():
            # the newer exporter (torch.export) takes minutes on these networks, this one seconds
            warnings.simplefilter("ignore")
            named = {"input_names": graph.inputs, "output_names": graph.outputs, "dynamic_axes": axes}
            try:
                torch.onnx.export(graph, graph.example(FRAMES[0]), partial, **named, opset_version=OPSET, dynamo=False)
            except torch.onnx.errors.OnnxExporterError as error:
                raise UserError(f"{path}: ONNX cannot say this: {str(error).splitlines()[0]}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(partial, options, providers=["CPUExecutionProvider"])
        distances = [_distances(session, graph, graph.example(frames)) for frames in FRAMES]
        for name, *errors in zip(graph.outputs, *distances, strict=True):
            if not max(errors) <= _most(graph.codec, name):
                raise UserError(f"{path}: onnxruntime computes other {name} than torch (distance {max(errors):.2g})")
    return max(map(max, distances))


def _most(codec, name):
    """The largest distance that rounding explains."""
    if name == "codes":
        return CODE_ERRORS
    return PULSE_ERROR if name == "wav" and hasattr(codec.decoder, "pitch") else ERROR


def _distances(session, graph, example):
    """Of each output."""
    found = session.run(None, {name: x.numpy() for name, x in zip(graph.inputs, example, strict=True)})
    expected = graph(*example)
    pairs = zip(map(torch.from_numpy, found), expected if isinstance(expected, tuple) else [expected], strict=True)
    return [_distance(a, b) for a, b in pairs]


def _distance(found, expected):
    if found.shape != expected.shape:
        return float("inf")
    return (
        (found - expected).abs().max().item()
        if found.is_floating_point()
        else (found != expected).float().mean().item()
    )


def need_onnx():
    """Raise UserError where the extra `onnx` is not installed."""
    try:
        import onnx  # noqa: F401  torch asks for it at the end of its work
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f'{error}: pip install "pscodec[onnx]"') from None


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--safetensors", action="store_true", help="the weights too")
    args = parser.parse_args(argv)
    need_onnx()
    if not (args.exp / "hyperparams.yaml").is_file():
        raise UserError(f"{args.exp}: no hyperparams.yaml, so not an experiment")

    codec = build_only((args.exp / "hyperparams.yaml").read_text(encoding="utf-8"), "codec").eval()
    if codec.sampling is not None or not codec.n_q:
        raise UserError(f"{args.exp}: {type(codec).__name__} has no encoder and decoder that could be exported")
    coder = Coder(codec, load_weights(args.exp, {"codec": codec}, args.checkpoint))
    sizes = {name: z.shape[1:] for name, z in coder.silent_side.items()}
    if args.safetensors:
        from safetensors.torch import save_file

        with atomic_path(args.out / "codec.safetensors") as partial:
            save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, partial)
        print(f"{args.out}/codec.safetensors: {len(codec.state_dict())} tensors")
    for layer in codec.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")  # weight norm, folded
    for name, graph in {"encoder": EncoderGraph(codec), "decoder": DecoderGraph(codec, sizes)}.items():
        path = args.out / f"{name}.onnx"
        error = export(graph.eval(), path)
        what = "share of codes that differ" if name == "encoder" else "largest difference of a sample"
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; onnxruntime and torch: {what} {error:.2g}")
    facts = {k: getattr(codec, k) for k in ("sample_rate", "channels", "hop_length", "n_q", "codebook_size")}
    facts |= {"chunk": codec.chunk, "overlap": codec.overlap} if codec.chunk else {}
    facts |= {"fingerprint": coder.fingerprint.hex(), "side": {name: math.prod(size) for name, size in sizes.items()}}
    write_text(args.out / "codec.json", json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
