"""Codes that bin/dump_codes wrote, as sequences for a language model."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from pscodec.data.kaldi import read_table
from pscodec.utils.errors import UserError


class CodesDataset(Dataset):
    """Sequences of `seconds` of the codes in `folders` (a string, spaces between): items `[n_q, T]` int64, -1 where a
    codebook or a frame is missing.

    The folders are of one codec, with different numbers of codebooks. A sequence's number is drawn from `n_q` (one, or
    a list; None: those that the codec was trained with), and its codes come from the folder of that number, or are the
    first ones of the largest; it begins at a random frame of its utterance, so that packets in the midst of speech are
    learned too. `joined`: one that ends early goes on with other utterances. All this is a function of (seed, pass,
    index). Raises UserError for folders that do not go together.
    """

    def __init__(self, folders, seconds=5.0, n_q=None, seed=0, joined=False):
        self.facts, self.codes, self.joined = None, {}, joined
        for folder in map(Path, folders.split()):
            facts, codes = _read(folder)
            number = facts.pop("n_q")
            if self.facts not in (None, facts) or number in self.codes:
                raise UserError(f"{folder}: codes of another codec than those beside it, or of as many codebooks")
            self.facts, self.codes[number] = facts, codes
        if not self.codes:
            raise UserError("no folders of codes are given")
        self.n_q, self.seed = max(self.codes), seed
        self.groups, n_q = self.facts["groups"], [n_q] if isinstance(n_q, int) else n_q
        self.choices = [k for k in n_q or self.facts["n_q_trained"] if 0 < k <= self.n_q]
        if not self.choices or any(k % self.groups for k in self.choices):
            raise UserError(f"{folders}: no codes of {n_q or self.facts['n_q_trained']} codebooks")
        self.utts = list(self.codes[self.n_q])
        self.longest = max(1, round(seconds * self.frame_rate))

    @property
    def frame_rate(self):
        return self.facts["sample_rate"] / self.facts["hop_length"]

    @property
    def frames(self):
        """All told."""
        return sum(codes.shape[1] for codes in self.codes[self.n_q].values())

    def __len__(self):
        return len(self.utts)

    def __getitem__(self, key):
        """`key`: (pass, index)."""
        rng = np.random.default_rng([self.seed, *key])
        number = int(rng.choice(self.choices))
        codes = self._of(self.utts[key[1]], number)
        codes = codes[:, int(rng.integers(max(1, codes.shape[1] - round(self.frame_rate)))) :]  # a second is left of it
        while self.joined and codes.shape[1] < self.longest:
            codes = np.concatenate([codes, self._of(self.utts[rng.integers(len(self))], number)], 1)
        codes = codes[:, : self.longest]
        item = np.full((self.n_q, codes.shape[1]), -1)
        item[self._books(number)] = codes
        return torch.from_numpy(item)

    def _of(self, utt, number):
        """Its codes of `number` codebooks."""
        codes = self.codes.get(number, {}).get(utt)
        return self.codes[self.n_q][utt][self._books(number)] if codes is None else codes

    def _books(self, number):
        """Of all codebooks, those that frames of `number` codes have: the first of each group."""
        each, of = number // self.groups, self.n_q // self.groups
        return [group * of + layer for group in range(self.groups) for layer in range(each)]


def collate(items):
    """Items of `CodesDataset` -> `[B, n_q, T]`, the shorter ones filled up with -1."""
    frames = max(item.shape[1] for item in items)
    batch = torch.full((len(items), len(items[0]), frames), -1)
    for row, item in zip(batch, items, strict=True):
        row[:, : item.shape[1]] = item
    return batch


def read_note(folder):
    """What codec.json says of the codes in `folder`. Raises UserError for what no loader here can use."""
    note = Path(folder) / "codec.json"
    try:
        facts = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not codes that dump_codes wrote ({error})") from None
    if facts.pop("order", "group") != "group":
        raise UserError(f"{folder}: codes layer by layer (--order), which no file has")
    if "n_q_trained" not in facts:
        raise UserError(f"{note}: of an older program; run dump_codes on it again")
    return facts


def read_codes(path):
    """Codes `[K, T]` of a file that dump_codes wrote. Raises UserError."""
    try:
        return np.load(path)["codes"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not codes that dump_codes wrote ({error})") from None


def _read(folder):
    facts = read_note(folder)
    codes = {utt: read_codes(path) for utt, path in read_table(folder / "codes.scp").items()}
    return facts, {utt: found for utt, found in codes.items() if found.shape[1] > 0}
