"""Types, limits and texts of settings: the one place where a run's and a method's settings are checked.

Settings are a frozen dataclass of `trainer.contract.option`s; a field's metadata holds `help`, `min` and `max`
(inclusive), `above` and `below` (exclusive), `size` (a text like "512MiB"), and what else its reader wants to know.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from stores.errors import UsageError

if TYPE_CHECKING:
    from trainer.contract import Options


def types_of(cls: type[Options], *, resolved: bool = False) -> dict[str, Any]:
    """Field name → type of a dataclass, annotations evaluated.

    Args:
        cls: the settings.
        resolved: nothing is open any more; until then None stands for what the store will say (`from_store`).
    """
    hints = get_type_hints(cls)
    open_ = {f.name for f in dataclasses.fields(cls) if "from_store" in f.metadata and not resolved}
    return {f.name: hints[f.name] | None if f.name in open_ else hints[f.name] for f in dataclasses.fields(cls)}


def changed(settings: Options) -> dict[str, Any]:
    """The fields that differ from their defaults, in declaration order."""
    values = {f.name: (getattr(settings, f.name), f.default) for f in dataclasses.fields(settings)}
    return {name: value for name, (value, default) in values.items() if value != default}


def check(settings: Options, *, resolved: bool = False) -> None:
    """Check types and limits of every field.

    Args:
        settings: of a run or of a method.
        resolved: as in `types_of`.

    Raises:
        UsageError: naming the field, its value and what it takes.
    """
    kinds = types_of(type(settings), resolved=resolved)
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if not _has_type(value, kinds[f.name]):
            raise UsageError(f"'{f.name}={value}' is no valid setting", f"'{f.name}' takes {_describe(kinds[f.name])}")
        if f.metadata.get("size"):
            parse_size(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        limits = f.metadata
        if not (
            math.isfinite(value)
            and limits.get("min", -math.inf) <= value <= limits.get("max", math.inf)
            and limits.get("above", -math.inf) < value < limits.get("below", math.inf)
        ):
            words = {"min": "at least", "max": "at most", "above": "above", "below": "below"}
            bounds = " and ".join(f"{words[key]} {limits[key]}" for key in words if key in limits) or "finite"
            raise UsageError(f"'{f.name}={value}' is out of range", f"'{f.name}' must be {bounds}")


def parse(name: str, text: str, kind: Any) -> Any:
    """The value that `text` means for a field of type `kind`: bool, int, float, str, a Literal, or one of them or None.

    Raises:
        UsageError: it means none.
    """
    literals, kinds = _choices(kind)
    if text in literals:
        return text
    lower = text.lower()
    if type(None) in kinds and lower in ("none", "auto"):
        return None
    if bool in kinds and lower in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return lower in ("true", "yes", "on", "1")
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                continue
    if str in kinds:
        return text
    raise UsageError(f"'{name}={text}' is no valid setting", f"'{name}' takes {_describe(kind)}")


def parse_size(text: str) -> int:
    """Bytes that a size like "512MiB", "1.5 GB" or "1073741824" means.

    >>> parse_size("1GiB"), parse_size("0.5 kB")
    (1073741824, 500)

    Raises:
        UsageError: it means none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    if not found:
        raise UsageError(f"'{text}' is no size", hint="a size is a number of bytes, or like 512MiB or 2GB")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix or " "))


def _has_type(value: object, kind: Any) -> bool:
    """Whether a value may be that of a field of this type; an int may be that of a float."""
    literals, kinds = _choices(kind)
    if isinstance(value, str) and literals and str not in kinds:
        return value in literals
    return type(value) in kinds or (type(value) is int and float in kinds)


def _choices(kind: Any) -> tuple[tuple[str, ...], tuple[type, ...]]:
    """Literal values and plain types that `kind` admits."""
    if get_origin(kind) is Literal:
        return get_args(kind), ()
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    literals = tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part))
    return literals, tuple(part for part in parts if get_origin(part) is not Literal)


def _describe(kind: Any) -> str:
    literals, kinds = _choices(kind)
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "none"}
    return " or ".join([*literals, *(names[part] for part in kinds)])
