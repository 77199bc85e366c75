"""The prompt that a test utterance is decoded with: the normal one, and those that show what a prompt is worth.

A condition's name is a folder's name (decode/SPLIT.CONDITION). `prompt_Ns` (prompt_1s, prompt_0.5s ...) stands for the
middle N seconds of the normal prompt; the others are the keys of `CONDITIONS`.
"""

import re
import zlib
from functools import cached_property

import numpy as np
import torch

from pscodec.data.audio import load_audio
from pscodec.data.kaldi import load_matrices, read_data_dir, read_table
from pscodec.types import Prompt
from pscodec.utils.errors import UserError

CONDITIONS = {
    "own_prompt": "prompt from the same utterance",
    "wrong_prompt": "prompt of a wrong speaker",
    "noise_prompt": "white noise as the prompt",
    "no_prompt": "no prompt",
}
NORMAL = "another utterance of the speaker"  # the prompt that utt2prompt names
REPORTED = ("own_prompt", "prompt_3s", "prompt_1s", "wrong_prompt", "noise_prompt", "no_prompt")


def seconds_of(condition):
    """N of `prompt_Ns`; None for any other name."""
    match = re.fullmatch(r"prompt_(\d+(?:\.\d+)?)s", condition)
    return float(match[1]) if match else None


def describe(condition):
    """What a prompt condition is, in words; None for what is none."""
    seconds = seconds_of(condition)
    return f"{seconds:g} s of the prompt" if seconds else CONDITIONS.get(condition)


class Prompts:
    """The prompts of data dir `folder` for a codec that `sees` so much of them (models.base.Codec).

    They are the features of stage 2 where they are an utterance as it is and stage 2 has made what the codec sees.
    `featurise` (wav `[1, L]`, sample rate) -> `Prompt` makes all others, at their true length.
    """

    def __init__(self, folder, sees, featurise=None, allow_pipes=False):
        self.utterances = read_data_dir(folder, allow_pipes)
        self.folder, self.featurise = folder, featurise
        self.speakers = read_table(folder / "utt2spk")
        self.features = self._made(folder, sees)
        self.known = set(self.utterances).intersection(*self.features.values())

    @staticmethod
    def _made(folder, sees):
        """Stage 2's features of what the codec sees, name -> matrices; {} where not all were made."""
        features = {}
        for name in sees:
            # CAM++'s vectors of the whole utterances, where stage 2 has computed them
            kinds = {"mel": ["mel"], "voiceprint": ["xvector", "fbank"]}.get(name, [])
            made = [kind for kind in kinds if (folder / f"{kind}.scp").exists()]
            if not made:
                return {}
            features[made[0]] = load_matrices(folder / f"{made[0]}.scp")
        return features

    @cached_property
    def names(self):
        """Whose utterance is whose prompt; none is needed where each is its own."""
        return read_table(self.folder / "utt2prompt")

    def source(self, utt: str, condition: str | None = None) -> str | None:
        """The utterance that `utt`'s prompt is (made of); None where it has no features."""
        if condition == "own_prompt":
            name = utt
        elif condition == "wrong_prompt":
            name = self._stranger(utt)
        else:
            name = self.names.get(utt)
        return name if name in self.known else None

    def of(self, utt: str, condition: str | None = None) -> Prompt | None:
        """The `Prompt` of `utt`, None in condition no_prompt. Ask `source`, and `can_be_wrong`, first."""
        if condition == "no_prompt":
            return None
        name = self.source(utt, condition)
        if condition == "noise_prompt":
            wav, rate = self._audio(name)
            return self.featurise(noise_like(wav, zlib.crc32(utt.encode())), rate)
        if condition is not None and (seconds := seconds_of(condition)):
            return self.featurise(*self._middle(name, seconds))
        if not self.features:
            return self.featurise(*self._audio(name))
        found = {kind: _tensor(matrices[name].T) for kind, matrices in self.features.items()}
        return Prompt(voiceprint=found.pop("xvector", None), **found)

    @property
    def can_be_wrong(self):
        """Whether there is another speaker at all."""
        return len(set(self.speakers.values())) > 1

    def _stranger(self, utt):
        """The next speaker's utterance of the same number."""
        speakers = sorted(set(self.speakers.values()))
        other = speakers[(speakers.index(self.speakers[utt]) + 1) % len(speakers)]
        theirs = sorted(u for u, s in self.speakers.items() if s == other and u in self.known)
        mine = sorted(u for u, s in self.speakers.items() if s == self.speakers[utt])
        return theirs[mine.index(utt) % len(theirs)] if theirs else None

    def _audio(self, name):
        u = self.utterances[name]
        return load_audio(u.path, None, u.start, u.end)

    def _middle(self, name, seconds):
        """The middle `seconds` of an utterance, all of a shorter one: `(wav [1, L], sample_rate)`."""
        wav, rate = self._audio(name)
        length = min(wav.shape[1], round(seconds * rate))
        start = (wav.shape[1] - length) // 2
        return wav[:, start : start + length], rate


def noise_like(wav, seed):
    """White Gaussian noise of the length and the level (RMS) of `wav` `[1, L]`."""
    noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(seed))
    return noise * wav.square().mean().sqrt()


def check(conditions):
    """Raises UserError for a name that is no prompt condition."""
    for condition in conditions:
        if describe(condition) is None:
            raise UserError(f"no prompt condition {condition!r}; there are: {' '.join(CONDITIONS)} prompt_Ns")


def _tensor(array):
    return torch.from_numpy(np.array(array, dtype=np.float32))[None]
