"""Speaker similarity by a network that no codec here is conditioned on: GE2E (Wan et al., ICASSP 2018)."""

import functools
import io

import numpy as np
import torch
from torch import nn

from pscodec.metrics.base import voices
from pscodec.metrics.mel import slaney_mel
from pscodec.utils.packages import find, published

RATE = 16000
WEIGHTS = "resemblyzer/pretrained.pt"
SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
FRAMES, STEP = 160, 77  # of a window, 1.6 s; from one to the next
COVERED = 0.75  # what the last window must hold, unless it is alone
LOUDNESS = 10 ** (-30 / 20)  # root mean square that softer signals are raised to


def missing():
    """What must be installed, in one line, or None."""
    if find(WEIGHTS) is None:
        return "Resemblyzer is not installed; pip install --no-deps Resemblyzer==0.1.4 brings the weights"
    return None


class Ge2e(nn.Module):
    """The encoder whose weights come in the PyPI package Resemblyzer (Apache-2.0), three LSTM layers on Mel windows.

    Only the file of its weights is used, and nothing of it unpickled: its Python asks for librosa, a build of
    webrtcvad and a module that SciPy is about to drop. Embeddings are those of its `embed_utterance`, of signals as
    loud as it makes them, but with their pauses, which it leaves out: a codec must not move what is compared.
    Raises UserError for other weights.
    """

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        data = io.BytesIO(published([WEIGHTS], SHA256, "the weights of GE2E"))
        state = torch.load(data, map_location="cpu", weights_only=True)["model_state"]
        own = self.state_dict().keys()  # beside the two numbers of the training loss
        self.load_state_dict({name: value for name, value in state.items() if name in own})
        self.eval()

    def forward(self, mels):
        """Mel windows `[B, 160, 40]` -> embeddings `[B, 256]` of norm 1."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)

    @torch.inference_mode()
    def embed(self, wav):
        """Embedding `[256]` of `wav` `[L]` (float64, 16 kHz)."""
        wav = wav * max(1.0, LOUDNESS / np.sqrt(np.mean(wav**2)))
        hop = RATE // 100
        starts = windows(len(wav))
        wav = np.pad(wav, (0, max(0, (starts[-1] + FRAMES) * hop - len(wav))))
        mel = slaney_mel(wav, 400, hop, 400, 40, RATE, power=2).T.astype(np.float32)
        embeddings = self(torch.from_numpy(np.stack([mel[start : start + FRAMES] for start in starts])))
        return nn.functional.normalize(embeddings.mean(0), dim=0)

    def similarity(self, ref, hyp, sample_rate):
        """Cosine, 0 to 1, of the embeddings of `ref` `[L]` and `hyp` `[L]`, higher is more alike.

        Raises MetricError for silence and below 0.5 s."""
        first, second = (self.embed(wav) for wav in voices(ref, hyp, sample_rate, RATE))
        return float(first @ second)


@functools.lru_cache(maxsize=64)
def windows(n_samples):
    """Where the windows of a signal begin, in frames."""
    hop = RATE // 100
    frames = -(-(n_samples + 1) // hop)
    starts = list(range(0, max(1, frames - FRAMES + STEP + 1), STEP))
    if len(starts) > 1 and (n_samples - starts[-1] * hop) / (FRAMES * hop) < COVERED:
        starts.pop()
    return starts
