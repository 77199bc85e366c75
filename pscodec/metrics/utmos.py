"""UTMOS (Saeki et al., Interspeech 2022): a learned opinion score, with weights of the user's own."""

import torch

from pscodec.metrics.base import MetricError, resample, signal
from pscodec.utils.errors import UserError


class Utmos:
    """A TorchScript export of a UTMOS predictor: float32 `[1, L]` at 16 kHz in, one number out.

    No weights come with this toolkit. TorchScript is asked for because it is a whole model in one file that runs
    without importing anyone's code and is read without unpickling Python objects. `utmos_scripted.pt` of UTMOS-PyTorch
    (MIT) is one; `torch.jit.save(torch.jit.script(model), FILE)` writes one. Raises UserError for another file.
    """

    def __init__(self, path):
        try:
            self.model = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError):
            raise UserError(f"{path}: not a TorchScript model (UTMOS is read from one; see torch.jit.save)") from None

    def __call__(self, hyp, sample_rate):
        """Score of `hyp` `[L]`, 1 to 5, higher is better. Raises MetricError for silence and where the model fails."""
        wav = torch.from_numpy(resample(signal(hyp), sample_rate, 16000)).float()
        try:
            with torch.inference_mode():
                return float(self.model(wav[None]).reshape(-1).item())
        except RuntimeError as error:
            raise MetricError(f"the UTMOS model failed: {str(error).strip().splitlines()[-1][:80]}") from None
