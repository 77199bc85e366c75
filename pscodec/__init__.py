"""A toolkit of speech codecs around PSCodec. What users call is here; each is imported when it is asked for."""

__version__ = "0.1.0"

_WHERE = {
    "load_codec": "inference",
    "load_separator": "separation",
    "load_synthesiser": "synthesis",
    "Stream": "bitstream",
    "read": "bitstream",
    "write": "bitstream",
    "Profile": "profile",
    "read_profile": "profile",
    "write_profile": "profile",
}
__all__ = sorted(_WHERE)


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
