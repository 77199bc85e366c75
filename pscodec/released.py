"""Trained codecs that come with the package: each a folder of weights/, as bin/release writes it, with a model card."""

from pathlib import Path

DEFAULT = "pscodec_small_24k"
WEIGHTS = Path(__file__).parent / "weights"


def names():
    """Of the codecs that are here."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/codec.safetensors"))


def folder(name):
    """The experiment folder that `name` (str or Path) means: a released codec's, else the path itself."""
    return WEIGHTS / name if str(name) in names() else Path(name)
