"""Texts with the codes of their recordings, for speech synthesis, in batches of about equal duration."""

import itertools
import zlib

import numpy as np
import torch
from torch.utils.data import Dataset

from pscodec.data.codec import Epochs
from pscodec.data.codes import read_codes, read_note
from pscodec.data.kaldi import read_data_dir, read_table
from pscodec.data.text import PAD
from pscodec.utils.errors import UserError


class SpokenDataset(Dataset):
    """Utterances of data dir `folder` that have a text and codes in folder `codes` (bin/dump_codes).

    Items are asked for as (pass, index): a dict of `text`, `[N]` of `units` (data.text.Units), and `codes` `[K, T]`.
    A share `prompted` of them, drawn by (seed, pass, utterance), comes after another utterance of the speaker, as what
    is synthesised comes after its prompt. Left out, and counted in `left_out`: those without a text, those without
    codes, those beyond `longest` seconds. Raises UserError where none is left, and for symbols that the units lack.
    """

    def __init__(self, folder, codes, units, longest=20.0, prompted=0.0, seed=0, most=None, durations=None):
        self.facts, self.places = read_note(codes), read_table(f"{codes}/codes.scp")
        self.durations = read_durations(durations) if durations else None
        self.prompted, self.seed = prompted, seed
        utterances = read_data_dir(folder)
        known = self.places.keys() & (self.places if self.durations is None else self.durations).keys()
        chosen = [u for u in utterances.values() if (u.text or "").strip() and u.utt in known and u.duration <= longest]
        self.left_out = len(utterances) - len(chosen)
        if not chosen:
            raise UserError(f"{folder}: no utterance has a text, codes in {codes}, and at most {longest:g} s")
        self.utterances = chosen[:most]
        self.texts = {u.utt: units(u.text) for u in self.utterances}
        self.of_speaker = {}
        for u in self.utterances:
            self.of_speaker.setdefault(u.spk, []).append(u.utt)

    @property
    def frame_rate(self):
        return self.facts["sample_rate"] / self.facts["hop_length"]

    @property
    def seconds(self):
        """Of each utterance; of those that may come after another one, what they then last on average."""
        durations = [u.duration for u in self.utterances]
        return durations if not self.prompted else [d + self.prompted * sum(durations) / len(self) for d in durations]

    def __len__(self):
        return len(self.utterances)

    def __getitem__(self, key):
        number, index = key
        u = self.utterances[index]
        rng = np.random.default_rng([self.seed, number, zlib.crc32(u.utt.encode())])
        utts = [u.utt]
        others = [utt for utt in self.of_speaker[u.spk] if utt != u.utt]
        if others and rng.uniform() < self.prompted:
            utts = [others[rng.integers(len(others))], u.utt]
        text = torch.tensor([unit for utt in utts for unit in self.texts[utt]])
        codes = np.concatenate([read_codes(self.places[utt]) for utt in utts], 1)
        item = {"text": text, "codes": torch.from_numpy(codes.astype(np.int64))}
        if self.durations:
            item["durations"] = torch.tensor([n for utt in utts for n in self.durations[utt]])
        return item


def read_durations(path):
    """A table `utt frames frames ...` that bin/align wrote, as lists. Raises UserError."""
    try:
        return {utt: [int(n) for n in line.split()] for utt, line in read_table(path).items()}
    except ValueError:
        raise UserError(f"{path}: not a table of durations") from None


def collate(items):
    """Items of `SpokenDataset` -> `text` `[B, N]`, PAD beside shorter ones, `codes` `[B, K, T]`, -1 beside them, and
    `durations` `[B, N]`, 0 beside them, where there are some."""
    pad = torch.nn.utils.rnn.pad_sequence
    batch = {name: pad([item[name] for item in items], True, PAD) for name in ("text", "durations") if name in items[0]}
    return {**batch, "codes": pad([item["codes"].T for item in items], True, -1).transpose(1, 2)}


class DurationBatches(Epochs):
    """Batches of (pass, index) keys, each of at most `most` seconds with its padding; items last `seconds` (a list).

    In a pass, items of about one length stand together: shuffled, sorted in pools of `pool`, cut, the batches
    shuffled. Passes are strung together and cut into epochs of `steps` batches (None: `steps_per_pass`),
    `total` all told. The order is a function of (seed, pass). `skip`, `rank` and `world` are those of
    data.codec.Batches.
    """

    def __init__(self, seconds, most, steps=None, seed=0, shuffle=True, rank=0, world=1, total=None, pool=1000):
        self.seconds, self.most, self.seed, self.shuffle, self.pool = seconds, most, seed, shuffle, pool
        if not seconds or max(seconds) > most:
            longest = max(seconds, default=0)
            raise UserError(f"batches of {most:g} s cannot hold an utterance of {longest:g} s (batch_seconds)")
        self.rank, self.world = rank, world
        self.counts = []  # batches of the passes so far
        self.steps_per_pass = max(1, len(self._pass(0)) // world)  # the first one; others may have one more or less
        super().__init__(steps or self.steps_per_pass, total)

    def __iter__(self):
        first, self.skip = self.skip, 0
        begin = ((self.epoch - 1) * self.steps + first) * self.world + self.rank
        yield from itertools.islice(self._from(begin), 0, (len(self) - first) * self.world, self.world)

    def _from(self, place):
        """All batches from number `place` on, without end."""
        for number in itertools.count():
            if number == len(self.counts):
                self.counts.append(len(self._pass(number)))
            if place < self.counts[number]:
                yield from self._pass(number)[place:]
                place = 0
            else:
                place -= self.counts[number]

    def _pass(self, number):
        n, rng = len(self.seconds), np.random.default_rng([self.seed, number])
        order = rng.permutation(n) if self.shuffle else np.arange(n)
        batches = []
        for begin in range(0, n, self.pool):
            batch = []
            for index in sorted(order[begin : begin + self.pool], key=lambda i: self.seconds[i]):
                if batch and self.seconds[index] * (len(batch) + 1) > self.most:  # the longest of them comes last
                    batches.append(batch)
                    batch = []
                batch.append((number, int(index)))
            batches.append(batch)
        return [batches[i] for i in rng.permutation(len(batches))] if self.shuffle else batches
