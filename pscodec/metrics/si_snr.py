"""SI-SNR, scale-invariant signal-to-noise ratio."""

import numpy as np

from pscodec.metrics.base import MetricError, pair


def si_snr(ref, hyp, sample_rate):
    """SI-SNR of `hyp` `[L]` against `ref` `[L]` in dB, at the rate they come in (the codec's), higher is better.

    Both means are removed; the target is the projection of `hyp` on `ref`, the noise is the rest, and
    SI-SNR = 10 log10(|target|^2 / |noise|^2) (Luo & Mesgarani, TASLP 2019, eq. 9). A copy would give infinity:
    the ratio is limited to +-100 dB, below what float32 audio carries. Raises MetricError for silence or a constant.
    """
    ref, hyp = pair(ref, hyp, sample_rate)
    ref, hyp = ref - ref.mean(), hyp - hyp.mean()
    energy = np.dot(ref, ref)
    if energy == 0 or np.dot(hyp, hyp) == 0:
        raise MetricError("a signal is constant")
    target = np.dot(hyp, ref) / energy * ref
    noise = hyp - target
    ratio = np.dot(target, target) / max(np.dot(noise, noise), 1e-300)
    return float(np.clip(10 * np.log10(max(ratio, 1e-300)), -100.0, 100.0))
