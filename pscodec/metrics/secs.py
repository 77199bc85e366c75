"""SECS, speaker embedding cosine similarity."""

import torch

from pscodec.features import FBank
from pscodec.metrics.base import voices


def secs(ref, hyp, sample_rate, embed):
    """Cosine, -1 to 1, of the speaker embeddings of `ref` `[L]` and `hyp` `[L]`, higher is more alike.

    `embed` maps FBanks `[B, 80, F]` (16 kHz, the whole utterance at its true length) to embeddings `[B, D]`: CAM++
    in the paper. A codec that is conditioned on the same network's embedding has an advantage in this number that
    other codecs do not have. The two need not say the same. Raises MetricError for silence and below 0.5 s.
    """
    both = voices(ref, hyp, sample_rate, 16000)
    with torch.inference_mode():
        first, second = (embed(FBank()(torch.from_numpy(wav).float()[None])[None]) for wav in both)
        return float(torch.nn.functional.cosine_similarity(first, second)[0])
