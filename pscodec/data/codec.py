"""Training and validation examples of a codec: a segment of speech and a prompt of the same speaker.

Every random choice is a function of (seed, pass over the data, utterance), so that a resumed run draws what an
unbroken one would have drawn, whatever the number of loader workers.
"""

import zlib
from collections import ChainMap
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from pscodec.data.audio import load_audio
from pscodec.data.kaldi import load_matrices, read_data_dir
from pscodec.data.scenes import TRIES
from pscodec.types import Prompt
from pscodec.utils.errors import UserError

FRAME_SHIFT = 0.01  # seconds, of both prompt features


class SegmentPromptDataset(Dataset):
    """Items are asked for as (pass, index) and come as a dict of `wav` `[channels, L]` and the prompt's features.

    `data_dir`: a Kaldi data dir, or a list of them; features in it are needed as far as the codec `sees` them
    (models.base.Codec): `mel`: mel.scp. `voiceprint`: as that word says, `crop` gives the FBank of the prompt crop
    (fbank.scp), for CAM++ to run in the step (the paper); `utterance` gives CAM++'s vector of the whole prompt
    utterance (xvector.scp), computed once in stage 2. `wav`: the waveform of the prompt, from the recordings
    themselves.
    `segment`, `prompt`: seconds; waveforms are rounded to whole frames of `hop_length` samples. The two do not overlap
    where the utterance is long enough for both; shorter ones are repeated, never padded with silence (padding would
    corrupt CAM++'s statistics).
    `scenes` (scenes.Scenes, None: none): what else is in an item; the prompt is of its first source.
    `prompt_from`: `self` (the paper's training) or `speaker` (another utterance of the speaker where there is one).
    """

    def __init__(
        self,
        data_dir,
        sees=(),
        sample_rate=24000,
        segment=1.0,
        prompt=3.0,
        prompt_from="self",
        voiceprint="crop",
        hop_length=1,
        seed=0,
        max_utts=None,
        channels=1,
        scenes=None,
    ):
        if prompt_from not in ("self", "speaker"):
            raise UserError(f"prompt_from is self or speaker, not {prompt_from!r}")
        if voiceprint not in ("crop", "utterance"):
            raise UserError(f"voiceprint is crop or utterance, not {voiceprint!r}")
        self.sample_rate, self.channels, self.hop_length, self.prompt = sample_rate, channels, hop_length, prompt
        self.segment = self._samples(segment) / sample_rate
        self.prompt_from, self.sees, self.seed = prompt_from, sees, seed
        self.scenes = None if scenes is None or scenes.plain else scenes
        folders = [data_dir] if isinstance(data_dir, str | Path) else data_dir
        kinds = {"crop": "fbank", "utterance": "xvector"}
        kinds = [kinds[voiceprint] if name == "voiceprint" else name for name in sees if name != "wav"]
        self.features = {kind: ChainMap(*(load_matrices(f"{d}/{kind}.scp") for d in folders)) for kind in kinds}
        self.utterances, self.folders = {}, []
        for folder in folders:
            found = {u: x for u, x in read_data_dir(folder).items() if all(u in f for f in self.features.values())}
            if not found:
                raise UserError(f"{folder}: no utterance has audio and features; run stages 1 and 2")
            if twice := self.utterances.keys() & found.keys():
                raise UserError(f"{folder}: utterance {min(twice)} is in another of the folders, too")
            self.utterances |= found
            self.folders.append(list(found))
        self.places = {u: (f, i) for f, utts in enumerate(self.folders) for i, u in enumerate(utts)}
        self.of_speaker = {}
        for utterance in self.utterances.values():
            self.of_speaker.setdefault(utterance.spk, []).append(utterance.utt)
        self.utts = list(self.utterances)
        if max_utts and max_utts < len(self.utts):
            # spread over the speakers, whose utterances are neighbours in a sorted list
            self.utts = [self.utts[i * len(self.utts) // max_utts] for i in range(max_utts)]

    def __len__(self):
        return len(self.utts)

    def __getitem__(self, key):
        number, index = key
        utterance = self.utterances[self.utts[index]]
        rng = np.random.default_rng([self.seed, number, zlib.crc32(utterance.utt.encode())])
        utterance, offset, wav = self._scene(utterance, rng) if self.scenes else self._drawn(utterance, rng)
        item = {"wav": wav}
        if not self.sees:
            return item
        other = utterance.utt
        if self.prompt_from == "speaker":
            candidates = [u for u in self.of_speaker[utterance.spk] if u != utterance.utt]
            other = candidates[rng.integers(len(candidates))] if candidates else other
        avoid = (offset, offset + self.segment) if other == utterance.utt else None
        place = rng.uniform()
        for kind, features in self.features.items():
            if kind == "xvector":
                item["voiceprint"] = torch.from_numpy(np.array(features[other], dtype=np.float32))
            else:
                item[kind] = self._crop(features[other], place, avoid)
        if "wav" in self.sees:
            other = self.utterances[other]
            start = self._place(round(other.duration / FRAME_SHIFT), place, avoid) * FRAME_SHIFT
            item["prompt_wav"] = self._segment(other, start, self.prompt)
        return item

    def _drawn(self, utterance, rng):
        """`utterance`, where in it a segment begins, and that."""
        offset = rng.uniform(0, max(0.0, utterance.duration - self.segment))
        return utterance, offset, self._segment(utterance, offset, self.segment)

    def _scene(self, utterance, rng):
        """The same of the first source of a scene, and the scene. What clips is drawn again; after TRIES it is brought
        down to full scale."""
        own = self.places[utterance.utt]
        for _ in range(TRIES):
            places = self.scenes.places(rng, own, [len(utts) for utts in self.folders])
            sources = [self._drawn(self.utterances[self.folders[f][i]], rng) for f, i in places]
            wav = self.scenes.room(rng, sum(self.scenes.level(rng) * wav for *_, wav in sources), places)
            peak = wav.abs().max()
            if peak <= 1:
                break
        return *sources[0][:2], wav / peak.clamp(min=1)

    def _segment(self, utterance, offset, seconds):
        """`[channels, L]`: `seconds` of `utterance` from `offset` on, repeated where it is shorter."""
        start = utterance.start + offset
        end = min(start + seconds, utterance.start + utterance.duration)
        wav, _ = load_audio(utterance.path, self.sample_rate, start, end, self.channels)
        length = self._samples(seconds)
        return wav.repeat(1, -(-length // wav.shape[1]))[:, :length]

    def _samples(self, seconds):
        """Of `seconds`, in whole frames, at least one."""
        return max(1, round(seconds * self.sample_rate / self.hop_length)) * self.hop_length

    def _crop(self, features, place, avoid):
        """`prompt` seconds of `features` `[F, 80]`, as `[80, F']`, at `place`."""
        frames, start = round(self.prompt / FRAME_SHIFT), self._place(len(features), place, avoid)
        crop = np.concatenate([features] * -(-frames // len(features)))[start : start + frames]
        return torch.from_numpy(np.ascontiguousarray(crop.T, dtype=np.float32))

    def _place(self, total, place, avoid):
        """The first frame of a prompt within `total` frames: at `place` in 0..1 of the room that `avoid` (seconds,
        None: nothing) leaves, of all where it leaves none."""
        frames = round(self.prompt / FRAME_SHIFT)
        if total <= frames:
            return 0
        starts = np.arange(total - frames + 1)
        if avoid is not None:
            begin, end = (round(t / FRAME_SHIFT) for t in avoid)
            free = starts[(starts + frames <= begin) | (starts >= end)]
            starts = free if len(free) else starts
        return starts[min(int(place * len(starts)), len(starts) - 1)]


class Epochs(Sampler):
    """Batches without end, cut into epochs of `steps`.

    `total` batches all told (None: no end): the last epoch may be shorter. `skip` batches of the next epoch are left
    out: a resumed run sets it to the step it had reached.
    """

    def __init__(self, steps, total=None):
        self.steps, self.total = steps, total
        self.epoch, self.skip = 1, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        left = self.steps if self.total is None else self.total - (self.epoch - 1) * self.steps
        return max(0, min(self.steps, left))


class Batches(Epochs):
    """Batches of (pass, index) keys: shuffled passes over `n` items, strung together and cut into epochs.

    `steps` batches an epoch (None: one pass, its last incomplete batch dropped), `total` all told. The order is a
    function of (seed, pass).
    `rank`, `world`: this process takes every `world`-th batch of a global batch `world` times as large.
    """

    def __init__(self, n, batch_size, steps=None, seed=0, shuffle=True, rank=0, world=1, total=None):
        if n < 1:
            raise UserError("no utterances to train on")
        self.n, self.batch_size, self.seed, self.shuffle = n, batch_size, seed, shuffle
        self.rank, self.world = rank, world
        super().__init__(steps or max(1, n // (batch_size * world)), total)

    def __iter__(self):
        first, self.skip = self.skip, 0
        orders = {}
        for step in range(first, len(self)):
            begin = (((self.epoch - 1) * self.steps + step) * self.world + self.rank) * self.batch_size
            batch = []
            for position in range(begin, begin + self.batch_size):
                number, place = divmod(position, self.n)
                if number not in orders:
                    orders = {number - 1: orders.get(number - 1), number: self._order(number)}
                batch.append((number, int(orders[number][place])))
            yield batch

    def _order(self, number):
        return np.random.default_rng([self.seed, number]).permutation(self.n) if self.shuffle else np.arange(self.n)


def collate(items):
    """Items of `SegmentPromptDataset` -> (`wav` `[B, C, L]`, `Prompt`)."""
    stacked = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    return stacked.pop("wav"), Prompt(wav=stacked.pop("prompt_wav", None), **stacked)
