"""Mixtures of several talkers, made when they are asked for out of a list and a Kaldi data dir of clean speech.

A folder of mixtures holds `mixtures.tsv` (who, from where, how loud; see `Mixture`), `mixtures.json` (sample_rate,
mode, n_src, clean: the data dir of the sources ...) and `utt2level`, the active level of the clean utterances.
Every random choice is a function of (seed, pass over the data, item), so that a resumed run draws what an unbroken one
would have drawn.
"""

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from pscodec.data.audio import load_audio, resample
from pscodec.data.embeddings import EmbeddingCache, data_stamp
from pscodec.data.kaldi import read_data_dir, read_table
from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text

PEAK = 0.9  # of the loudest among a mixture and its sources, as in WSJ0-2mix


@dataclass(frozen=True)
class Source:
    """A clean utterance in a mixture: its id, the sample it is taken from, and its linear gain."""

    utt: str
    start: int
    gain: float


@dataclass(frozen=True)
class Mixture:
    """A line of `mixtures.tsv`: the id, its sources, and its length in samples at the folder's sampling rate."""

    mix: str
    sources: tuple
    length: int


def write_mixtures(folder, mixtures, meta):
    """Write `mixtures.tsv`, then `mixtures.json` (`meta`, a dict), which says that the list is whole."""
    columns = [f"{name}{i + 1}" for i in range(meta["n_src"]) for name in ("source", "start", "gain")]
    lines = ["\t".join(["mix", *columns, "length"])]
    for m in mixtures:
        fields = [str(x) for s in m.sources for x in (s.utt, s.start, f"{s.gain:.9g}")]
        lines.append("\t".join([m.mix, *fields, str(m.length)]))
    (Path(folder) / "mixtures.json").unlink(missing_ok=True)
    write_text(Path(folder) / "mixtures.tsv", "\n".join(lines) + "\n")
    write_text(Path(folder) / "mixtures.json", json.dumps(meta, indent=1) + "\n")


def read_mixtures(folder):
    """`(list of Mixture, meta)` of a folder. Raises UserError naming the file and line."""
    file, note = Path(folder) / "mixtures.tsv", Path(folder) / "mixtures.json"
    try:
        meta = json.loads(note.read_text(encoding="utf-8"))
        header, *lines = file.read_text(encoding="utf-8").splitlines()
        sample_rate, n_src, _ = meta["sample_rate"], meta["n_src"], meta["clean"]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; stage 1 writes it") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder}: not a folder of mixtures ({error})") from None
    mixtures = []
    for number, line in enumerate(lines, 2):
        fields = line.split("\t")
        try:
            if len(fields) != 3 * n_src + 2:
                raise ValueError(f"{len(fields)} columns where {3 * n_src + 2} belong")
            triples = zip(fields[1:-1:3], fields[2:-1:3], fields[3:-1:3], strict=True)
            sources = tuple(Source(utt, int(start), float(gain)) for utt, start, gain in triples)
            mixtures.append(Mixture(fields[0], sources, int(fields[-1])))
        except ValueError as error:
            raise UserError(f"{file}:{number}: {error}") from None
        if mixtures[-1].length < 1 or not all(np.isfinite(s.gain) and s.start >= 0 for s in sources):
            raise UserError(f"{file}:{number}: an impossible length, start or gain (at {sample_rate} Hz)")
    if not mixtures:
        raise UserError(f"{file}: holds no mixtures")
    return mixtures, meta


def load_source(utterance, sample_rate, start=0.0, seconds=math.inf):
    """The clean utterance at `sample_rate`, `[1, L]`, or `seconds` of it from `start` on, as far as it goes."""
    first = utterance.start + start
    end = min(math.inf if utterance.end is None else utterance.end, first + seconds)
    return load_audio(utterance.path, sample_rate, first, None if end == math.inf else end)[0]


def fit(wav, start, length):
    """`length` samples of `wav` `[..., L]` from `start` on, zeros where it has ended."""
    wav = wav[..., start : start + length]
    return F.pad(wav, (0, length - wav.shape[-1]))


def joint_gain(sources, always):
    """The one factor that brings sources `[S, L]` and their sum to a peak of PEAK; unless `always`, only downwards."""
    peak = max(sources.abs().max().item(), sources.sum(0).abs().max().item())
    if peak == 0.0:
        return 1.0
    return PEAK / peak if always else min(1.0, PEAK / peak)


def level_gain(power, db=0.0):
    """Linear gain that brings speech of active level `power` to `db` dB; 1 for silence, which has no level."""
    return 10 ** (db / 20) / power**0.5 if power > 0.0 else 1.0


def talkers(utterances, one_speaker=()):
    """`{utt: who speaks}`: the speaker, or the first of the group of `one_speaker` (lists of names) it belongs to."""
    same = {name: group[0] for group in one_speaker for name in group}
    return {utt: same.get(u.spk, u.spk) for utt, u in utterances.items()}


class MixtureDataset(Dataset):
    """Items are asked for as (pass, index), or as an index, and come as a dict:

    `utt`, `mix` `[1, L]`, `sources` `[S, L]` (float32 at `sample_rate`, their sum is the mixture), `length` (samples).
    With `embeddings`, a folder that stage 2 has written, instead of the audio: `z_mix` `[D, T]`, `z_sources`
    `[S, D, T]` and `frames` (T); with `audio` both.

    `segment`: at most so many seconds, from a random place. `dynamic`: items are the clean utterances; each is mixed
    with random ones of other talkers, from random places, at their active levels; all talkers come equally often if the
    folder was drawn by talker. `speed`: factors to draw from, one for each source. `gain_db`: each source's level is
    drawn within so many dB up or down. What would clip is scaled, mixture and sources by one factor. `max_mixtures`:
    only so many, spread over the list.

    Raises UserError: no such folder, a list that does not fit its clean data dir, another rate, a stale cache, or a
    cache asked for together with what changes the audio.
    """

    def __init__(
        self,
        data_dir,
        sample_rate=None,
        segment=None,
        dynamic=False,
        speed=None,
        gain_db=0.0,
        seed=0,
        embeddings=None,
        audio=False,
        max_mixtures=None,
    ):
        self.data_dir = Path(data_dir)
        self.mixtures, self.meta = read_mixtures(data_dir)
        self.clean = self.meta["clean"]
        self.utterances = read_data_dir(self.clean)
        self.sample_rate = self.meta["sample_rate"]
        if sample_rate not in (None, self.sample_rate):
            raise UserError(f"{data_dir}: its mixtures are of {self.sample_rate} Hz, not {sample_rate}; run stage 1")
        for m in self.mixtures:
            for s in m.sources:
                if s.utt not in self.utterances:
                    raise UserError(f"{data_dir}: {m.mix} takes {s.utt}, which {self.clean} lacks; run stage 1")
        if max_mixtures and max_mixtures < len(self.mixtures):
            n = len(self.mixtures)
            self.mixtures = [self.mixtures[i * n // max_mixtures] for i in range(max_mixtures)]
        self.segment, self.dynamic, self.seed, self.gain_db = segment, dynamic, seed, gain_db
        self.speed = tuple(speed) if speed else (1.0,)
        self.cache = None
        self.audio = audio or embeddings is None
        if embeddings is not None:
            if dynamic or gain_db or set(self.speed) != {1.0}:
                raise UserError("embeddings of stage 2 are of fixed mixtures: switch off dynamic, speed and gain_db")
            self.cache = EmbeddingCache(embeddings, data_stamp(self.data_dir, self.utterances))
        self.embeddings_meta = self.cache.meta if self.cache else None
        if dynamic:
            self._prepare_dynamic()

    def _prepare_dynamic(self):
        levels = read_table(self.data_dir / "utt2level")
        talker = talkers(self.utterances, self.meta.get("one_speaker", ()))
        shortest = self.meta.get("min_seconds", 0.0)
        self.utts = [u for u, x in self.utterances.items() if u in levels and x.duration >= shortest]
        self.levels = {utt: float(levels[utt]) for utt in self.utts}
        self.talker = {utt: talker[utt] for utt in self.utts}
        self.heard = {}
        for utt, name in self.talker.items():
            self.heard.setdefault(name, []).append(utt)
        if len(self.heard) < self.meta["n_src"]:
            raise UserError(f"{self.data_dir}: fewer talkers than sources, nothing can be mixed")

    def __len__(self):
        return len(self.utts if self.dynamic else self.mixtures)

    def __getitem__(self, key):
        number, index = key if isinstance(key, tuple) else (0, key)
        name = self.utts[index] if self.dynamic else self.mixtures[index].mix
        rng = np.random.default_rng([self.seed, number, zlib.crc32(name.encode())])
        if self.dynamic:
            return {"utt": name, **self._audio(self._mix(name, rng))}
        mixture = self.mixtures[index]
        item = {"utt": name}
        window = None
        if self.cache is not None:
            z = self.cache[name]
            first, frames, window = self._window(z["z_mix"].shape[-1], rng)
            item |= {k: v[..., first : first + frames].contiguous() for k, v in z.items()}
            item["frames"] = frames
        if self.audio:
            sources = self._augment(self._fixed(mixture), rng)
            if window is None and self.segment:
                length = min(sources.shape[-1], round(self.segment * self.sample_rate))
                window = (int(rng.integers(sources.shape[-1] - length + 1)), length)
            item |= self._audio(sources if window is None else sources[:, window[0] : window[0] + window[1]])
        return item

    def _fixed(self, mixture):
        """The sources `[S, L]` as the list has them."""
        wavs = [
            s.gain * fit(load_source(self.utterances[s.utt], self.sample_rate)[0], s.start, mixture.length)
            for s in mixture.sources
        ]
        return torch.stack(wavs)

    def _augment(self, sources, rng):
        """A fixed mixture at other speeds and levels; as short as its shortest source then is."""
        if self.gain_db == 0.0 and set(self.speed) == {1.0}:
            return sources
        wavs = [self._at_speed(wav, self._speed(rng)) * 10 ** (self._db(rng) / 20) for wav in sources]
        sources = torch.stack([wav[: min(map(len, wavs))] for wav in wavs])
        return sources * joint_gain(sources, always=False)

    def _choose(self, utt, rng):
        """Utterances to mix: `utt` and random ones of other talkers; by talker, all are random."""
        n_src = self.meta["n_src"]
        if self.meta.get("by_talker"):
            return [rng.choice(self.heard[name]) for name in rng.permutation(sorted(self.heard))[:n_src]]
        chosen = [utt]
        while len(chosen) < n_src:
            other = self.utts[rng.integers(len(self.utts))]
            if self.talker[other] not in [self.talker[c] for c in chosen]:
                chosen.append(other)
        return chosen

    def _mix(self, utt, rng):
        """Sources `[S, L]` of what `_choose` has chosen."""
        chosen = self._choose(utt, rng)
        speeds = [self._speed(rng) for _ in chosen]
        durations = [self.utterances[c].duration / speed for c, speed in zip(chosen, speeds, strict=True)]
        seconds = min((min if self.meta["mode"] == "min" else max)(durations), self.segment or math.inf)
        wavs = []
        for c, speed, duration in zip(chosen, speeds, durations, strict=True):
            start = rng.uniform(0, max(0.0, duration - seconds))  # only what is mixed is read
            wav = load_source(self.utterances[c], self.sample_rate, start * speed, seconds * speed)[0]
            wav = self._at_speed(wav, speed) * level_gain(self.levels[c], self._db(rng))
            wavs.append(fit(wav, 0, round(seconds * self.sample_rate)))
        sources = torch.stack(wavs)
        return sources * joint_gain(sources, always=True)

    def _db(self, rng):
        return rng.uniform(-self.gain_db, self.gain_db)

    def _speed(self, rng):
        return self.speed[rng.integers(len(self.speed))]

    def _at_speed(self, wav, speed):
        """`wav` `[L]` read as if recorded at `speed` times the rate: pitch and tempo change."""
        return resample(wav, round(self.sample_rate * speed), self.sample_rate)

    def _window(self, total, rng):
        """`(first frame, frames, (first sample, samples) or None)` of a segment out of `total` latent frames."""
        if not self.segment:
            return 0, total, None
        rate = self.cache.meta["frame_rate"]
        frames = min(total, max(1, round(self.segment * rate)))
        first = int(rng.integers(total - frames + 1))
        samples = self.sample_rate / rate
        return first, frames, (round(first * samples), round(frames * samples))

    def _audio(self, sources):
        sources = sources.contiguous()
        return {"mix": sources.sum(0, keepdim=True), "sources": sources, "length": sources.shape[-1]}


def collate(items):
    """Items of `MixtureDataset` -> a dict, zeros at the right of what is shorter than the longest.

    `utt`: list; `mix` `[B, 1, L]`, `sources` `[B, S, L]`, `lengths` `[B]` (samples); `z_mix` `[B, D, T]`, `z_sources`
    `[B, S, D, T]`, `frames` `[B]`: what the items have.
    """
    batch = {"utt": [item["utt"] for item in items]}
    for name, count in (("mix", "length"), ("sources", "length"), ("z_mix", "frames"), ("z_sources", "frames")):
        if name in items[0]:
            longest = max(item[count] for item in items)
            batch[name] = torch.stack([fit(item[name], 0, longest) for item in items])
            batch["lengths" if count == "length" else count] = torch.tensor([item[count] for item in items])
    return batch
