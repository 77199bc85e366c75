"""Trained codecs that come with the package: a folder each, as bin/release writes it, with its model card."""

from pathlib import Path

DEFAULT = "pscodec_small_24k"


def names():
    """Of the codecs that are here."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/codec.safetensors"))


def folder(name):
    """The experiment folder that `name` (str or Path) means: a released codec's, else the path itself."""
    return Path(__file__).parent / name if str(name) in names() else Path(name)
