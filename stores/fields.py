"""What every field of a manifest must be.

A manifest may come from anywhere, so all that is read from it later is checked here first: types down to the last
element, numbers within the range of their meaning, names that stay inside the store's folder. Nothing here reads files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from stores.names import is_name

MOST = 1 << 48  # images, bytes: far above any store, far below what overflows a 64-bit product of a few of them
LARGEST_SIDE = 1 << 16  # pixels
_DIGEST = re.compile(r"[0-9a-f]{64}")

Check = Callable[[Any], bool]


def wrong(manifest: dict[str, Any]) -> list[str]:
    """Names of the fields that are missing or not what they must be; empty if all is well."""
    kind = manifest.get("kind")
    own = {"dataset": _DATASET, "split": _SPLIT}.get(kind) if isinstance(kind, str) else None
    if own is None:
        return ["kind"]
    checks = {"complete": _is(bool), **_BOTH, **own}
    if manifest.get("complete") is True:
        checks |= {"files": _files, "fingerprint": _digest}
    return [name for name, check in checks.items() if not check(_at(manifest, name))] or _do_not_fit(manifest)


def _at(manifest: Any, name: str) -> Any:
    """The value of a field, of a field's field: "dataset.name"; None if there is none."""
    for part in name.split("."):
        manifest = manifest.get(part) if isinstance(manifest, dict) else None
    return manifest


def _do_not_fit(manifest: dict[str, Any]) -> list[str]:
    """Fields that are well by themselves and contradict one another."""
    if manifest["kind"] == "split":
        classes = len(manifest["class_names"])
        return [] if all(number < classes for number in manifest["class_map"]) else ["class_map"]
    fits = manifest["weak"]["shift"] < min(manifest["image_size"])  # a border is reflected once
    return [] if fits else ["weak.shift"]


def _is(*kinds: type) -> Check:
    return lambda value: isinstance(value, kinds)


def _whole(low: int, high: int = MOST) -> Check:
    return lambda value: type(value) is int and low <= value <= high  # True is no number


def _list(each: Check, least: int = 0) -> Check:
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(each, value))


def _fields(checks: dict[str, Check]) -> Check:
    return lambda value: isinstance(value, dict) and all(check(value.get(name)) for name, check in checks.items())


def _text(value: Any) -> bool:
    """A string that can be printed: JSON may spell half of a surrogate pair."""
    return isinstance(value, str) and (value.isascii() or _encodes(value))


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1  # NaN is not


def _path(value: str) -> bool:
    """A path to a file below the store's folder."""
    parts = PurePosixPath(value).parts
    return (
        0 < len(value) < 1024 and value.isprintable() and _text(value) and value == "/".join(parts)
        and not {"..", ".", "/"} & set(parts) and value != "zarr.json"
    )  # fmt: skip


def is_file(key: Any, facts: Any) -> bool:
    """Whether this is the path of a file of a store, and what a manifest or a journal says of it."""
    return isinstance(key, str) and _path(key) and _fields({"bytes": _whole(0), "sha256": _digest})(facts)


def _files(value: Any) -> bool:
    return isinstance(value, dict) and all(is_file(key, facts) for key, facts in value.items())


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


_BOTH: dict[str, Check] = {"spec": _is(dict), "class_names": _list(_text, 1)}
_DATASET: dict[str, Check] = {
    "spec.recipe.name": _text,
    "spec.seed": _whole(0),
    "protocol": _or_none(_text),
    "weak.flip": _is(bool),
    "weak.shift": _whole(0, LARGEST_SIDE),
    "num_images": _whole(1),
    "num_test": _whole(0),
    "num_copies": _whole(0),
    "image_size": lambda value: _list(_whole(1, LARGEST_SIDE))(value) and len(value) == 2,
    "recipe_columns": _list(_text),
    "copies_format": lambda value: value in (None, "zarr", "ffcv"),
    "ffcv": _or_none(_is(dict)),
}
_SPLIT: dict[str, Check] = {
    "protocol": _text,
    "seed": _whole(0),
    "gamma": _share,
    "class_map": _list(_whole(-1)),
    "labeled_in_unlabeled": _is(bool),
    **{f"counts.{name}": _whole(0) for name in ("labeled", "unlabeled", "valid", "test")},
    "dataset.name": is_name,
    "dataset.fingerprint": _text,
}
