"""Files from the network, whole or not at all: resumed, checksummed, unpacked once."""

import hashlib
import http.client
import lzma
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

CHUNK = 1 << 20
UNPACKED = ".unpacked"  # the marker of a wholly unpacked archive


def checksum(path, algorithm="sha256"):
    """Hexadecimal checksum of a file."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(url, path, expected=None, algorithm="sha256", timeout=30, tries=5, pause=2.0):
    """Fetch `url` into `path` unless it is there already and right; returns `path`.

    What came goes to `<path>.part`; a broken transfer, of this run or of an earlier one, goes on from there (HTTP
    Range). `expected` is the checksum: a file that has it is left alone, a download that has not is removed.
    Without `expected`, a file that is there counts as right, since only whole files get their name.
    Raises UserError in one line when the network does not answer or the file is not the expected one.
    """
    path = Path(path)
    if path.exists() and (expected is None or checksum(path, algorithm) == expected):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(1, tries + 1):
        try:
            _transfer(url, part, timeout)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == tries:
                raise UserError(f"{url}: HTTP status {error.code} {error.reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if attempt == tries:
                reason = getattr(error, "reason", error)
                raise UserError(f"{url}: no answer, or broken off ({reason})") from None
        time.sleep(pause)
    if expected is not None and checksum(part, algorithm) != expected:
        part.unlink()
        raise UserError(f"{url}: what came is not the expected file ({algorithm} differs); it was removed, start again")
    os.replace(part, path)
    return path


def _transfer(url, part, timeout):
    """One attempt to complete `part`. Raises what urllib raises, and ConnectionError when the server stops early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        # 416: nothing is left to send. The part is whole when it is as long as the server says, else of no use.
        if error.code == 416 and have:
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                return
            part.unlink()
            raise ConnectionError("the partial file was longer than the server's") from None
        raise
    with answer:
        if answer.status != 206:  # the server does not resume: from the beginning
            have = 0
        left = answer.headers.get("Content-Length")
        total = have + int(left) if left else None
        bar = progress(None, Path(part).name.removesuffix(".part"), total, initial=have, unit="B", unit_scale=True)
        with bar, open(part, "ab" if have else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"{part.stat().st_size} of {total} bytes")


def unpack(archive, folder):
    """Unpack a zip or tar archive (any compression) into `folder`, wholly; returns how many files it held.

    Raises UserError for a broken or empty archive, and for members that are links or devices, or lie outside `folder`.
    """
    archive, folder = Path(archive), Path(folder)
    files = _unzip(archive, folder) if zipfile.is_zipfile(archive) else _untar(archive, folder)
    if files == 0:
        raise UserError(f"{archive}: holds no files; remove it and start again")
    return files


def _unzip(archive, folder):
    try:
        with zipfile.ZipFile(archive) as found:
            members = [member for member in found.infolist() if not member.is_dir()]
            for member in progress(members, f"unpack {archive.name}", unit=" files"):
                if member.filename.startswith("/") or ".." in Path(member.filename).parts:
                    raise UserError(f"{archive}: refused, its member {member.filename} lies outside")
                found.extract(member, folder)
            return len(members)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive}: broken archive ({error}); remove it and start again") from None


def _untar(archive, folder):
    # Pythons before 3.10.12 and 3.11.4 have no filter; the checks below stand in for it.
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    files = 0
    try:
        with tarfile.open(archive) as tar:
            for member in progress(tar, f"unpack {archive.name}", unit=" files"):
                outside = member.name.startswith("/") or ".." in Path(member.name).parts
                if outside or not (member.isfile() or member.isdir()):
                    raise UserError(f"{archive}: refused, its member {member.name} is a link or lies outside")
                tar.extract(member, folder, **safely)
                files += member.isfile()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{archive}: broken archive ({error}); remove it and start again") from None
    except OSError as error:
        if error.errno is not None:  # a full disk and the like; bz2 and gzip report broken data as plain OSError
            raise
        raise UserError(f"{archive}: broken archive ({error}); remove it and start again") from None
    return files


def fetch_archive(url, folder, tree, expected, algorithm="sha256", wavs=None, keep=False):
    """Download an archive into `folder` and unpack it there, once; it holds `folder/tree`.

    A marker in that tree says that it is whole; a tree that somebody else put there counts as whole if it holds the
    known number of .wav files, `wavs`. The archive is removed unless `keep`. Raises UserError as its two steps do.
    """
    folder = Path(folder)
    marker = folder / tree / UNPACKED
    if marker.exists() or (wavs is not None and sum(1 for _ in (folder / tree).rglob("*.wav")) >= wavs):
        return
    archive = download(url, folder / url.rsplit("/", 1)[1], expected, algorithm)
    files = unpack(archive, folder)
    if not (folder / tree).is_dir():
        raise UserError(f"{archive}: does not hold {tree}")
    write_text(marker, f"{files} files of {url}\n")
    if not keep:
        archive.unlink()


def need_tool(name):
    """Path of a program, or UserError naming it."""
    path = shutil.which(name)
    if path is None:
        raise UserError(f"{name} is needed and not on this machine")
    return path
