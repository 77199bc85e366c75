"""A listening test as a folder: a page, excerpts whose names tell nothing, and the key to them.

    index.html      the page, for listeners
    audio/ID.wav    what they hear; ID says neither which system nor which recording it is
    key.json        which it is; not for listeners

MUSHRA (ITU-R BS.1534-3): all systems' versions of an utterance beside the open reference, with a hidden reference and
low-passed anchors among them, 0 to 100. MOS: one version at a time, 1 to 5 (ITU-T P.800's absolute category rating).
SMOS: the same question about how much it is the voice of the open reference (TiCodec, section 3.1).
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from pscodec.data.audio import save_audio
from pscodec.data.recordings import find_recordings
from pscodec.listening.sounds import anchor, excerpts
from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text
from pscodec.utils.html import CONTROLS, page
from pscodec.utils.progress import progress
from pscodec.utils.web import bundle, data, script

HERE = Path(__file__).parent
KINDS = ("mushra", "mos", "smos")
REFERENCE = "reference"


@dataclass(frozen=True)
class Key:
    """What a test is. `stimuli`: id -> [item, system], in which systems are those asked about, `reference`, and anchors
    as `anchor 3500 Hz`; `references`: item -> id of what is heard openly."""

    kind: str
    seed: int
    systems: list[str]
    anchors: list[str]
    stimuli: dict[str, list[str]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    @property
    def id(self):
        """By which results name their test."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def trials(self):
        """What is rated together: lists of ids, with the id of their open reference or None."""
        items = {}
        for id_, (item, _) in self.stimuli.items():
            items.setdefault(item, []).append(id_)
        if self.kind == "mushra":
            return [(sorted(ids), self.references[item]) for item, ids in items.items()]
        return [([id_], self.references.get(item)) for item, ids in items.items() for id_ in sorted(ids)]


def read_key(folder):
    """The `Key` of a test's folder. Raises UserError."""
    path = Path(folder) / "key.json"
    try:
        return Key(**json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise UserError(f"{folder}: no key.json, so not a listening test") from None
    except (ValueError, TypeError):
        raise UserError(f"{path}: not the key of a listening test") from None


def make(
    folder,
    systems,
    reference=None,
    kind="mushra",
    number=20,
    seconds=5.0,
    anchors=(3500,),
    seed=0,
    sample_rate=None,
    per_listener=None,
    title=None,
):
    """Write a test of `systems` (name -> folder of recordings) to `folder`; returns its `Key` and how many recordings
    were left out because not all have them.

    `number` utterances are drawn by `seed`, and `seconds` of each (None: all; but for MUSHRA they may then differ in
    length). `reference`: the folder of the originals; MOS can do without. `anchors`: cutoffs in Hz, for MUSHRA.
    `per_listener`: trials that one listener is asked for. Raises UserError in one line, before anything is written
    where it can be known.
    """
    folder = Path(folder)
    if reference is None and kind != "mos":
        raise UserError(f"a {kind.upper()} test needs a reference")
    if REFERENCE in systems or len(systems) < 1:
        raise UserError("a test needs a system, and none that is called reference")
    labels = {f"anchor {cutoff:g} Hz": cutoff for cutoff in sorted(anchors)} if kind == "mushra" else {}
    heard = ({REFERENCE: reference} if reference else {}) | systems
    found = {name: find_recordings(path) for name, path in heard.items()}
    common = sorted(set.intersection(*map(set, found.values())))
    if not common:
        raise UserError(f"no recording is in all of {' '.join(str(path) for path in heard.values())}")
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(common, min(number, len(common)), replace=False).tolist())
    key = Key(kind, seed, list(systems), list(labels))
    whole = seconds is None and kind != "mushra"
    for item in progress(chosen, "excerpts"):
        wavs, rate = excerpts([utterances[item] for utterances in found.values()], seconds, sample_rate, rng, whole)
        sounds = dict(zip(found, wavs, strict=True))
        sounds |= {label: anchor(sounds[REFERENCE], rate, cutoff) for label, cutoff in labels.items()}
        for name, wav in sounds.items():
            key.stimuli[_write(folder, wav, rate, seed, item, name)] = [item, name]
        if reference and kind != "mos":
            key.references[item] = _write(folder, sounds[REFERENCE], rate, seed, item, "open")
    _sweep(folder, {*key.stimuli, *key.references.values()})
    write_text(folder / "key.json", json.dumps(asdict(key), indent=1) + "\n")
    write_text(folder / "index.html", _page(key, per_listener, title or f"Listening test ({kind.upper()})"))
    return key, len(set.union(*map(set, found.values()))) - len(common)


def _write(folder, wav, rate, *names):
    id_ = hashlib.sha256("/".join(map(str, names)).encode()).hexdigest()[:10]
    save_audio(folder / "audio" / f"{id_}.wav", wav, rate)
    return id_


def _sweep(folder, ids):
    """Remove what a test that was here before has left."""
    for path in (folder / "audio").glob("*.wav"):
        if path.stem not in ids:
            path.unlink()


def _page(key, per_listener, title):
    test = {"id": key.id, "kind": key.kind, "per_listener": per_listener}
    test["trials"] = [{"stimuli": ids, "reference": reference} for ids, reference in key.trials]
    body, style = ((HERE / name).read_text(encoding="utf-8") for name in ("page.html", "style.css"))
    end = data("test.json", "application/json", json.dumps(test)) + script(bundle(HERE / "page.js"))
    return page(title, body, CONTROLS + style, end)
