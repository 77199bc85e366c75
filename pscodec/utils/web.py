"""Scripts of a page that is one file: modules joined into one, and bytes as text."""

import base64
import gzip
import re

IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.-]+)";\n', re.MULTILINE)


def bundle(entry):
    """The text of the JavaScript module `entry` (Path) and of those it imports, as one module.

    Pages opened from a disk cannot import files. Imports are of names, without renaming, from files beside; so names
    at the top of files must differ, of which ValueError tells.
    """
    texts = {}
    _collect(entry, texts)
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", "\n".join(texts.values()), re.MULTILINE)
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{entry}: {min(twice)} is the name of two things")
    return "\n".join(texts.values())


def _collect(path, texts):
    """The text of `path`, after those of what it imports."""
    text = path.read_text(encoding="utf-8")
    for name in IMPORT.findall(text):
        if path.parent / name not in texts:
            _collect(path.parent / name, texts)
    texts[path] = re.sub(r"^export ", "", IMPORT.sub("", text), flags=re.MULTILINE).strip() + "\n"


def script(text):
    """A script element that runs `text`, a module."""
    return f'<script type="module">\n{_inside(text)}</script>\n'


def data(name, kind, text):
    """A script element that does not run: its `text` is found by its id, `name`."""
    return f'<script type="{kind}" id="{name}">{_inside(text)}</script>\n'


def packed(name, content):
    """`data` of bytes: gzip, base64."""
    return data(name, "application/gzip", base64.b64encode(gzip.compress(content, 6, mtime=0)).decode())


def _inside(text):
    """`text` without what would end the element."""
    return text.replace("</script", "<\\/script")
