"""Who may import whom: the layers of the package, kept by walking every import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {"types", "utils"}
FIRST_FLOOR = {"features", "layers", "bitstream", "data.audio", "data.kaldi"}
PARTS = GROUND | FIRST_FLOOR
# What each unit may import beside itself, longest name first where one contains another.
MAY_IMPORT = {
    "types": set(),
    "released": set(),
    "utils": set(),
    "utils.hparams": {"released", "utils"},
    "features": GROUND,
    "layers": GROUND,
    "layers.spectrum": GROUND | {"features", "layers"},
    "layers.source": GROUND | {"features", "layers"},
    "profile": GROUND | {"packets"},
    "packets": GROUND,
    "side_tokens": GROUND | {"profile"},
    "bitstream": GROUND | {"packets", "profile"},
    "data.audio": GROUND | {"features"},
    "data.kaldi": GROUND | {"features", "data.audio"},
    "data": PARTS,
    "quantizers": PARTS,
    "prompts": PARTS,
    "discriminators": PARTS,
    "losses": PARTS,
    "metrics": PARTS,
    "models": GROUND | {"layers", "quantizers", "prompts"},
    "downstream": GROUND | {"models.base", "layers"},
    "brains": GROUND | {"features", "metrics"},
    "brains.start": GROUND | {"brains", "released"},
    "entropy": GROUND,
    "entropy.export": GROUND | {"entropy", "models"},
    "anchors": GROUND | {"data.audio"},
    "coders": GROUND | {"anchors", "released", "inference", "models", "quantizers", "layers"},
    "scoring": GROUND | {"coders", "metrics", "prompts", "data.audio"},
    "streaming": GROUND | {"models", "layers"},
    "chunks": set(),
    "search": GROUND | {"losses"},
    "pieces": GROUND | {"chunks", "streaming", "data.audio"},
    "separation": GROUND | {"released", "inference", "downstream", "losses", "layers", "data.audio"},
    "inference": GROUND
    | {
        "released",
        "pieces",
        "search",
        "models",
        "bitstream",
        "profile",
        "side_tokens",
        "entropy",
        "features",
        "data.audio",
    },
    "synthesis": GROUND | {"inference", "downstream", "bitstream", "data.audio", "data.text"},
    "pipes": GROUND,
    "files": GROUND | {"inference", "streaming", "bitstream", "pipes", "data.audio"},
}
TOP = {"bin", "cli", "commands", "demo", "listening"}  # anything


def unit_of(module):
    """The unit of the table that a dotted module name (without the package's) belongs to, or None."""
    names = sorted([*MAY_IMPORT, *TOP], key=len, reverse=True)
    return next((name for name in names if module == name or module.startswith(name + ".")), None)


def imports_of(source, module, is_package):
    """Modules of pscodec that `source` imports, wherever in the file: names without the leading `pscodec.`."""
    found = set()
    package = ["pscodec", *module.split(".")][: None if is_package else -1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]  # `from pscodec.data import audio` names a module
        else:
            continue
        found.update(name.removeprefix("pscodec.") for name in names if name.startswith("pscodec."))
    return found


def violations(module, source, is_package=False):
    """Imports of `module` that the table forbids, as a list of names."""
    unit = unit_of(module)
    if unit is None:
        return [f"{module} is in no row of the table"]
    if unit in TOP:
        return []
    allowed = MAY_IMPORT[unit] | {unit}
    return [
        name
        for name in sorted(imports_of(source, module, is_package))
        if not any(name == good or name.startswith(good + ".") for good in allowed)
    ]


def modules():
    for path in sorted((ROOT / "pscodec").rglob("*.py")):
        parts = path.relative_to(ROOT / "pscodec").with_suffix("").parts
        is_package = parts[-1] == "__init__"
        if parts != ("__init__",):  # the top one exports what users call
            yield pytest.param(path, ".".join(parts[:-1] if is_package else parts), is_package, id="/".join(parts))


@pytest.mark.parametrize(("path", "module", "is_package"), list(modules()))
def test_imports_keep_to_the_table(path, module, is_package):
    source = path.read_text(encoding="utf-8")
    assert violations(module, source, is_package) == []
    assert not is_package or not source.strip(), "only the top __init__.py holds anything"


@pytest.mark.parametrize(
    ("module", "line", "bad"),
    [
        ("models.pscodec", "from pscodec.losses.base import Loss", ["losses.base.Loss"]),
        ("models.pscodec", "import pscodec.data.codec", ["data.codec"]),
        ("models.pscodec", "from pscodec.layers.conv import conv", []),
        ("losses.spectral", "def f():\n    from pscodec.models import base", ["models.base"]),
        ("losses.spectral", "from ..features import stft", []),
        ("losses.spectral", "from ..metrics import mcd", ["metrics.mcd"]),
        ("losses.spectral", "from .base import Loss", []),
        ("brains.codec", "from pscodec.models.pscodec import PSCodec", ["models.pscodec.PSCodec"]),
        ("downstream.separator", "from pscodec.models.base import Codec", []),
        ("downstream.separator", "from pscodec.models.pscodec import PSCodec", ["models.pscodec.PSCodec"]),
        ("data.audio", "from pscodec.data.kaldi import read_table", ["data.kaldi.read_table"]),
        ("data.codec", "from pscodec.data import audio, kaldi", []),
        ("utils.files", "from pscodec import types", ["types"]),
        ("bin.evaluate", "import pscodec.models.pscodec, pscodec.losses.base", []),
        ("extra.thing", "import torch", ["extra.thing is in no row of the table"]),
    ],
)
def test_the_walk_sees_what_it_should(module, line, bad):
    assert violations(module, line) == bad
