"""A trained separator in use: an experiment folder becomes something that takes talkers apart.

    separator = pscodec.load_separator("exp/residual_tcn_el_mini_2mix_8k_min")
    voices = separator.separate(wav, sample_rate)          # [S, L]

A recording of any length is separated in windows that overlap; the order of the talkers is carried from window to
window. What a codec decodes of their embeddings are masks of the recording (downstream.masks), or, asked for as it is,
the talkers. Shapes: S sources, D latent_dim, T frames, L samples.
"""

import contextlib
import itertools
import math
from pathlib import Path

import soundfile
import torch
from ruamel.yaml import YAML

from pscodec import released
from pscodec.data.audio import Resampler, as_wav, audio_blocks, pcm16
from pscodec.downstream.codec import FrozenCodec
from pscodec.downstream.masks import Masks
from pscodec.downstream.systems import join
from pscodec.inference import load_codec
from pscodec.layers.push_graph import Pushed
from pscodec.losses.separation import best_order, ordered
from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path
from pscodec.utils.hparams import build_only
from pscodec.utils.weights import load_weights

WINDOW, OVERLAP = 12.0, 3.0  # seconds separated at once, and what two windows share
BLOCK = 4.0  # seconds of a file read, and of embeddings decoded, at once
QUIET = 1e-3  # a peak of -60 dBFS: no speech in it


def load_separator(exp, which="best", device="cpu", codec=None):
    """The `Unmixer` of experiment folder `exp` of the separation recipe, or of one that bin/release has written.

    `which` checkpoint: `best` or `last`. `codec`: its codec's experiment, where that has moved. Raises UserError in one
    line: no such experiment, or a codec with other weights.
    """
    exp = released.folder(exp)
    path = exp / "hyperparams.yaml"
    if not path.is_file():
        raise UserError(f"{exp}: no hyperparams.yaml, so not an experiment")
    text = path.read_text(encoding="utf-8")
    keys = YAML().load(text)
    if "separator" not in keys:
        raise UserError(f"{exp}: not an experiment of the separation recipe")
    separator = build_only(text, "separator")
    refiner = build_only(text, "refiner") if keys.get("refiner") else None
    coder = frozen = None
    if separator.domain == "embedding" or keys["coded_mixtures"]:
        codec = codec or keys["codec"]
        coder = load_codec(codec, device=device, precision=None)
        if coder.fingerprint.hex() != keys["codec_fingerprint"]:
            raise UserError(f"{codec}: not the codec that {exp} was trained in, or trained further")
        frozen = FrozenCodec(coder.model, keys["sample_rate"], keys["normalise"])
    system = join(separator, frozen, refiner=refiner)
    meta = load_weights(exp, system.parts, which)
    return Unmixer(system.to(device).eval(), coder, keys["sample_rate"], keys["n_src"], meta)


class Unmixer:
    """Wraps a system of downstream.systems for recordings.

    `sample_rate`: at which it works (Hz); `n_src`: S; `coder`: the codec in use (None without one), `frozen` it for
    embeddings; `meta`: of the checkpoint (step, score).
    """

    def __init__(self, system, coder, sample_rate, n_src, meta=None):
        self.system, self.coder, self.frozen = system, coder, system.codec
        self.sample_rate, self.n_src, self.meta = sample_rate, n_src, meta or {}
        self.device = next(system.parameters()).device
        self.in_embedding = system.separator.domain == "embedding"
        # windows begin on frames of the codec, which are whole samples of the mixture every so many frames
        self.step = 1
        if self.in_embedding:
            codec = coder.model
            self.step = codec.hop_length * sample_rate // math.gcd(codec.hop_length * sample_rate, codec.sample_rate)

    def separate(self, wav, sample_rate, masked=True):
        """Talkers of `wav` (array or tensor, `[L]` or `[channels, L]`, averaged) -> `[S, L]` at its `sample_rate`.

        `masked`: the recording, masked by what the codec decodes; or that itself. A separator of waveforms has no
        choice. Raises UserError for what is no recording, or has nothing in it.
        """
        wav = as_wav(wav).mean(0, keepdim=True)
        return torch.cat(list(self.separate_blocks([wav], sample_rate, wav.abs().max().item(), masked)), 1)

    @torch.inference_mode()
    def separate_blocks(self, blocks, sample_rate, peak, masked=True):
        """Blocks `[1, n]` of a recording, any n, whose loudest sample is `peak` -> its talkers, blocks `[S, m]`.

        In all as many samples as came, at their `sample_rate`; memory does not grow with them where the codec can be
        streamed. `masked` as above. Raises UserError for near-silence.
        """
        if peak < QUIET:
            raise UserError("near-silent (peak under -60 dBFS): nobody to take apart")
        masked = masked and self.in_embedding
        there = Resampler(sample_rate, self.sample_rate)
        back = Resampler(self.sample_rate if masked else self._rate_out, sample_rate)
        count = given = 0

        def arriving():
            nonlocal count
            for block in blocks:
                count += block.shape[-1]
                yield there.push(block)
            yield there.push(torch.zeros(1, 0), last=True)

        mix, heard = itertools.tee(arriving()) if masked else (arriving(), None)
        window, overlap = (round(s * self.sample_rate / self.step) * self.step for s in (WINDOW, OVERLAP))
        voices = self._voices(windows(mix, window, window - overlap), overlap, peak)
        for piece in self._masked(voices, heard, peak) if masked else voices:
            piece = back.push(piece.cpu())[:, : count - given]  # the codec's last frame may be longer
            given += piece.shape[-1]
            yield piece
        rest = back.push(torch.zeros(self.n_src, 0), last=True)[:, : count - given]
        yield torch.nn.functional.pad(rest, (0, count - given - rest.shape[-1]))

    @property
    def _rate_out(self):
        return self.coder.model.sample_rate if self.in_embedding else self.sample_rate

    def _voices(self, pieces, overlap, peak):
        """Windows `[1, n]` that share `overlap` samples -> blocks `[S, m]` at `_rate_out`."""
        if not self.in_embedding:
            yield from (x[:, 0] for x in joined(map(self._of_waveform, pieces), overlap))
            return
        codec = self.coder.model
        scale = 0.95 / peak if self.frozen.normalise == "peak" else 1.0
        frames = overlap * codec.sample_rate // (self.sample_rate * codec.hop_length)
        z = joined((self._of_embedding(scale * wav) for wav in pieces), frames)
        yield from (wav[:, 0].float() / scale for wav in self._decoded(z))

    def masks(self, peak):
        """What masks a recording whose loudest sample is `peak`."""
        return Masks(self.sample_rate, self.system.refiner, peak)

    def _masked(self, voices, heard, peak):
        """Blocks `heard` of the recording, `[1, n]`, masked by `voices`, `[S, n]` at `_rate_out`: blocks `[S, m]`."""
        masks, at_mix = self.masks(peak), Resampler(self._rate_out, self.sample_rate)
        mix = torch.zeros(1, 0)
        for piece, last in with_last(voices):
            piece = at_mix.push(piece.cpu(), last)
            while mix.shape[1] < piece.shape[1] and (block := next(heard, None)) is not None:
                mix = torch.cat([mix, block], 1)
            n = min(piece.shape[1], mix.shape[1])  # the codec's last frame may be longer
            yield masks.push(mix[:, :n], piece[:, :n], last)
            mix = mix[:, n:]

    def _of_waveform(self, wav):
        batch = {"mix": wav[None].to(self.device), "lengths": torch.tensor([wav.shape[-1]], device=self.device)}
        return self.system({**batch, "sources": None}).estimates[0].unsqueeze(1)

    def _of_embedding(self, wav):
        z = self.frozen.encode(wav[None].to(self.device))
        return self.system.separator(z)[0]

    def _decoded(self, blocks):
        """Embeddings `[S, D, t]` in blocks -> waveforms `[S, 1, n]`; as one where the codec cannot be streamed."""
        codec = self.coder.model
        try:
            side = codec.no_side(torch.zeros(self.n_src, self.frozen.latent_dim, 1, device=self.device))
            pushed = Pushed(codec, lambda z: codec.synthesise(z, side))
        except UserError:
            yield codec.synthesise(torch.cat(list(blocks), -1), {})
            return
        size, last = round(BLOCK * codec.frame_rate), None
        for block in blocks:
            for piece in block.split(size, -1) if block.shape[-1] else ():
                if last is not None:
                    yield pushed.push(last)
                last = piece
        yield pushed.push(last, last=True)


def with_last(blocks):
    """Each of `blocks`, and whether it is the last."""
    blocks = iter(blocks)
    held = next(blocks)
    for block in blocks:
        yield held, False
        held = block
    yield held, True


def windows(blocks, length, hop):
    """Blocks `[..., n]` -> windows of `length` samples, `hop` after each other; the last has what is left, which is
    more than two windows share."""
    held = None
    for block in blocks:
        held = block if held is None else torch.cat([held, block], -1)
        while held.shape[-1] > length:
            yield held[..., :length]
            held = held[..., hop:]
    yield held


def joined(estimates, overlap):
    """Windows of estimates `[S, C, n]`, each of which shares `overlap` with the one before, as one signal, in blocks.

    Each window's sources are put in the order in which they are nearest, there, to those before, and faded in.
    """
    held = None
    for x in estimates:
        if held is not None:
            n = held.shape[-1]
            cost = -(x[..., :n].flatten(1) @ held.flatten(1).T)  # the squared norms are the same in every order
            x = ordered(x[None], best_order(cost[None]))[0]
            fade = (torch.arange(n, device=x.device) + 1) / (n + 1)
            x = torch.cat([held * (1 - fade) + x[..., :n] * fade, x[..., n:]], -1)
        yield x[..., :-overlap]
        held = x[..., -overlap:]
    yield held


def separate_file(unmixer, source, targets, masked=True):
    """Write the talkers of recording `source` to 16-bit WAV files `targets`, one path each, at its rate and length.

    `masked`: as in `Unmixer.separate`. Returns (seconds, sample_rate). Raises UserError naming the file; then nothing
    is written.
    """
    rate, _, blocks = audio_blocks(source, BLOCK)
    peak = max(block.abs().max().item() for block in blocks)
    _, length, blocks = audio_blocks(source, BLOCK)
    with contextlib.ExitStack() as stack:
        files = []
        for target in targets:
            partial = stack.enter_context(atomic_path(Path(target)))
            shape = {"samplerate": rate, "channels": 1, "subtype": "PCM_16", "format": "WAV"}
            files.append(stack.enter_context(soundfile.SoundFile(partial, "w", **shape)))
        count = 0
        for voices in unmixer.separate_blocks(blocks, rate, peak, masked):
            count += voices.shape[-1]
            for file, voice in zip(files, voices, strict=True):
                file.write(pcm16(voice))
    return count / rate, rate
