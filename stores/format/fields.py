"""Validation of a manifest's fields.

A manifest may come from anywhere, so everything that is used later is checked first: types down to the last element,
ranges of numbers, names that stay inside the store's folder. Nothing here reads files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from stores.format.names import is_name

MOST = 1 << 48  # images or bytes: far above any store
SMALLEST_SIDE = 4  # pixels, to be built or trained on; stores of smaller images can be read
LARGEST_SIDE = 1 << 16  # pixels
MOST_FEATURES = 1 << 20  # of an embedding
MOST_STRONG = 1 << 12  # strong copies of an image
MOST_BATCH = 1 << 20  # images of one forward pass
_DIGEST = re.compile(r"[0-9a-f]{64}")

Check = Callable[[Any], bool]


def wrong(manifest: dict[str, Any]) -> list[str]:
    """Names of the fields that are missing or wrong; empty if there are none."""
    kind = manifest.get("kind")
    own = _OF_KIND.get(kind) if isinstance(kind, str) else None
    if own is None:
        return ["kind"]
    checks = {"complete": instance_of(bool), "spec": instance_of(dict), **own}
    if manifest.get("complete") is True:
        checks |= {"files": _files, "fingerprint": digest}
    return failed(manifest, checks) or _do_not_fit(manifest)


def failed(content: dict[str, Any], checks: Mapping[str, Check]) -> list[str]:
    """Names of the fields, "field" or "field.subfield", that do not pass their check."""
    return [name for name, check in checks.items() if not check(at(content, name))]


def at(manifest: Any, name: str) -> Any:
    """The value of a field or subfield ("dataset.name"); None if there is none."""
    for part in name.split("."):
        manifest = manifest.get(part) if isinstance(manifest, dict) else None
    return manifest


def _do_not_fit(manifest: dict[str, Any]) -> list[str]:
    """Fields that are valid by themselves but contradict each other."""
    if manifest["kind"] == "split":
        classes = len(manifest["class_names"])
        return [] if all(number < classes for number in manifest["class_map"]) else ["class_map"]
    if manifest["kind"] == "embeddings":
        return []
    fits = manifest["weak"]["shift"] < min(manifest["image_size"])  # a border is reflected once
    return [] if fits else ["weak.shift"]


def instance_of(*kinds: type) -> Check:
    """An object of one of these types."""
    return lambda value: isinstance(value, kinds)


def whole(low: int, high: int = MOST) -> Check:
    """An integer in [low, high]; booleans do not count."""
    return lambda value: type(value) is int and low <= value <= high


def list_of(each: Check, least: int = 0) -> Check:
    """A list of at least `least` elements that all pass `each`."""
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(each, value))


def with_fields(checks: dict[str, Check]) -> Check:
    """An object whose fields pass these checks."""
    return lambda value: isinstance(value, dict) and all(check(value.get(name)) for name, check in checks.items())


def text(value: Any) -> bool:
    """A string that can be encoded; JSON may contain half a surrogate pair."""
    return isinstance(value, str) and (value.isascii() or _encodes(value))


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def digest(value: Any) -> bool:
    """A SHA-256 in hexadecimal."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def number(low: float, high: float) -> Check:
    """A finite number in [low, high]; booleans and NaN do not count."""
    return lambda value: type(value) in (int, float) and low <= value <= high


def interval(value: Any) -> bool:
    """A list [low, high] with low < high."""
    return list_of(number(-MOST, MOST))(value) and len(value) == 2 and value[0] < value[1]


def _path(value: str) -> bool:
    """Whether this is the path of a file below the store's folder."""
    parts = PurePosixPath(value).parts
    return (
        0 < len(value) < 1024
        and value.isprintable()
        and text(value)
        and value == "/".join(parts)
        and not {"..", ".", "/"} & set(parts)
        and value != "zarr.json"
    )


def is_file(key: Any, facts: Any) -> bool:
    """Whether a manifest or journal may have this path of a file, with these facts about it."""
    return isinstance(key, str) and _path(key) and with_fields({"bytes": whole(0), "sha256": digest})(facts)


def _files(value: Any) -> bool:
    return isinstance(value, dict) and all(is_file(key, facts) for key, facts in value.items())


def or_none(check: Check) -> Check:
    """Null, or what passes `check`."""
    return lambda value: value is None or check(value)


_DATASET: dict[str, Check] = {
    "class_names": list_of(text, 1),
    "spec.recipe.name": text,
    "spec.seed": whole(0),
    "spec.source.range": or_none(interval),
    "protocol": or_none(text),
    "weak.flip": instance_of(bool),
    "weak.shift": whole(0, LARGEST_SIDE),
    "num_images": whole(1),
    "num_test": whole(0),
    "num_copies": whole(0),
    "image_size": lambda value: list_of(whole(1, LARGEST_SIDE))(value) and len(value) == 2,
    "recipe_columns": list_of(text),
    "copies_format": lambda value: value in (None, "zarr", "ffcv"),
    "ffcv": or_none(instance_of(dict)),
}
_SPLIT: dict[str, Check] = {
    "class_names": list_of(text, 1),
    "protocol": text,
    "seed": whole(0),
    "gamma": number(0, 1),
    "class_map": list_of(whole(-1)),
    "labeled_in_unlabeled": instance_of(bool),
    **{f"counts.{name}": whole(0) for name in ("labeled", "unlabeled", "valid", "test")},
    "dataset.name": is_name,
    "dataset.fingerprint": text,
}
_EMBEDDINGS: dict[str, Check] = {
    "spec.dataset": digest,
    "spec.backbone": text,
    "spec.weights_sha256": digest,
    "spec.preprocessing": instance_of(dict),
    "spec.size": whole(1, LARGEST_SIDE),
    "spec.copies": whole(0),
    "spec.weak": or_none(with_fields({"flip": instance_of(bool), "shift": whole(0, LARGEST_SIDE)})),
    "spec.strong": or_none(with_fields({"recipe": instance_of(dict), "copies": whole(1, MOST_STRONG)})),
    "dataset": with_fields({"name": is_name}),
    "weights": lambda value: value in ("pretrained", "none", "file"),
    "num_images": whole(1),
    "num_test": whole(0),
    "num_features": whole(1, MOST_FEATURES),
    "arithmetic.precision": lambda value: value in ("fp32", "bf16"),
    "arithmetic.batch": whole(1, MOST_BATCH),
    "versions": instance_of(dict),
}
_OF_KIND = {"dataset": _DATASET, "split": _SPLIT, "embeddings": _EMBEDDINGS}
