"""onnxruntime-web, which computes a page's codec: from a folder, from a project's node_modules, or by npm."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# What a page needs of it, and the SHA-256 of that version's.
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}


def find_runtime(folder=None):
    """The folder with `FILES`: `folder`, or its `dist`; else the nearest node_modules from the working folder upwards;
    else the user's cache, which npm fills once (of `VERSION`, and only with what has these checksums).

    Raises UserError in one line."""
    if folder is not None:
        for place in (Path(folder), Path(folder) / "dist", Path(folder) / "node_modules" / PACKAGE / "dist"):
            if _holds(place):
                return place
        raise UserError(f"{folder}: not {PACKAGE}: it has no {' and '.join(FILES)}")
    for above in (Path.cwd(), *Path.cwd().parents):
        if _holds(above / "node_modules" / PACKAGE / "dist"):
            return above / "node_modules" / PACKAGE / "dist"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pscodec" / f"{PACKAGE}-{VERSION}"
    if not _holds(cache):
        _fetch(cache)
    return cache


def _holds(folder):
    return all((folder / name).is_file() for name in FILES)


def _fetch(cache):
    """Have npm bring the package, unpack nothing but `FILES`, and run nothing of it."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"{PACKAGE} is not here, nor npm to fetch it: name its folder with --runtime")
    print(f"fetching {PACKAGE} {VERSION} by npm into {cache}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            why = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            raise UserError(f"npm could not fetch {PACKAGE} {VERSION}: {why}")
        with tarfile.open(archives[0]) as archive:
            for name, expected in FILES.items():
                content = archive.extractfile(f"package/dist/{name}").read()
                if hashlib.sha256(content).hexdigest() != expected:
                    raise UserError(f"{PACKAGE} {VERSION}: {name} has another checksum than it should")
                with atomic_path(cache / name) as partial:
                    partial.write_bytes(content)
