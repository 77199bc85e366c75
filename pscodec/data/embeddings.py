"""Embeddings of mixtures and their sources on disk, memory-mapped: what a codec's encoder gives, computed once.

A folder holds `embeddings.<dtype>.bin`, one block `[1 + S, D, T]` (the mixture, then its sources) after another, and
`embeddings.json`: codec, fingerprint, sample_rate, normalise, latent_dim, frame_rate, dtype, n_src, mixtures (the stamp
of what was embedded) and `utts`, `{utt: [first element, T]}`.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch

from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text

NUMPY = {"f16": np.float16, "bf16": np.int16, "f32": np.float32}  # numpy has no bfloat16: its bits
TORCH = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}


def data_stamp(data_dir, utterances):
    """Checksum of a folder of mixtures: its list, and the recordings that the clean `utterances` come from."""
    digest = hashlib.sha256((Path(data_dir) / "mixtures.tsv").read_bytes())
    for u in utterances.values():
        size = os.path.getsize(u.path) if os.path.exists(u.path) else None
        digest.update(f"{u.utt} {u.path} {u.start} {u.end} {size}\n".encode())
    return digest.hexdigest()


def cache_folder(data_dir, fingerprint, normalise):
    """Where stage 2 puts the embeddings of `data_dir` by the codec of that fingerprint (hexadecimal)."""
    return Path(data_dir) / "embeddings" / f"{fingerprint}_{normalise}"


class EmbeddingCache:
    """`cache[utt]` -> `{"z_mix": [D, T], "z_sources": [S, D, T]}`, float32. `meta` is what embeddings.json says.

    With `stamp`, the `data_stamp` of the mixtures in use. Raises UserError where there is none, it is not whole, or
    the mixtures are no longer those that were embedded.
    """

    def __init__(self, folder, stamp=None):
        self.folder = Path(folder)
        note = self.folder / "embeddings.json"
        if not note.exists():
            raise UserError(f"{folder}: holds no embeddings; run stage 2")
        self.meta = json.loads(note.read_text(encoding="utf-8"))
        self.places = self.meta.pop("utts")
        if stamp is not None and stamp != self.meta["mixtures"]:
            raise UserError(f"{folder}: embeddings of other mixtures or recordings; run stage 2 again")
        self.file = data_file(self.folder, self.meta["dtype"])
        self.rows = (1 + self.meta["n_src"]) * self.meta["latent_dim"]
        need = sum(frames for _, frames in self.places.values()) * self.rows * NUMPY[self.meta["dtype"]]().itemsize
        if not self.file.exists() or self.file.stat().st_size != need:
            raise UserError(f"{self.file}: missing or not whole; run stage 2 again")
        self.data = None  # opened by the process that reads

    def __len__(self):
        return len(self.places)

    def __getitem__(self, utt):
        if self.data is None:
            self.data = np.memmap(self.file, NUMPY[self.meta["dtype"]], "r")
        try:
            first, frames = self.places[utt]
        except KeyError:
            raise UserError(f"{self.folder}: no embeddings of {utt}; run stage 2 again") from None
        block = torch.from_numpy(np.array(self.data[first : first + self.rows * frames]))
        z = block.view(TORCH[self.meta["dtype"]]).view(-1, self.meta["latent_dim"], frames).float()
        return {"z_mix": z[0], "z_sources": z[1:]}

    def __getstate__(self):
        return self.__dict__ | {"data": None}  # each loader worker maps the file itself

    def require(self, fingerprint, normalise):
        """Raise UserError unless the embeddings are of the codec of that fingerprint (hexadecimal), so normalised."""
        if (fingerprint, normalise) != (self.meta["fingerprint"], self.meta["normalise"]):
            has = f"{self.meta['codec']} ({self.meta['fingerprint']}, normalise {self.meta['normalise']})"
            raise UserError(f"{self.folder}: embeddings of {has}, not of {fingerprint}, {normalise}; run stage 2")

    def check(self, dataset, embed, n=3):
        """Compare `n` mixtures of `dataset` (with audio) with what `embed(mix, sources, lengths)` gives for them now.

        Returns the largest difference as a share of the largest magnitude. Raises UserError where it passes what the
        number format accounts for (f16 0.2 %, bf16 1 %, f32 0.01 %).
        """
        worst = 0.0
        for index in sorted({i * (len(dataset) - 1) // max(1, n - 1) for i in range(n)}):
            item = dataset[index]
            now = embed_item(item, embed)
            stored = self[item["utt"]]
            stored = torch.cat([stored["z_mix"][None], stored["z_sources"]])
            if stored.shape != now.shape:
                raise UserError(f"{self.folder}: {item['utt']} has another shape now; run stage 2 again")
            worst = max(worst, ((stored - now).abs().max() / now.abs().max().clamp(min=1e-12)).item())
        if worst > {"f16": 2e-3, "bf16": 1e-2, "f32": 1e-4}[self.meta["dtype"]]:
            raise UserError(f"{self.folder}: off by {100 * worst:.2f} % from what is computed now; run stage 2 again")
        return worst


def data_file(folder, dtype):
    return Path(folder) / f"embeddings.{dtype}.bin"


def embed_item(item, embed):
    """`[1 + S, D, T]` float32 of a dataset's item with audio: the mixture, then its sources."""
    z_mix, z_sources, _ = embed(item["mix"][None], item["sources"][None], torch.tensor([item["length"]]))
    return torch.cat([z_mix[:, None], z_sources], 1)[0].float().cpu()


class CacheWriter:
    """Appends blocks to a cache that gets its name when it is whole; begun again, it goes on after the last one.

    `meta`: all of embeddings.json but `utts`. `done`: ids of the mixtures that an earlier run has left, in order.
    """

    def __init__(self, folder, meta):
        self.folder, self.meta = Path(folder), meta
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bin, self.note = self.folder / "embeddings.bin.part", self.folder / "embeddings.part.jsonl"
        self.places, self.end = {}, 0
        self._resume()
        self.file = open(self.bin, "r+b" if self.bin.exists() else "w+b")
        self.file.truncate(self.end)
        self.file.seek(self.end)
        lines = [json.dumps(meta), *(json.dumps([utt, *place]) for utt, place in self.places.items())]
        write_text(self.note, "\n".join(lines) + "\n")
        self.notes = open(self.note, "a", encoding="utf-8")

    @property
    def itemsize(self):
        return NUMPY[self.meta["dtype"]]().itemsize

    def _resume(self):
        """Take over the blocks that are really there, if they were made with the same settings."""
        if not (self.note.exists() and self.bin.exists()):
            return
        lines = self.note.read_text(encoding="utf-8").split("\n")[:-1]  # a line without its end is not whole
        if not lines or json.loads(lines[0]) != self.meta:
            return
        size = self.bin.stat().st_size
        for utt, first, frames in map(json.loads, lines[1:]):
            end = (first + self._elements(frames)) * self.itemsize
            if end > size:
                break
            self.places[utt], self.end = (first, frames), end

    def _elements(self, frames):
        return (1 + self.meta["n_src"]) * self.meta["latent_dim"] * frames

    def add(self, utt, z):
        """Append `z` `[1 + S, D, T]` float32. Raises UserError where the number format cannot hold it."""
        small = z.to(TORCH[self.meta["dtype"]])
        if not torch.isfinite(small).all():
            raise UserError(f"{utt}: its embeddings do not fit {self.meta['dtype']}; use --dtype f32")
        assert z.shape[:2] == (1 + self.meta["n_src"], self.meta["latent_dim"]), z.shape
        bits = small.contiguous().view(torch.int16) if self.meta["dtype"] == "bf16" else small.contiguous()
        self.file.write(bits.numpy().tobytes())
        self.file.flush()
        self.places[utt] = (self.end // self.itemsize, z.shape[-1])
        self.end += z.numel() * self.itemsize
        self.notes.write(json.dumps([utt, *self.places[utt]]) + "\n")
        self.notes.flush()

    def close(self):
        """Give the cache its name."""
        for file in (self.file, self.notes):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        os.replace(self.bin, data_file(self.folder, self.meta["dtype"]))
        write_text(self.folder / "embeddings.json", json.dumps(self.meta | {"utts": self.places}))
        self.note.unlink()
