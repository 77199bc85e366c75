"""What is trained and comes with the package: folders of weights/, as bin/release writes them, with a model card."""

from pathlib import Path

DEFAULT = "pscodec_small_24k_v2"
SEPARATOR = "separator_small_16k"
WEIGHTS = Path(__file__).parent / "weights"


def names(part="codec"):
    """Of the codecs that are here, or of the separators (`part` separator)."""
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{part}.safetensors"))


def folder(name):
    """The experiment folder that `name` (str or Path) means: of what is released, else the path itself."""
    return WEIGHTS / name if str(name) in names("*") else Path(name)
