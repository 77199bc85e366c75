"""Thin YAML: a variant says only what differs from its base, a preset lays scalars over any variant.

HyperPyYAML's own overrides cannot serve as inheritance (overriding a tagged mapping with another class builds the
base's class), so the texts are composed here, key by key, before HyperPyYAML sees them.
"""

import io
import re
import sys
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pscodec.utils.errors import UserError, one_line_errors


def compose(config, presets=()):
    """The text of `config` over its `base:` (a path beside it), under `presets`, as one YAML document (str).

    Every top-level key of a variant replaces the base's key whole. Raises UserError for a missing or malformed file,
    a key that the base does not have, or a preset value that is not a scalar or a list of scalars.
    """
    config = Path(config)
    tree = _read(config)
    layers = [(config, tree)]
    while "base" in tree:
        base = config.parent / tree.pop("base")
        tree = _read(base)
        layers.append((base, tree))
        config = base
    composed = layers.pop()[1]
    for path, layer in [*reversed(layers), *((Path(p), _scalars(Path(p))) for p in presets)]:
        for key, value in layer.items():
            if key not in composed:
                raise UserError(f"{path}: unknown key {key!r}{_hint(key, composed)}")
            composed[key] = value
    text = io.StringIO()
    YAML().dump(composed, text)
    return text.getvalue()


def resolve(text, overrides=None):
    """Lay `overrides` (dict of scalars) over composed `text` and write every reference out. Returns YAML text."""
    keys = YAML().load(text)
    for key in overrides or {}:
        if key not in keys:
            raise UserError(f"unknown option --{key}{_hint(key, keys)}")
    resolved = resolve_references(io.StringIO(text), overrides or {}, overrides_must_match=True).getvalue()
    return re.sub(r"(?m)(?<=[:\[,-] )[-+]?[\d.]+[eE][-+]?\d+(?=\s*(?:[,\]#]|$))", _float_of_yaml_1_1, resolved)


def _float_of_yaml_1_1(match):
    """`1e-3` means a number to people and to YAML 1.2; HyperPyYAML reads YAML 1.1, which wants `1.0e-3`."""
    mantissa, _, exponent = f"{float(match.group()):.16e}".partition("e")
    return f"{mantissa.rstrip('0')}{'0' if mantissa.rstrip('0').endswith('.') else ''}e{exponent}"


def build(text):
    """Everything that YAML `text` describes, built: a dict. Raises UserError for values that a part refuses."""
    try:
        return load_hyperpyyaml(io.StringIO(text))
    except ValueError as error:  # a part refuses its arguments
        raise UserError(f"this configuration cannot be built: {str(error.args[-1]).splitlines()[0]}") from error


def build_only(text, key):
    """Build one top-level key of resolved `text` and nothing else. Only classes of this package may be named in it.

    Raises UserError where the key is missing or names foreign code: a hyperparams.yaml may come from a stranger.
    """
    tree = YAML().load(text)
    if key not in tree:
        raise UserError(f"hyperparams.yaml has no key {key!r}")
    part = io.StringIO()
    YAML().dump({key: tree[key]}, part)
    foreign = [tag for tag in re.findall(r"![\w]+:?[\w.]*", part.getvalue()) if not tag.startswith("!new:pscodec.")]
    if foreign:
        raise UserError(f"hyperparams.yaml: {key} names {foreign[0]}, which is not a class of pscodec")
    return build(part.getvalue())[key]


def _read(path):
    try:
        tree = YAML().load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such configuration: {path}") from None
    except YAMLError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: not a YAML mapping")
    return tree


def _scalars(path):
    tree = _read(path)
    for key, value in tree.items():
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(x, dict | list) for x in value)):
            raise UserError(
                f"{path}: {key} is not a scalar or a list of scalars, so it cannot be laid over any variant"
            )
    return tree


def _hint(key, known):
    import difflib

    close = difflib.get_close_matches(key, [str(k) for k in known], 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@one_line_errors
def main(argv=None):
    """`python -m pscodec.utils.hparams CONFIG KEY` prints a scalar of a composed configuration; nothing for null."""
    config, key = argv or sys.argv[1:]
    value = YAML().load(compose(config)).get(key)
    print("" if value is None else value)


if __name__ == "__main__":
    main()
