"""A trained codec in use: an experiment folder becomes something that codes speech.

    codec = pscodec.load_codec("exp/pscodec_frames_mini")
    stream = codec.encode(wav, sample_rate, prompt="alice.wav")
    wav = codec.decode(stream)

pscodec/files.py does the same with files of any length.
"""

import hashlib
import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pscodec import released
from pscodec.bitstream import MOST_PAYLOAD, MOST_SECONDS, Header, Stream, read, write
from pscodec.data.audio import as_wav, load_audio, resample, to_channels
from pscodec.entropy.find import Languages
from pscodec.features import FBank, LogMel
from pscodec.models.optimise import optimise
from pscodec.pieces import Pieces
from pscodec.profile import Profile, Tokens, Vector, find_profile
from pscodec.search import Search
from pscodec.side_tokens import FILE, SideTokens
from pscodec.types import Prompt
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only, plain
from pscodec.utils.weights import load_weights

PROMPT = 30.0  # seconds of a prompt that are looked at: attention over hours would take them
OWN = object()  # as a prompt: the recording itself


def load_codec(
    exp=released.DEFAULT,
    which="best",
    device="cpu",
    precision: str | None = "fp32",
    n_q: int | None = None,
    entropy=None,
    packet: float | None = None,
    sampling: dict | None = None,
    vectors: bool = False,
    search: int = 0,
) -> "Coder":
    """The `Coder` of experiment folder `exp`, of its `best` (lowest validation score) or `last` checkpoint; or of a
    released codec, by name (`pscodec_small_24k_v2`, the default, comes with the package).

    Builds the codec alone: no discriminators, no optimizers, no training data. `precision`: `fp32`, `bf16`, or `auto`,
    bf16 where `device` computes it natively; then it is made for use (models/optimise), neither to train nor to save.
    None leaves it as in training, and gradients pass. `n_q`: codebooks to code with, of a codec trained for
    several numbers (`model.quantizer.n_q` changes it later); streams of any number are decoded in any case. `entropy`:
    the language model that packets of `packet` seconds (1; a codec of chunks has its own) are coded with, its file or
    folder, or `auto`, the one in `exp`; None codes them plainly, and finds those in `exp` all the same to decode with.
    `sampling`: how a codec that generates what it decodes is to do so, where not as it is configured
    (models.sampling.Sampling). `vectors`: send prompts as vectors of 8-bit numbers, even where `exp` has codebooks that
    make few tokens of them (side_tokens). `search`: steps of a search for better codes than the encoder's
    (search.Search), tens of times slower. Raises UserError in one line.
    """
    exp = released.folder(exp)
    if not (exp / "hyperparams.yaml").is_file():
        known = ", ".join(released.names())
        raise UserError(f"{exp}: no hyperparams.yaml, so not an experiment; nor a released codec ({known})")
    text = (exp / "hyperparams.yaml").read_text(encoding="utf-8")
    model = build_only(text, "codec")
    meta = load_weights(exp, {"codec": model}, which)
    codes_of = plain(text).get("codes_of")  # where a decoder has learned another experiment's codes
    fingerprint = bytes.fromhex(codes_of) if codes_of else _fingerprint(model)
    if packet is not None and not 0 < packet < math.inf:
        raise UserError(f"a packet cannot have {packet:g} s")
    if packet is not None and model.chunk:
        seconds = (model.chunk - model.overlap) / model.sample_rate
        raise UserError(f"{exp}: its packets are its chunks, one every {seconds:g} s; none of {packet:g} s")
    if n_q is not None:
        try:
            model.quantizer.n_q = n_q
        except ValueError as error:
            raise UserError(f"{exp}: cannot code with {error}") from None
    if sampling:
        _set_sampling(model, exp, sampling)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that there is none
        raise UserError(f"device {device}: {str(error).splitlines()[0]}") from None
    model.eval()
    languages = Languages(exp, fingerprint, model, entropy)
    search = Search(model, search) if search else None
    model = optimise(model, precision) if precision else model
    tokens = SideTokens.load(exp / FILE)
    return Coder(model, meta, exp.resolve().name, fingerprint, languages, packet, tokens, vectors, search)


def _set_sampling(model, exp, sampling):
    if model.sampling is None:
        raise UserError(f"{exp}: this codec leaves nothing to chance when it decodes, so it has no {min(sampling)}")
    try:
        model.sampling = replace(model.sampling, **sampling)
    except ValueError as error:
        raise UserError(str(error)) from None


class Coder(Pieces):
    """Wraps a `Codec` for recordings. `meta` says which checkpoint it is (step, score), `name` is for people,
    `languages` (entropy.find.Languages) has the language models for it, `packet` is the seconds of a packet, `tokens`
    (side_tokens.SideTokens) has the codebooks of what it sends of a prompt, which with `vectors` are only read by,
    `search` (search.Search) finds its codes in the place of the encoder."""

    def __init__(
        self,
        model,
        meta=None,
        name="",
        fingerprint=None,
        languages=None,
        packet=None,
        tokens=None,
        vectors=False,
        search=None,
    ):
        super().__init__(model, search)
        self.meta, self.name = meta or {}, name
        self.tokens, self.vectors = tokens or SideTokens(), vectors
        self.languages, self.packet = languages or Languages(), packet or 1.0
        self.fingerprint = fingerprint or _fingerprint(model)
        self.bits = max(1, math.ceil(math.log2(model.codebook_size)))

    # ---- the speaker

    def prompt(self, wav, sample_rate: int) -> Prompt:
        """What the model sees of an utterance `wav` (see `encode`), of its first 30 s. Raises UserError below 25 ms."""
        wav, sees = _mono(wav)[:, : round(PROMPT * sample_rate)], self.model.sees
        if wav.shape[-1] < 0.025 * sample_rate and {"voiceprint", "mel"} & set(sees):
            raise UserError("a prompt must be at least 25 ms long")
        at_codec, prompt = resample(wav, sample_rate, self.model.sample_rate), Prompt()
        if "voiceprint" in sees:
            prompt.fbank = FBank()(resample(wav, sample_rate, FBank.sample_rate))[None]
        if "mel" in sees:
            prompt.mel = LogMel(self.model.sample_rate)(at_codec)
        if "wav" in sees:
            prompt.wav = self.model.pad(at_codec[None])
        return prompt

    @torch.inference_mode()
    def enroll(self, *prompts) -> Profile:
        """A speaker's `profile.Profile`: the mean of the vectors of `prompts`, each as in `encode`, quantized."""
        if not self.model.takes_prompt:
            raise UserError(f"{self._this} takes no prompt, so it has no speaker profiles")
        recordings = [load_audio(p) if isinstance(p, str | Path) else p for p in prompts]
        sides = [self.sent(p) for p in recordings]
        if len(sides) > 1 and any(self.model.side_sizes.values()):
            raise UserError(f"{self._this} sends tokens of a speaker, which have no mean: enroll one recording")
        means = (
            {name: torch.stack([side[name] for side in sides]).mean(0) for name in sides[0]} if sides[1:] else sides[0]
        )
        seconds = sum(_mono(p[0]).shape[-1] / p[1] for p in recordings if isinstance(p, tuple))
        return Profile(self._packed(means), self.fingerprint, self.name, len(prompts), seconds)

    @torch.inference_mode()
    def sent(self, prompt):
        """The model's side information, name -> float32 `[D]` or int64 `[N]`, of a Prompt, a path or (wav, rate)."""
        if isinstance(prompt, str | Path):
            prompt = load_audio(prompt)
        if not isinstance(prompt, Prompt):
            prompt = self.prompt(*prompt)
        side = self.model.side(prompt.to(self.device))
        return {k: (z.flatten() if self.model.side_sizes[k] else z.flatten().float()).cpu() for k, z in side.items()}

    def _packed(self, side):
        """`sent`'s, as a profile holds it: name -> profile.Vector or Tokens."""
        sizes = self.model.side_sizes
        return {k: Tokens(z.numpy(), sizes[k]) if sizes[k] else Vector.of(z.numpy()) for k, z in side.items()}

    @torch.inference_mode()
    def header(self, prompt, n_samples: int | None = None) -> Header:
        """The `bitstream.Header` of a stream of this model, with a prompt as in `encode`, but for OWN."""
        side, profile = {}, None
        if isinstance(prompt, Profile):
            self._check_model(prompt, "enrolled")
            profile = prompt.hash
        elif prompt is not None and self.model.sees:
            sent = self.sent(prompt)
            tokens = {} if self.vectors else {name: self.tokens.pack(name, z.numpy()) for name, z in sent.items()}
            side = dict(tokens.get(name) or (name, z) for name, z in self._packed(sent).items())
        packet, entropy = self._packet, self.languages.chosen
        room = min(8 * MOST_PAYLOAD // (self.model.n_q * self.bits), int(MOST_SECONDS * self.model.frame_rate))
        if packet["frames_per_packet"] > room:
            seconds, most = (n / self.model.frame_rate for n in (packet["frames_per_packet"], room))
            raise UserError(f"packets of {seconds:g} s; of this codec they hold {most:g} s at most")
        if entropy and packet["frames_per_packet"] > entropy.shape.longest:
            seconds, most = (n / self.model.frame_rate for n in (packet["frames_per_packet"], entropy.shape.longest))
            raise UserError(f"packets of {seconds:g} s; this language model has learned {most:g} s at most")
        return Header(
            *self._shape(self.model.n_q),
            self.fingerprint,
            self.name,
            side,
            profile,
            n_samples=n_samples,
            entropy=entropy and entropy.fingerprint,
            **packet,
        )

    def entropy(self, header: Header):
        """The entropy coder of streams with this header (bitstream.Writer and Reader want it), or None."""
        return self.languages.coder(header)

    def read(self, path) -> Stream:
        """`bitstream.read` of a file that may be entropy coded."""
        return read(path, self.entropy)

    def write(self, path, stream: Stream):
        """`bitstream.write` of what `encode` gave."""
        write(path, stream, self.entropy(stream.header))

    def side(self, header: Header, profiles=()) -> dict[str, torch.Tensor]:
        """What the decoder needs of the speaker, name -> `[1, D, N]` or tokens `[1, N]`, from a header and Profiles, or
        files and folders to look for one in. Raises UserError: another model's stream, a profile that is not there, a
        wrong shape."""
        self._check_model(header, "coded")
        n_q = header.n_q if header.n_q in self.model.quantizer.n_q_choices else self.model.n_q
        packet = self._packet if self.model.chunk else self._packet | {"frames_per_packet": header.frames_per_packet}
        other = any(getattr(header, name) != value for name, value in packet.items())
        if other or (header.sample_rate, header.hop_length, header.n_q, header.bits) != self._shape(n_q):
            raise UserError(f"malformed header: frames that are not those of {self._this}")
        side = header.side
        if header.profile is not None:
            known = [p for p in profiles if isinstance(p, Profile) and p.hash == header.profile]
            paths = [p for p in profiles if not isinstance(p, Profile)]
            profile = known[0] if known else find_profile(header.profile, paths)
            self._check_model(profile, "enrolled")
            side = profile.side
        entries, side = self.model.side_sizes, self.tokens.unpack(side)
        if unknown := [name for name, sent in side.items() if name not in entries and isinstance(sent, Tokens)]:
            raise UserError(f"tokens {unknown[0]}, whose codebook ({FILE}) does not lie beside {self._this}")
        wanted = {name: (z.numel(), entries[name]) for name, z in self.silent_side.items()} if side else {}
        if {name: (sent.size, getattr(sent, "entries", None)) for name, sent in side.items()} != wanted:
            raise UserError(f"malformed header: side information that is not that of {self._this}")
        side = {name: torch.from_numpy(sent.numbers())[None].to(self.device) for name, sent in side.items()}
        return {name: numbers.view_as(self.silent_side[name]) for name, numbers in side.items()}

    @cached_property
    def silent_side(self):
        """What `model.side` gives of a second of silence: what is sent, in its sizes."""
        if not self.model.sees:
            return {}
        with torch.inference_mode():
            return self.model.side(self.prompt(torch.zeros(1, 16000), 16000).to(self.device))

    def _shape(self, n_q):
        return self.model.sample_rate, self.model.hop_length, n_q, self.bits

    @property
    def _packet(self):
        """What its headers say of packets: `packet` seconds, or a chunk and its level."""
        m = self.model
        frames = m.chunk // m.hop_length or max(1, round(self.packet * m.frame_rate))
        samples = m.chunk - m.overlap or None
        return {
            "frames_per_packet": frames,
            "samples_per_packet": samples,
            "scaled": bool(m.chunk),
            "channels": m.channels,
        }

    def _check_model(self, thing, verb):
        if thing.fingerprint != self.fingerprint:
            theirs = f"{thing.model or 'a model without a name'} ({thing.fingerprint.hex()})"
            raise UserError(f"{verb} by model {theirs}; this is {self._this}")

    @property
    def _this(self):
        return f"{self.name or 'a model without a name'} ({self.fingerprint.hex()})"

    # ---- coding

    @torch.inference_mode()
    def encode(self, wav, sample_rate, prompt=OWN, channels="mix"):
        """A recording, or a list of them -> `bitstream.Stream`, or a list of those.

        `wav`: numpy array, tensor or list of numbers at `sample_rate` Hz (any), `[L]`, `[1, L]` or `[C, L]`; floats in
        [-1, 1], or int16. A list of these, or `[B, C, L]`, is a batch; lengths may differ, and each item is coded as
        if alone: only items of equally many frames are computed together, for a shorter one padded among longer ones
        would hear its padding through the biases of every layer.
        `channels`: `mix` averages them to mono, as reading a file does, or repeats the only one for a codec of several
        channels, which takes as many as it has; `split` codes each as a recording of its own and gives a list of `C`
        streams for each item, for channels that hold different speakers.
        `prompt`: of the speaker, (wav, sample rate), the path of a recording, a types.Prompt, or a Profile, to which
        the stream then refers by its hash; for a batch one for all or a list. OWN: each recording is its own prompt,
        by its first 30 s; None: nothing is sent of the speaker. Codecs without prompts pay no heed, nor do those that
        see the recording itself (`side_of`): what they send is always its own.
        Raises UserError: empty, NaN, not scaled to [-1, 1], too short to be a prompt, a profile of another model.
        """
        if channels not in ("mix", "split"):
            raise ValueError(f"channels is mix or split, not {channels!r}")
        batch = _is_batch(wav)
        items = [as_wav(w) for w in wav] if batch else [as_wav(wav)]
        prompts = prompt if isinstance(prompt, list) else [prompt] * len(items)
        if len(prompts) != len(items):
            raise ValueError(f"{len(prompts)} prompts for {len(items)} recordings")
        items = [[row[None] for row in item] if channels == "split" else [item] for item in items]
        items = [[to_channels(signal, self.model.channels) for signal in item] for item in items]
        if self.model.side_of == "self":
            prompt, prompts = OWN, [OWN] * len(items)
        shared = None if prompt is OWN or isinstance(prompt, list) else self.header(prompt)
        headers = [
            [shared or self.header((signal, sample_rate) if p is OWN else p) for signal in item]
            for item, p in zip(items, prompts, strict=True)
        ]
        signals = [resample(signal, sample_rate, self.model.sample_rate) for item in items for signal in item]
        profiles = [p for p in prompts if isinstance(p, Profile)]
        sides = [self.side(header, profiles) for item in headers for header in item] if self.search else None
        coded = zip(*self.codes_of(signals, sides), signals, strict=True)
        streams = [
            [
                Stream(header, codes, wav.shape[-1], scales=scales)
                for header, (codes, scales, wav) in zip(item, coded, strict=False)
            ]
            for item in headers
        ]
        streams = [item if channels == "split" else item[0] for item in streams]
        return streams if batch else streams[0]

    def decode(self, stream, profiles=()):
        """A `bitstream.Stream` -> `wav` `[C, n_samples]`, float32, at the codec's rate; a list -> a list.

        `profiles`: Profiles, or files and folders, among which those are that streams refer to. What a damaged file
        lost is silent here. Raises UserError for another model's stream and a profile that is missing.
        """
        streams = stream if isinstance(stream, list | tuple) else [stream]
        profiles = [profiles] if isinstance(profiles, str | Path | Profile) else profiles
        sides = [self.side(s.header, profiles) for s in streams]
        with torch.inference_mode():
            wavs = self.wavs_of(streams, sides)
        wavs = [wav.clone() for wav in wavs]  # tensors like any other
        return wavs if isinstance(stream, list | tuple) else wavs[0]


def _is_batch(wav):
    """Whether `wav` is several recordings: a list of anything but numbers, or `[B, C, L]`."""
    if isinstance(wav, list | tuple):
        return len(wav) == 0 or not isinstance(wav[0], int | float | np.number)
    return wav.ndim == 3


def _mono(wav):
    return as_wav(wav).mean(0, keepdim=True)


def _fingerprint(model):
    digest = hashlib.sha256()
    for name, value in sorted(model.coded_by.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()[:8]
