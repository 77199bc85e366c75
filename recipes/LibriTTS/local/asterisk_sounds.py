"""The mini corpus: the Asterisk core sounds, studio recordings of telephone prompts in five voices, 16 kHz.

Of 1-15 s they hold 1,611 utterances, 80.6 minutes. en_US_f_Allison and es_MX_f_Allison are one speaker in two
languages. Transcripts come from the packages' text lists; some 60 files have none, and then an empty one.
"""

import gzip
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from fetch import need_tool

from pscodec.data.audio import save_audio
from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
SAMPLE_RATE = 16000
COMPLETE = ".complete"
ATTRIBUTION = """\
The recordings in this folder are the Asterisk core sounds, as packaged by Debian
(asterisk-core-sounds-{en,es,fr,it,ru}-g722), decoded from G.722 to 16-bit WAV and otherwise unchanged.
The .txt files are from the text lists of asterisk-core-sounds-{en,es,fr,it,ru}, without remarks in brackets.
Source: http://downloads.asterisk.org/pub/telephony/asterisk/

en_US_f_Allison     Allison Smith (http://www.theivrvoice.com); 2003-2010, Allison Smith     CC-BY-SA 3.0
es_MX_f_Allison     Allison Smith (http://www.theivrvoice.com)                               CC-BY-SA 3.0
fr_CA_f_June        June Wallack (http://www.junewallack.com); 2006-2008, June Wallack       CC-BY-SA 3.0
it_IT_m_Carlo       Carlo Flora (http://www.segreterietelefoniche.it); 2012, Carlo Flora     CC-BY 3.0
ru_RU_f_IvrvoiceRU  provided by Maxim Topal (http://www.ivrvoice.ru); 2010, Maxim            CC-BY 3.0

CC-BY-SA 3.0: https://creativecommons.org/licenses/by-sa/3.0/
CC-BY 3.0:    https://creativecommons.org/licenses/by/3.0/
The packages' own copyright files lie beside this one (copyright.<language>).
"""


def fetch_asterisk(folder):
    """Put the corpus into `folder/<voice>/**/*.{wav,txt}` with its attribution; nothing is done when it is complete.

    Debian's packages come by apt with lists and cache of its own: neither root nor an earlier `apt-get update` is
    needed. Raises UserError where apt is missing or fails.
    """
    folder = Path(folder)
    if (folder / COMPLETE).exists():
        return
    work = (folder / ".apt").absolute()
    tree = work / "tree"
    _unpack_packages(work, tree)
    sounds = tree / "usr/share/asterisk/sounds"
    coded = sorted(p for p in sounds.rglob("*.g722") if "silence" not in p.relative_to(sounds).parts)
    if not coded:
        raise UserError("the asterisk-core-sounds packages hold no .g722 files where they used to")
    for path in progress(coded, "decode G.722"):
        wav = torch.from_numpy(decode_g722(path.read_bytes()).astype(np.float32) / 32768.0)
        save_audio(folder / path.relative_to(sounds).with_suffix(".wav"), wav, SAMPLE_RATE)
    for language, voice in VOICES.items():
        listed = tree / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
        for name, text in read_texts(gzip.decompress(listed.read_bytes())).items():
            if (folder / voice / f"{name}.wav").exists():
                (folder / voice / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
        notice = tree / f"usr/share/doc/asterisk-core-sounds-{language}-g722/copyright"
        shutil.copyfile(notice, folder / f"copyright.{language}")
    write_text(folder / "ATTRIBUTION", ATTRIBUTION)
    write_text(folder / COMPLETE, f"{len(coded)} files\n")
    shutil.rmtree(work)


def read_texts(data):
    """A package's text list, UTF-8 bytes of `name: text` lines, as a dict; remarks in brackets are taken out."""
    texts = {}
    for line in data.decode("utf-8-sig").splitlines():
        name, colon, text = line.partition(":")
        text = " ".join(re.sub(r"\[[^]]*\]|\([^)]*\)", " ", text).split())
        if colon and text and not name.startswith(";"):
            texts[name.strip()] = text
    return texts


def decode_g722(data):
    """Decode 64 kbit/s G.722 bytes to 16 kHz samples, int16 `[2 * bytes]`."""
    try:
        import G722
    except ImportError:
        raise UserError("the package G722 is needed to decode the mini corpus: pip install G722") from None
    return np.array(G722.G722(SAMPLE_RATE, 64000).decode(data), dtype=np.int16)


def _unpack_packages(work, tree):
    apt, dpkg = need_tool("apt-get"), need_tool("dpkg-deb")
    lists, cache = work / "lists", work / "cache"
    for place in (lists / "partial", cache / "archives/partial", tree):
        place.mkdir(parents=True, exist_ok=True)
    options = {"Dir::State::Lists": lists, "Dir::Cache": cache, "Debug::NoLocking": 1, "APT::Sandbox::User": "root"}
    options |= {"Acquire::Languages": "none", "Acquire::Retries": 2, "Acquire::http::Timeout": 20}
    private = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    print("apt-get: package lists, then packages of recordings (a minute or so)", file=sys.stderr)
    packages = [f"asterisk-core-sounds-{language}{kind}" for language in VOICES for kind in ("-g722", "")]
    _run([apt, "-q", *private, "update"], work)
    _run([apt, "-q", *private, "download", *packages], work)
    for package in packages:
        found = sorted(work.glob(f"{package}_*.deb"))
        if not found:
            raise UserError(f"apt-get did not bring {package}")
        _run([dpkg, "-x", str(found[-1]), str(tree)], work)


def _run(command, folder):
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True}
    done = subprocess.run(command, cwd=folder, check=False, text=True, errors="replace", **pipes)
    if done.returncode != 0:
        told = [x for x in (done.stderr + done.stdout).splitlines() if x.startswith("E:")] or [done.stderr.strip()]
        raise UserError(f"{Path(command[0]).name} failed with status {done.returncode}: {told[0][:300]}")
