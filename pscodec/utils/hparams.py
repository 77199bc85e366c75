"""Thin YAML: a variant says only what differs from its base, a preset lays scalars over any variant.

HyperPyYAML's own overrides cannot serve as inheritance (overriding a tagged mapping with another class builds the
base's class), so the texts are composed here, key by key, before HyperPyYAML sees them.
"""

import io
import re
import sys
from inspect import signature
from pathlib import Path
from pydoc import locate

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pscodec.released import folder
from pscodec.utils.errors import UserError, one_line_errors


def compose(config, presets=()) -> str:
    """The text of `config` over its `base:` (a path beside it), under `presets`, as one YAML document (str).

    A key of a variant replaces the base's key whole. It may be a path, `losses.terms.consistency` or
    `codec.encoder.norm`, which changes or adds one entry and leaves the others. Raises UserError for a missing or
    malformed file, a key that the base does not have, or a preset value that is not a scalar or a list of scalars.
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
            _put(composed, key, value, f"{path}: unknown key {key!r}")
    return _dump(composed)


def refers_to(text: str, key: str) -> bool:
    """Whether composed `text` takes the value of `key` anywhere (`!ref <key>`)."""
    return bool(re.search(rf"!ref [^#\n]*<{re.escape(key)}>", text))


def _put(tree, path, value, complaint):
    """Set what `path`, names with dots between them, leads to. Only a part that is there can be given a new entry."""
    *names, last = str(path).split(".")
    node = tree
    for name in names or [last]:
        if not isinstance(node, dict) or name not in node:
            raise UserError(f"{complaint}{_hint(name, node if isinstance(node, dict) else ())}")
        node = node[name]
    if names and not isinstance(node, dict):
        raise UserError(f"{complaint}: {'.'.join(names)} has no entries")
    node = node if names else tree
    single = isinstance(node.get(last), list) and isinstance(value, str | int | float)
    node[last] = [value] if single else value  # one word for a list: `--frozen encoder`


def _dump(tree):
    text = io.StringIO()
    YAML().dump(tree, text)
    return text.getvalue()


def resolve(text: str, overrides: dict | None = None) -> str:
    """Lay `overrides` (dict of scalars, by name or path) over composed `text` and write every reference out. Returns
    YAML text.

    `!codec_of KEY` stands for the codec of the experiment, or released codec, that the key KEY names: its configuration
    is written out, too. Raises UserError where there is none.
    """
    tree = YAML().load(text)
    for key, value in (overrides or {}).items():
        _put(tree, key, value, f"unknown option --{key}")
    _write_codecs(tree, tree)
    resolved = resolve_references(io.StringIO(_dump(tree))).getvalue()
    return re.sub(r"(?m)(?<=[:\[,-] )[-+]?[\d.]+[eE][-+]?\d+(?=\s*(?:[,\]#]|$))", _float_of_yaml_1_1, resolved)


def _write_codecs(node, tree):
    """Put in `node`, a part of `tree`, the codecs in the place of what names them."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if getattr(getattr(value, "tag", None), "value", None) == "!codec_of":
            named = tree.get(value.value)
            if not named:
                raise UserError(f"{value.value}: no experiment is named (--{value.value} EXP)")
            path = folder(named) / "hyperparams.yaml"
            if not path.is_file():
                raise UserError(f"{value.value}: {named}: no hyperparams.yaml, so not an experiment")
            node[key] = _read(path)["codec"]
        else:
            _write_codecs(value, tree)


def _float_of_yaml_1_1(match):
    """`1e-3` means a number to people and to YAML 1.2; HyperPyYAML reads YAML 1.1, which wants `1.0e-3`."""
    mantissa, _, exponent = f"{float(match.group()):.16e}".partition("e")
    return f"{mantissa.rstrip('0')}{'0' if mantissa.rstrip('0').endswith('.') else ''}e{exponent}"


def build(text: str) -> dict:
    """Everything that YAML `text` describes, built: a dict. Raises UserError for values that a part refuses."""
    try:
        return load_hyperpyyaml(io.StringIO(text))
    except (ValueError, TypeError) as error:  # a part refuses its arguments
        if isinstance(error, TypeError) and "argument" not in str(error.args[-1]):
            raise
        told = str(error.args[-1]).splitlines()[0]
        raise UserError(f"this configuration cannot be built: {told}") from error


def build_only(text: str, key: str):
    """Build one top-level key of resolved `text` and nothing else. Only classes of this package may be named in it.

    Raises UserError where the key is missing or names foreign code: a hyperparams.yaml may come from a stranger.
    """
    tree = YAML().load(text)
    if key not in tree:
        raise UserError(f"hyperparams.yaml has no key {key!r}")
    part = _dump({key: tree[key]})
    foreign = [tag for tag in re.findall(r"![\w]+:?[\w.]*", part) if not tag.startswith("!new:pscodec.")]
    if foreign:
        raise UserError(f"hyperparams.yaml: {key} names {foreign[0]}, which is not a class of pscodec")
    return build(part)[key]


def plain(text: str) -> dict:
    """YAML `text` as dicts, lists and scalars that compare by value; what a tag names is the entry `class`."""
    return _plain(YAML().load(text))


def _plain(node):
    tag = {"class": node.tag.value} if getattr(getattr(node, "tag", None), "value", None) else {}
    if isinstance(node, dict):
        return tag | {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return tag or node


def defaults(tree) -> dict:
    """What the classes in a `plain` tree take for the entries that it leaves out, where they stand in it."""
    if not isinstance(tree, dict):
        return {}
    kind, found = tree.get("class", ""), {}
    if kind.startswith("!new:"):
        known = signature(locate(kind.removeprefix("!new:"))).parameters.values()
        found = {p.name: p.default for p in known if p.default is not p.empty}
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return found | {key: defaults(value) for key, value in tree.items() if isinstance(value, dict)}


def difference(theirs, ours, default=None, free=(), trail="") -> str | None:
    """Where two `plain` trees first differ, in words; None where they do not. Entries named in `free` may.

    Of `default`, a tree like `ours`, are the entries that `theirs` lacks.
    """
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return None if theirs == ours else f"{trail or 'value'}: {_brief(theirs)} there, {_brief(ours)} here"
    default = default if isinstance(default, dict) else {}
    for key in [*ours, *(k for k in theirs if k not in ours)]:
        if key not in free:
            there = theirs.get(key, default.get(key))
            found = difference(there, ours.get(key), default.get(key), free, f"{trail}.{key}" if trail else str(key))
            if found:
                return found
    return None


def _brief(value):
    return value.get("class", "other entries") if isinstance(value, dict) else value


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
