"""Audio in and out, through soundfile only: float32 tensors on one side, files on the other."""

import io
import math
import os
import subprocess

import soundfile
import torch
import torchaudio

from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".rf64", ".caf", ".sph"}
MOST_TAPS = 30_000_000  # numbers in a resampling filter, about 0.5 GB while it is made
LOUDEST = 8.0  # a float file may pass 1.0 a little; beyond this its samples are not scaled to [-1, 1] at all


class Pipe(str):
    """A path that is a shell command, `cmd |`, writing a recording to its output. Only what is marked so is run."""


def load_audio(path, sample_rate=None, start=0.0, end=None, channels=1):
    """Read a recording, or `start` to `end` seconds of it, as `(wav, sample_rate)`: `[channels, L]` float32 in [-1, 1].

    Of its channels `to_channels` makes those that are asked for. With `sample_rate` (Hz) the signal is resampled to it
    (see `resample`), else it comes at its own rate. Only the asked stretch is read; `end` past the end of the file
    means the end. Samples of float files beyond full scale are clipped. Silence and short stretches are allowed.

    A `Pipe`, which comes from `read_data_dir(..., allow_pipes=True)` alone, is run each time.

    Raises UserError naming the file: missing, not audio, empty (in that stretch), with NaN or infinite samples,
    with samples that are not scaled to [-1, 1], or as `to_channels`.
    """
    if not 0.0 <= start < math.inf or (end is not None and not end > start):
        raise UserError(f"{path}: no such stretch, from {start} to {end} seconds")
    source = _run_pipe(path) if isinstance(path, Pipe) else _existing(path)
    try:
        with soundfile.SoundFile(source) as file:
            native, frames = file.samplerate, file.frames
            first = round(start * native)
            last = frames if end is None else min(round(end * native), frames)
            if last <= first:
                nothing = f"no audio after {start} s (it has {frames / native:.3f} s)"
                raise UserError(f"{path}: {nothing if frames else 'empty audio file'}")
            file.seek(first)
            samples = file.read(last - first, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise _unreadable(path, error) from None
    if len(samples) == 0:
        raise UserError(f"{path}: no audio where its header promises some (truncated file?)")
    wav = _as_asked(samples, channels, path)
    if sample_rate is not None and sample_rate != native:
        wav, native = resample(wav, native, sample_rate), sample_rate
    return wav.clamp_(-1.0, 1.0), native


def _as_asked(samples, channels, path):
    """What soundfile read, `[n, C]` -> `[channels, n]`, looked over."""
    wav = to_channels(torch.from_numpy(samples.T), channels, f"{path}: ")
    check_samples(wav, f"{path}: ")
    return wav


def to_channels(wav, channels, where=""):
    """`wav` `[C, L]` -> `[channels, L]`, contiguous: averaged to one, or one channel repeated.

    Raises UserError, in a line that begins with `where`, for other numbers of channels."""
    if channels == 1:
        return wav.mean(0, keepdim=True)
    if len(wav) not in (1, channels):
        raise UserError(f"{where}{len(wav)} channels; 1 or {channels} were expected")
    return wav.expand(channels, -1).contiguous()


def check_samples(wav, where=""):
    """Raise UserError, in a line that begins with `where`, for samples that no recording in [-1, 1] has."""
    loudest = wav.abs().max() if wav.numel() else torch.zeros(())
    if not torch.isfinite(loudest):
        raise UserError(f"{where}NaN or infinite samples")
    if loudest > LOUDEST:
        raise UserError(f"{where}samples up to {loudest:.0f}, not scaled to [-1, 1]")


def as_wav(wav):
    """What users call a recording (array, tensor or list of numbers, `[L]` or `[C, L]`, floats in [-1, 1] or int16) ->
    float32 `[C, L]` on the CPU, clipped to [-1, 1]. Raises UserError in one line for what is none."""
    wav = torch.as_tensor(wav).detach().cpu()
    if wav.dtype == torch.int16:
        wav = wav / 32768
    elif not wav.is_floating_point():
        raise UserError(f"samples are floats in [-1, 1] or int16, not {str(wav.dtype).removeprefix('torch.')}")
    wav = wav.float()
    wav = wav[None] if wav.dim() == 1 else wav
    if wav.dim() != 2:
        raise UserError(f"a recording is [L] or [channels, L], not {list(wav.shape)}")
    if wav.shape[-1] == 0:
        raise UserError("an empty recording")
    if len(wav) > wav.shape[-1]:
        raise UserError(f"a recording is [channels, L]; {list(wav.shape)} has more channels than samples")
    check_samples(wav)
    return wav.clamp(-1, 1)


def audio_blocks(path, seconds=10.0, file=None, channels=1):
    """A recording piece by piece: `(sample_rate, n_samples, blocks)`, the blocks an iterator of `[channels, n]` as
    `load_audio` reads them. `file`: it, open, if `path` is but a name. Raises UserError as `load_audio` does."""
    try:
        opened = soundfile.SoundFile(_existing(path) if file is None else file)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise _unreadable(path, error) from None

    def blocks():
        count = 0
        with opened:
            while True:
                try:
                    samples = opened.read(max(1, round(seconds * opened.samplerate)), "float32", always_2d=True)
                except (soundfile.SoundFileError, RuntimeError, MemoryError) as error:
                    raise _unreadable(path, error) from None
                if len(samples) == 0:
                    break
                count += len(samples)
                yield _as_asked(samples, channels, path).clamp_(-1.0, 1.0)
        if count == 0:
            raise UserError(f"{path}: empty audio file")

    return opened.samplerate, opened.frames, blocks()


def recording_seconds(path):
    """Length of a recording in seconds, from its header. Raises UserError naming the file."""
    if isinstance(path, Pipe):
        raise UserError(f"{path}: the length of a pipe is not known beforehand; add utt2dur to the data folder")
    try:
        info = soundfile.info(_existing(path))
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise _unreadable(path, error) from None
    return info.frames / info.samplerate


def _unreadable(path, error):
    return UserError(f"{path}: not readable as audio ({' '.join(str(error).split())})")


def _existing(path):
    if not os.path.exists(path):
        raise UserError(f"{path}: no such audio file")
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder, not an audio file")
    return os.fspath(path)


def _run_pipe(path):
    command = str(path).rstrip().rstrip("|")
    done = subprocess.run(command, shell=True, capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        why = (done.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{path}: the command failed with status {done.returncode} ({why})")
    return io.BytesIO(done.stdout)


def save_audio(path, wav, sample_rate):
    """Write `wav`, `[C, L]` or `[L]`, to a 16-bit WAV file, atomically; samples are clipped to [-1, 1].

    Raises UserError for NaN or infinite samples and for what is no recording.
    """
    samples = torch.as_tensor(wav).detach().float().cpu()
    samples = samples[None] if samples.dim() == 1 else samples
    if samples.dim() != 2 or not 1 <= len(samples) <= max(1, min(255, samples.shape[-1])):
        raise UserError(f"{path}: expected a recording, [C, L] or [L], got {list(samples.shape)}")
    if not torch.isfinite(samples).all():
        raise UserError(f"{path}: NaN or infinite samples are not written")
    with atomic_path(path) as partial:
        soundfile.write(partial, pcm16(samples).T, sample_rate, subtype="PCM_16", format="WAV")


def pcm16(wav):
    """`wav` as int16, a numpy array of its shape, clipped to [-1, 1].

    Scaled and rounded here: libsndfile's own conversion from float truncates in some formats and versions.
    """
    return (wav.clamp(-1.0, 1.0) * 32768.0).round().clamp(-32768, 32767).to(torch.int16).numpy()


def resample(wav, orig, new):
    """Resample `wav` `[..., L]` from `orig` to `new` Hz: `[..., ceil(L * new / orig)]`.

    torchaudio.functional.resample with its defaults: windowed-sinc (Hann, 6 zero crossings, roll-off 0.99).
    Raises UserError for rates that no speech has, and for pairs without a ratio of small numbers: their filters would
    fill the memory.
    """
    if orig == new:
        return wav
    common = math.gcd(orig, new)
    if not all(1000 <= rate <= 1_000_000 for rate in (orig, new)) or orig * new // common**2 > MOST_TAPS:
        raise UserError(f"cannot resample from {orig} to {new} Hz")
    return torchaudio.functional.resample(wav, orig, new)


class Resampler:
    """`resample` for a signal that comes piece by piece: all told the same samples, up to rounding."""

    def __init__(self, orig, new):
        common = math.gcd(orig, new)
        self.orig, self.new, self.rates = orig // common, new // common, (orig, new)
        reach = math.ceil(6 * orig / (0.99 * min(orig, new))) + 1  # of the filter, to either side
        self.context = -(-reach // self.orig) * self.orig
        self.held, self.skip = None, 0

    def push(self, wav, last=False):
        """The next `wav` `[..., n]`, any n -> the samples that it completes; with `last` nothing follows."""
        if self.orig == self.new:
            return wav
        wav = wav if self.held is None else torch.cat([self.held, wav], -1)
        n = wav.shape[-1] if last else (wav.shape[-1] - self.context) // self.orig * self.orig  # known to the filter
        if n <= self.skip:
            self.held = wav
            return wav[..., :0]
        stop = None if last else n * self.new // self.orig
        y = resample(wav, *self.rates)[..., self.skip * self.new // self.orig : stop]
        start = max(0, n - self.context)
        self.held, self.skip = wav[..., start:].clone(), n - start
        return y


def silence(wav, at, lost, fade):
    """`wav` `[C, n]`, samples from `at` on of a signal, silent in its stretches `lost` (pairs of samples), which fade
    out and in over `fade` samples within them."""
    for start, stop in lost:
        a, b = max(start, at), min(stop, at + wav.shape[-1])
        if a < b:
            t = torch.arange(a, b, device=wav.device)
            depth = torch.minimum(t - start, stop - 1 - t) + 1
            wav[:, a - at : b - at] *= (1 - depth / fade).clamp(min=0)
    return wav
