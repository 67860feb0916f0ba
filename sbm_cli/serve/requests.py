"""What a client asks for, as text: names that are only shown, and options by the names that they have everywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any, get_args

from sbm_cli.audio.format import OUTPUT_SUFFIXES, SUFFIXES
from sbm_cli.options import DEFAULTS, Options, chosen_options, offered, parse_bit_rate

# Offered on the page; the interfaces for programs take all of them.
_ON_PAGE = ("strength", "attenuation_limit", "keep_room", "keep_high_band", "loudness")
LISTED = "docs/serve.md lists what there is."
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_LONGEST_STEM, _LONGEST_SUFFIX = 100, 10  # characters


def parse_options(query: Mapping[str, str], known: Collection[str] = ()) -> Options:
    """Return the options that a query asks for.

    known: the names of those that it may ask for, all of them if empty.
    Raises ValueError for an unknown name and a value out of range.
    """
    described = offered()
    unknown = query.keys() - (known or described.keys())
    if unknown:
        raise ValueError(f"unknown option {min(unknown)!r}; there are {', '.join(sorted(known or described))}")
    return chosen_options({name: _value(name, described[name][0], text) for name, text in query.items()})


def describe_options(names: Collection[str]) -> str:
    """Return a line for each option among some names, with its range."""
    lines = []
    for name, (_, knob) in offered().items():
        if name in names:
            ends = f" from {knob.least}" if knob.least is not None else ""
            ends += f" to {knob.most}" if knob.most is not None else ""
            lines.append(f"{name}{ends}: {knob.help.replace(', 0 to 1', '')}")  # which `ends` says
    return "\n".join(lines)


def _value(name: str, kind: Any, text: str) -> Any:
    kinds = get_args(kind) or (kind,)
    if bool in kinds:
        if text.lower() not in _YES + _NO:
            raise ValueError(f"{name} must be true or false, got {text!r}")
        return text.lower() in _YES
    if name == "bit_rate":
        return parse_bit_rate(text)
    if float in kinds:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{name} must be a number, got {text!r}") from None
    return int(text) if int in kinds and text.isdecimal() and len(text) < 20 else text


def page_knobs(keeps_room: bool) -> list[dict[str, Any]]:
    """Describe the options of the page. keeps_room: whether the model can keep the room."""
    known = offered()
    return [
        {
            "name": name,
            "kind": "flag" if known[name][0] is bool else "number",
            **{key: getattr(known[name][1], key) for key in ("help", "unit", "least", "most")},
            "default": getattr(DEFAULTS, name, False),
        }
        for name in _ON_PAGE
        if keeps_room or name != "keep_room"
    ]


def shown_name(text: str) -> str:
    """Return the last part of a name or path, without what does not print or turns the direction of writing."""
    name = PurePath(text.replace("\\", "/")).name
    path = PurePath("".join(letter for letter in name if letter.isprintable()).strip())
    return path.stem[:_LONGEST_STEM] + path.suffix[:_LONGEST_SUFFIX] or "recording"


def known_suffix(name: str) -> str:
    """Return the suffix of a name if it is that of a recording, else none: it becomes part of a path."""
    suffix = PurePath(name).suffix.lower()
    return suffix if suffix in SUFFIXES + OUTPUT_SUFFIXES else ""


def output_suffix(ext: str, name: str) -> str:
    """Return the suffix of the output: that of the input, which may have none, unless another is asked for.

    Raises ValueError for one that is not written.
    """
    if not ext:
        given = PurePath(name).suffix
        if given and not known_suffix(name):
            raise ValueError(f"{name}: no sound format for suffix {given}; choose another with ext, such as ext=wav")
        return known_suffix(name)
    suffix = f".{ext.lower().lstrip('.')}"
    if suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"unknown format {ext!r}; choose one of {' '.join(OUTPUT_SUFFIXES)}")
    return suffix
