"""Files that installed packages bring; of the packages themselves nothing is run."""

import hashlib
import importlib.util
from pathlib import Path

from pscodec.utils.errors import UserError


def find(place):
    """Path of `package/path` in an installed package, which is not imported; None where it is not installed."""
    package, _, path = place.partition("/")
    spec = importlib.util.find_spec(package)
    return None if spec is None else Path(spec.origin).parent / path


def lacking(packages, extra):
    """A line about the first of `packages` (as they are imported) that is not installed, which `extra` of setup.py
    brings; None where all are there."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"{package.replace('_', '-')} is not installed; pip install 'pscodec[{extra}]' brings it"
    return None


def published(places, sha256, what):
    """The bytes of the files `places`, as `find` takes them, one after the other.

    Raises UserError, calling them `what`, where they are not those that were published, of that SHA-256.
    """
    paths = [find(place) for place in places]
    try:
        data = b"".join(path.read_bytes() for path in paths)
    except OSError as error:
        raise UserError(f"{what}: {error.filename}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{what} in {paths[0].parent} are not those that were published")
    return data
