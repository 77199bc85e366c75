"""Stage 2 of separation: the embeddings of mixtures and their sources by a codec's encoder, computed once.

  python -m pscodec.bin.embed --exp ../../LibriTTS/codec/exp/pscodec_frames_mini --data data/mini/train

Writes DATA/embeddings/FINGERPRINT_NORMALISE/embeddings.{json,f16.bin}, memory-mapped in training; see
pscodec.data.embeddings. What is there and of the same codec and mixtures is checked against recomputation of a few and
kept; an interrupted run goes on where it stopped. Prints the folders, one a line, last.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from pscodec.data.embeddings import CacheWriter, EmbeddingCache, cache_folder, data_stamp, embed_item
from pscodec.data.mixture import MixtureDataset
from pscodec.downstream.codec import FrozenCodec
from pscodec.inference import load_codec
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.machine import keep_memory
from pscodec.utils.progress import progress


def embed_folder(dataset, frozen, meta, folder, checked=3, num_workers=1):
    """Fill `folder` with the embeddings of `dataset` (a MixtureDataset with audio); returns the `EmbeddingCache`.

    `meta`: of embeddings.json, without `utts`. `checked`: mixtures compared with recomputation, before and after.
    """
    if (folder / "embeddings.json").exists():
        try:
            cache = EmbeddingCache(folder)
            if cache.meta == meta and len(cache) == len(dataset):
                worst = cache.check(dataset, frozen.embed, checked)
                say(f"{folder}: already there; {checked} recomputed, off by {100 * worst:.3f} %")
                return cache
            say(f"{folder}: of other mixtures or settings, made again")
        except UserError as error:
            say(f"{error}; made again")
        (folder / "embeddings.json").unlink()
    bytes_needed = _size(dataset, frozen, meta)
    free = shutil.disk_usage(folder.parent if folder.parent.exists() else dataset.data_dir).free
    if bytes_needed > free:
        raise UserError(f"{folder}: needs {bytes_needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on this disk")
    writer = CacheWriter(folder, meta)
    todo = [i for i, m in enumerate(dataset.mixtures) if m.mix not in writer.places]
    loader = DataLoader(dataset, sampler=todo, batch_size=None, num_workers=num_workers)
    started = time.time()
    device = next(frozen.parameters()).device
    for item in progress(loader, f"embeddings of {dataset.data_dir}", len(todo), disable=not todo):
        wavs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in item.items()}
        writer.add(item["utt"], embed_item(wavs, frozen.embed))
    writer.close()
    cache = EmbeddingCache(folder, meta["mixtures"])
    worst = cache.check(dataset, frozen.embed, checked)
    took = time.time() - started
    say(f"{folder}: {len(todo)} mixtures in {took:.0f} s, {bytes_needed / 1e6:.0f} MB, off by {100 * worst:.3f} %")
    return cache


def _size(dataset, frozen, meta):
    seconds = sum(m.length for m in dataset.mixtures) / dataset.sample_rate
    values = seconds * frozen.frame_rate * frozen.latent_dim * (1 + dataset.meta["n_src"])
    return values * {"f16": 2, "bf16": 2, "f32": 4}[meta["dtype"]]


def say(line):
    print(line, file=sys.stderr, flush=True)


@one_line_errors
def main(argv=None):
    """Command line of stage 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", required=True, type=Path, help="experiment folder of the codec")
    parser.add_argument("--data", required=True, nargs="+", type=Path, help="folders of mixtures, data/mini/train ...")
    parser.add_argument("--where", action="store_true", help="only print the folders")
    parser.add_argument("--out", type=Path, help="where to write instead; for one folder of mixtures only")
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="of the codec")
    parser.add_argument("--normalise", default="peak", choices=("peak", "none"), help="level at which the codec works")
    parser.add_argument("--dtype", default="f16", choices=("f16", "bf16", "f32"), help="number format on disk")
    parser.add_argument("--check", type=int, default=3, help="mixtures compared with recomputation")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that read audio")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.out and len(args.data) > 1:
        raise UserError("--out names one folder, --data several")
    if args.device == "cpu":
        keep_memory()
    coder = load_codec(args.exp, args.checkpoint, args.device)
    fingerprint = coder.fingerprint.hex()
    folders = []
    for data_dir in args.data:
        folders.append(args.out or cache_folder(data_dir, fingerprint, args.normalise))
        if args.where:
            continue
        dataset = MixtureDataset(data_dir)
        frozen = FrozenCodec(coder.model, dataset.sample_rate, args.normalise)
        meta = {
            "codec": str(args.exp),
            "fingerprint": fingerprint,
            "sample_rate": dataset.sample_rate,
            "normalise": args.normalise,
            "latent_dim": frozen.latent_dim,
            "frame_rate": frozen.frame_rate,
            "dtype": args.dtype,
            "n_src": dataset.meta["n_src"],
            "mixtures": data_stamp(data_dir, dataset.utterances),
        }
        embed_folder(dataset, frozen, meta, folders[-1], args.check, args.num_workers)
    for folder in folders:
        print(folder)


if __name__ == "__main__":
    main()
