"""Recordings in chunks that overlap: each is coded apart, at a level of its own, and they are faded into one another.

Source: Defossez et al., EnCodec (2022), section 3.1, of the model that is not causal. Chunks of a codec (models.base,
`chunk` and `overlap`) have `chunk` samples, the last one fewer; each begins `overlap` before the one before it ends.
The authors' code sends one chunk more where the last would hold nothing but an overlap; here it is left out.
"""

import itertools

import torch
import torch.nn.functional as F

TOGETHER = 8  # chunks computed at once: LSTM layers go through them side by side; more cost memory and gain little


def cut(blocks, chunk, overlap):
    """Blocks `[C, n]` of any n, an iterable -> a generator of chunks `[C, chunk]`, of which the last may be shorter."""
    held = None
    for block in blocks:
        held = block if held is None else torch.cat([held, block], -1)
        while held.shape[-1] > chunk:  # what follows a chunk is more than its overlap, or nothing
            yield held[:, :chunk]
            held = held[:, chunk - overlap :]
    if held is not None and held.shape[-1]:
        yield held


def join(chunks, overlap):
    """The inverse of `cut`: chunks, an iterable -> a generator of the signal, as it is finished.

    Over the n samples of an overlap the weight of the later chunk rises evenly, 1 / (n + 1) to n / (n + 1), as with the
    authors' triangular windows.
    """
    rise, tail = torch.arange(1, overlap + 1) / (overlap + 1), None
    for chunk in chunks:
        chunk = F.pad(chunk, (0, max(0, overlap - chunk.shape[-1])))
        if tail is not None:
            faded = tail * (1 - rise) + chunk[:, :overlap] * rise
            chunk = torch.cat([faded, chunk[:, overlap:]], -1)
        stop = chunk.shape[-1] - overlap
        yield chunk[:, :stop]
        tail = chunk[:, stop:]
    if tail is not None:
        yield tail


@torch.inference_mode()
def encode_chunks(model, chunks):
    """Chunks `[C, n]` at the codec's rate, an iterable -> a generator of (chunk, codes `[K, t]` numpy, scale float)."""
    device = next(model.parameters()).device
    for group in _alike(chunks, lambda chunk: chunk.shape[-1]):
        wav = torch.stack(group).to(device)
        level = model.level(wav)
        codes = model.encode(wav / level).cpu().numpy()
        yield from zip(group, codes, level.flatten().tolist(), strict=True)


@torch.inference_mode()
def decode_chunks(model, sent, side):
    """(codes `[1, K, t]`, scale) of each chunk, an iterable -> a generator of chunks `[C, n]` float32, on the CPU.

    `side`: `model.side(prompt)`, {} for none. A scale of None (the packet is lost) is silence.
    """
    for group in _alike(sent, lambda pair: pair[0].shape[-1]):
        codes, scales = torch.cat([codes for codes, _ in group]), [scale or 0.0 for _, scale in group]
        sides = {name: value.expand(len(group), *value.shape[1:]) for name, value in side.items()}
        wavs = model.decode(codes, sides).float().cpu()
        yield from wavs * torch.tensor(scales)[:, None, None]


def _alike(items, kind):
    """Neighbours that agree in `kind`, TOGETHER at most, as lists."""
    for _, group in itertools.groupby(items, kind):
        while found := list(itertools.islice(group, TOGETHER)):
            yield found
