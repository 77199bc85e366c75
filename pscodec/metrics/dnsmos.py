"""DNSMOS P.835 and P.808 (Reddy et al., ICASSP 2021 and 2022): opinion scores without a reference."""

import numpy as np

from pscodec.metrics.base import resample, signal
from pscodec.metrics.mel import slaney_mel
from pscodec.utils.packages import find

RATE = 16000
WINDOW = 144160  # 9.01 s
# raw network output -> opinion score; the polynomials of the DNS challenge's evaluation (not the personalised ones)
CURVES = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


class Dnsmos:
    """The ONNX networks that come inside the PyPI package `speechmos`, run by onnxruntime on one thread.

    Only the package's model files are used: its Python needs librosa and pandas, which it does not ask for.
    Build one object a process. Raises ImportError where `speechmos` or onnxruntime is missing.
    """

    def __init__(self):
        import onnxruntime

        models = find("speechmos/dnsmos_models")
        if models is None:
            raise ImportError("speechmos is not installed")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3

        def load(name):
            return onnxruntime.InferenceSession(str(models / name), options, providers=["CPUExecutionProvider"])

        self.p835, self.p808 = load("sig_bak_ovr.onnx"), load("model_v8.onnx")

    def __call__(self, hyp, sample_rate):
        """Scores of `hyp` `[L]`, 1 to 5, higher is better: `{"ovrl", "sig", "bak", "p808"}`.

        At 16 kHz, over windows of 9.01 s every second, averaged; what is shorter is repeated (doubled until long
        enough), as the challenge's script does. Raises MetricError for silence.
        """
        wav = np.clip(resample(signal(hyp), sample_rate, RATE), -1.0, 1.0)
        while len(wav) < WINDOW:
            wav = np.concatenate([wav, wav])
        count = int(len(wav) // RATE - WINDOW / RATE) + 1
        raw, p808 = [], []
        for start in range(0, count * RATE, RATE):
            piece = wav[start : start + WINDOW]
            raw.append(self.p835.run(None, {"input_1": piece[None].astype(np.float32)})[0][0])
            p808.append(self.p808.run(None, {"input_1": _p808_input(piece[:-160])})[0][0][0])
        sig, bak, ovrl = np.asarray(raw, dtype=np.float64).T
        scores = {"sig": sig, "bak": bak, "ovrl": ovrl}
        scores = {name: float(np.polyval(CURVES[name], value).mean()) for name, value in scores.items()}
        return {**scores, "p808": float(np.mean(p808))}


def _p808_input(wav):
    """Log-Mel `[1, F, 120]` of `wav` `[L]`: dB below the loudest, at most 80 down, laid on -1 .. 1."""
    mel = slaney_mel(wav, 321, 160, 321, 120, RATE, power=2)
    level = 10 * np.log10(np.maximum(mel, 1e-10))
    level = np.maximum(level - level.max(), -80.0)
    return ((level + 40) / 40).T[None].astype(np.float32)
