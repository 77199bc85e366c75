"""What separation is scored by: who is who, SI-SDR and SDR.

Sources: Le Roux et al., "SDR - half-baked or well done?" (ICASSP 2019); Vincent et al., "Performance measurement in
blind audio source separation" (TASLP 2006), as BSS Eval version 3 computes it. Shapes: S sources, L samples.
"""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.linalg import solve_toeplitz
from scipy.optimize import linear_sum_assignment

from pscodec.metrics.base import MetricError, pair
from pscodec.metrics.si_snr import si_snr

LIMIT = 100.0  # dB: below what float32 audio carries


def si_sdr(ref, hyp, sample_rate):
    """SI-SDR of `hyp` `[L]` against `ref` `[L]` in dB, means removed, as separation papers print it: SI-SNR."""
    return si_snr(ref, hyp, sample_rate)


def best_order(refs, hyps, measure=si_sdr, sample_rate=1):
    """Which of `hyps` `[S, L]` belongs to each of `refs` `[S, L]`, so that the sum of `measure` is largest: `[S]` ints.

    `measure(ref, hyp, sample_rate)` is SI-SDR, in dB, unless told; a pair that it is undefined for counts as the worst.
    """
    worth = np.full((len(refs), len(hyps)), -LIMIT)
    for i, ref in enumerate(refs):
        for j, hyp in enumerate(hyps):
            try:
                worth[i, j] = measure(ref, hyp, sample_rate)
            except MetricError:
                continue
    return linear_sum_assignment(worth, maximize=True)[1]


def si_sdr_improvement(mix, refs, hyps):
    """Mean over the sources of SI-SDR(`hyps`) - SI-SDR(`mix`), dB, in the best order; None where it is undefined.

    `mix` `[1, L]`, `refs` and `hyps` `[S, L]`, tensors.
    """
    mix, refs, hyps = (x.detach().float().cpu().numpy() for x in (mix, refs, hyps))
    gains = []
    for ref, j in zip(refs, best_order(refs, hyps), strict=True):
        try:
            gains.append(si_sdr(ref, hyps[j], 1) - si_sdr(ref, mix[0], 1))
        except MetricError:
            continue
    return float(np.mean(gains)) if gains else None


def sdr(ref, hyp, sample_rate, taps=512):
    """SDR of `hyp` `[L]` against `ref` `[L]` in dB, BSS Eval version 3: any filter of `taps` taps is forgiven.

    The target is the projection of `hyp` on `ref` delayed by 0 to taps - 1 samples, SDR = 10 log10(|target|^2 /
    |hyp - target|^2), limited to +-100. Interference is not told from artefacts, so that the other sources are not
    needed. Raises MetricError for silence.
    """
    ref, hyp = pair(ref, hyp, sample_rate)
    ref, hyp = ref / np.linalg.norm(ref), hyp / np.linalg.norm(hyp)
    size = next_fast_len(len(ref) + taps, real=True)
    ref_f, hyp_f = rfft(ref, size), rfft(hyp, size)
    auto = irfft(ref_f * ref_f.conj(), size)[:taps]
    cross = irfft(hyp_f * ref_f.conj(), size)[:taps]
    auto[0] *= 1 + 1e-10  # a sum of few sinusoids has a singular autocorrelation
    explained = float(np.clip(cross @ solve_toeplitz(auto, cross), 0.0, 1.0))  # |target|^2, hyp being of norm 1
    return float(np.clip(10 * np.log10(max(explained, 1e-300) / max(1 - explained, 1e-300)), -LIMIT, LIMIT))
