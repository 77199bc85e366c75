"""What training items are made of beside one utterance each: other sources, gains, rooms.

Source: Defossez et al., EnCodec (2022), section 4.1.
"""

from pathlib import Path

import numpy as np
from torchaudio.functional import fftconvolve

from pscodec.data.audio import SUFFIXES, load_audio
from pscodec.utils.errors import UserError

TRIES = 10  # draws of an item until one does not clip, and of a room until its reverberation is of the wanted length


class Scenes:
    """Draws sources, their gains and rooms, all from the generators that it is given.

    `weights`: shares of the draws of each folder of data, None: each utterance has its turn. `music`: which of them
    hold music, which is neither in mixtures of three nor, alone, in a room. `two`, `three`: shares of the items that
    are sums of so many sources. `gain`: dB, from and to, of each source. `rooms`: a folder of impulse responses, of
    which those are used whose RT60 is within `rt60` (seconds); `room_share`: of the items.

    Raises UserError for shares and ranges that are none, and for folders that do not hold what they are to.
    """

    def __init__(
        self,
        weights=None,
        music=(),
        two=0.0,
        three=0.0,
        gain=(0.0, 0.0),
        rooms=None,
        room_share=0.0,
        rt60=(0.3, 1.3),
        sample_rate=24000,
    ):
        if min(two, three, room_share, 0) < 0 or two + three > 1 or room_share > 1:
            raise UserError(f"shares of mixtures and rooms are within 0 and 1, not {two}, {three} and {room_share}")
        for name, ends in {"gain": gain, "room_rt60": rt60}.items():
            if len(ends) != 2 or ends[0] > ends[1]:
                raise UserError(f"{name} is from the lowest to the highest, not {' '.join(map(str, ends))}")
        if weights and (min(weights) < 0 or not sum(weights)):
            raise UserError(f"source_weights are shares, not {' '.join(map(str, weights))}")
        self.music, self.two, self.three, self.gain = np.array(music, dtype=bool), two, three, gain
        self.weights, self.rt60, self.sample_rate = weights and np.array(weights, float), rt60, sample_rate
        self.room_share = room_share if rooms else 0.0
        self.rooms = _rooms(rooms) if self.room_share else []

    @property
    def plain(self):
        """Whether an item is one utterance as it is, each in its turn."""
        return self.weights is None and not (self.two or self.three or self.room_share or any(self.gain))

    def places(self, rng, own, sizes):
        """Places (folder, index) of an item's sources, in folders of so many `sizes`; `own`: that whose turn it is."""
        kind = rng.uniform()
        n = 3 if kind < self.three else 2 if kind < self.three + self.two else 1
        shares = np.array(sizes, float) if self.weights is None else self.weights
        if n == 3 and self.music.any():
            shares = np.where(self.music, 0.0, shares)
            if not shares.any():
                raise UserError("mixtures of three need a folder that holds no music (mix_three, music_dirs)")
        first = [own] if self.weights is None and shares[own[0]] else []
        drawn = rng.choice(len(sizes), n - len(first), p=shares / shares.sum())
        return [*first, *((int(f), int(rng.integers(sizes[f]))) for f in drawn)]

    def level(self, rng):
        """A linear gain."""
        return 10 ** (rng.uniform(*self.gain) / 20)

    def room(self, rng, wav, places):
        """`wav` `[C, L]`, of sources at `places`, in a room or as it is. What is heard begins at the direct sound, and
        an impulse response's energy is made 1, so that levels stay about what they were."""
        alone = len(places) == 1 and self.music.size and self.music[places[0][0]]
        if rng.uniform() >= self.room_share or alone:
            return wav
        for _ in range(TRIES):
            response, _ = load_audio(self.rooms[rng.integers(len(self.rooms))], self.sample_rate)
            if self.rt60[0] <= rt60(response[0], self.sample_rate) <= self.rt60[1]:
                response = response[:, response.abs().argmax() :]
                return fftconvolve(wav, response / response.norm())[:, : wav.shape[-1]]
        return wav


def rt60(response, sample_rate):
    """Seconds in which a room's sound falls by 60 dB, of its impulse `response` `[L]`: twice what the energy that is
    still to come takes from -5 to -35 dB (Schroeder, 1965; ISO 3382, T30). 0 for what never falls so far."""
    energy = response.double().square().flip(0).cumsum(0).flip(0)
    if not energy[0] > 0:
        return 0.0
    decay = 10 * (energy / energy[0]).clamp(min=1e-30).log10()
    start, stop = (int((decay <= level).double().argmax()) for level in (-5, -35))
    return 2 * (stop - start) / sample_rate if stop > start else 0.0


def _rooms(folder):
    """Paths of the recordings below `folder`, in order."""
    if not Path(folder).is_dir():
        raise UserError(f"room_dir: no folder {folder}")
    paths = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"room_dir: {folder} holds no recordings")
    return paths
