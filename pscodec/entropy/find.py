"""Which language models there are for a codec, and where."""

from pathlib import Path

from pscodec.entropy.coder import EntropyCoder
from pscodec.entropy.network import FILE, Network
from pscodec.utils.errors import UserError

AUTO = "auto"


class Languages:
    """The language models in folder `exp` (None: none), or one folder below, of the codec `model` with `fingerprint`.

    `wanted`: the one to code with, AUTO, its file, or the folder that has it; it is `chosen` (None: none). Raises
    UserError for a file that is none, or one of another codec.
    """

    def __init__(self, exp=None, fingerprint=b"", model=None, wanted=None):
        self._fingerprint, self._model, self._known = fingerprint, model, {}
        self._paths = sorted([*exp.glob(FILE), *exp.glob(f"*/{FILE}")]) if exp else []
        self.chosen = None
        if wanted is None:
            return
        path = Path(wanted) / FILE if Path(wanted).is_dir() else Path(wanted)
        if str(wanted) == AUTO:
            if not self._paths:
                raise UserError(f"{exp}: no language model ({FILE}) in it; train one (run.sh --entropy true)")
            path = self._paths[0]
        elif path.name != FILE or not path.is_file():
            raise UserError(f"{wanted}: no language model ({FILE})")
        self.chosen = self._load(path)
        self._check(self.chosen, path)

    def coder(self, header):
        """The `EntropyCoder` of streams with `header`; None where it names no language model, or one not here."""
        if header.entropy is None:
            return None
        while header.entropy not in self._known and self._paths:
            self._load(self._paths.pop(0))
        network = self._known.get(header.entropy)
        return network and EntropyCoder(network, header.n_q, header.frames_per_packet)

    def all(self):
        """Those in `exp`, `network.Network`s."""
        while self._paths:
            self._load(self._paths.pop(0))
        return list(self._known.values())

    def _load(self, path):
        network = Network.load(path)
        self._known[network.fingerprint] = network
        return network

    def _check(self, network, path):
        s, q = network.shape, self._model.quantizer
        if s.codec != self._fingerprint.hex():
            raise UserError(f"{path}: a language model of codec {s.codec}; this is {self._fingerprint.hex()}")
        if (s.size, s.groups) != (q.codebook_size, q.n_groups) or s.n_q < q.n_q:
            raise UserError(f"{path}: a language model of {s.n_q} codebooks of {s.size}, not of this codec's")
