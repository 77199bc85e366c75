"""Any codec behind one call, by name: ours, EnCodec and DAC with their authors' weights, others' programs (anchors.py).

code = open_coder("encodec:6")
wav_hat, sample_rate, rates = code(wav, sample_rate)    # [1, L'] at the codec's rate; bit/s, from bytes
"""

from pathlib import Path

import torch

from pscodec import released
from pscodec.anchors import number, open_codec2, open_lyra, open_nolace, open_opus
from pscodec.inference import Coder, load_codec
from pscodec.layers import seanet
from pscodec.models import dac, encodec
from pscodec.quantizers.factorised import FactorisedRVQ
from pscodec.quantizers.rvq import GroupResidualVQ
from pscodec.utils.errors import UserError
from pscodec.utils.weights import read_public

NAMES = (
    "an experiment or pscodec_small_24k_v2 (:2 with two codebooks; +10 with a search of 10 steps), "
    "encodec:6, dac:6, opus:6, nolace:6, lyra:3.2 (kbit/s), codec2:3200"
)
ENCODEC = "encodec_24khz-d7cc33bc.th"
DAC = "weights_24khz_8kbps_0.0.4.pth"


def open_coder(name):
    """The codec that `name` means, see NAMES. Raises UserError naming what is not installed, or no codec.

    What it codes is its own prompt. `stamp` of the result changes when the codec does.
    """
    kind, _, option = name.partition(":")
    if kind in OTHERS and not (Path(kind) / "hyperparams.yaml").is_file():
        return OTHERS[kind](option)
    rest, steps = _number_after("+", name)
    folder, books = _number_after(":", rest)
    if not _is_experiment(folder):
        raise UserError(f"no codec {name}; there are {NAMES}")
    return Neural(load_codec(folder, precision="auto", n_q=books, search=steps or 0))


def _number_after(sign, name):
    """What stands before the last `sign`, and the number after it; all of `name` and None where there is no such, or
    an experiment is called so."""
    rest, _, number = name.rpartition(sign)
    return (rest, int(number)) if rest and number.isdigit() and not _is_experiment(name) else (name, None)


def _is_experiment(name):
    return (released.folder(name) / "hyperparams.yaml").is_file()


class Neural:
    """A codec that this project computes."""

    def __init__(self, coder):
        self.coder = coder
        # decoders trained further on the same codes share their fingerprint
        trained = (str(coder.meta[key]) for key in ("step", "score") if key in coder.meta)
        searched = [f"+{coder.search.steps}"] if coder.search else []
        self.stamp = " ".join([coder.fingerprint.hex(), str(coder.model.n_q), *trained, *searched])

    def __call__(self, wav, sample_rate):
        stream = self.coder.encode(wav, sample_rate)
        sizes, seconds = stream.sizes(), wav.shape[-1] / sample_rate
        wav_hat = self.coder.decode(stream).mean(0, keepdim=True)
        rates = {f"bitrate_{part}": 8 * sizes[part] / seconds for part in ("codes", "total")}
        return wav_hat, self.coder.model.sample_rate, rates


def open_encodec(kbps):
    """EnCodec at 24 kHz as its authors' package has it, in this project's format (its own has a few bytes more)."""
    found = Path(torch.hub.get_dir()) / "checkpoints" / ENCODEC
    state = published(found, "EnCodec", f"https://dl.fbaipublicfiles.com/encodec/v0/{ENCODEC}")
    books = GroupResidualVQ(128, codebook_size=1024, n_residual=32, update="ema", drawn=(2, 4, 8, 16, 32))
    model = encodec.EnCodec(seanet.Encoder(mode="reflect"), books, seanet.Decoder(mode="reflect"))
    return neural("encodec", model, state, found, kbps)


def open_dac(kbps):
    """DAC at 24 kHz, of the sizes that the file of its weights says."""
    found = Path.home() / ".cache/descript" / DAC
    state = published(
        found, "DAC", f"https://github.com/descriptinc/descript-audio-codec/releases/download/0.0.4/{DAC}"
    )
    try:
        sizes, state = state["metadata"]["kwargs"], state["state_dict"]
        strides, width = sizes["encoder_rates"], sizes["encoder_dim"]
        dim = sizes.get("latent_dim") or width * 2 ** len(strides)
        books = FactorisedRVQ(dim, sizes["codebook_size"], sizes["n_codebooks"], sizes["codebook_dim"], kmeans_steps=0)
        decoder = dac.Decoder(dim, sizes["decoder_dim"], sizes["decoder_rates"])
        model = dac.DAC(dac.Encoder(dim, width, strides), books, decoder, sizes["sample_rate"])
    except (KeyError, TypeError):
        raise UserError(f"{found}: not the weights of DAC") from None
    return neural("dac", model, state, found, kbps)


def published(path, who, where):
    """The file `path` of somebody's weights, nothing of it unpickled."""
    if not path.is_file():
        raise UserError(f"the weights of {who} are not there: {path} (from {where})")
    return read_public(path)


def neural(name, model, state, path, kbps):
    """`model` with weights `state`, at `kbps` (text; empty for all of its codebooks), as a `Neural`."""
    try:
        model.load_public(state)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if kbps:
        books = number(name, kbps) * 1000 / (model.bitrate / model.n_q)
        if books != round(books) or round(books) not in model.quantizer.n_q_choices:
            raise UserError(f"{name}:{kbps}: it has 1 to {model.n_q} codebooks of {model.bitrate / model.n_q:g} bit/s")
        model.quantizer.n_q = round(books)
    return Neural(Coder(model.eval(), name=name))


OTHERS = {
    "encodec": open_encodec,
    "dac": open_dac,
    "opus": open_opus,
    "nolace": open_nolace,
    "lyra": open_lyra,
    "codec2": open_codec2,
}
