"""Copies made with albumentations: `color`, `strong`, and any pipeline from a file.

The parameter of a copy is a seed, drawn for each (image, copy). The pipeline's generators are seeded with it before
each call, so a copy does not depend on previous calls. A file is plain YAML or JSON, and its transforms must be
albumentations' own: nothing in it is imported or run, and transforms that open files are refused.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.recipes.boxes import fill_boxes
from pipeline.recipes.cutout import draw_squares
from pipeline.recipes.recipe import Recipe, number
from stores.copies import BOX
from stores.draws import key, philox
from stores.errors import StoreError, UsageError, install, suggest

SUFFIXES = (".yaml", ".yml", ".json")
# they open files that the recipe names: copies would depend on more than their image, and could show any file
_OPEN_FILES = frozenset({"HistogramMatching", "FDA", "PixelDistributionAdaptation", "TextImage"})
_DEEPEST, _LARGEST = 16, 65536  # limits of nesting and of numbers, far above what pipelines need
# limits of fields whose name contains a word, because they set how much memory or time a transform takes
_LARGEST_OF = {
    "height": 2048,
    "width": 2048,
    "size": 2048,
    "shape": 2048,
    "pad": 2048,
    "px": 2048,
    "scale": 64,
    "blur": 127,
    "radius": 127,
    "kernel": 127,
    "sigma": 128,
    "grid": 64,
    "nb_": 16,
    "num_": 256,
    "number": 256,
    "iterations": 16,
    "delta": 32,
    "segments": 256,
    "steps": 64,
    "dimension": 256,
    "factor": 64,
    "max_factor": 4,
}
_LEAST_STEP = 1e-3  # least value of fields called "step…"
_MOST_CALLS = 256  # of transforms for one copy
_SIDES = ("height", "width", "size", "shape", "pad", "px")  # fields in pixels
_FACTORS = ("scale", "percent", "zoom")  # fields relative to the image's size
_MOST_PIXELS, _MOST_GROWTH = 2048, 4.0  # pixels added to a side, and factor, by all transforms of a pipeline together
_HINT = "write it with albumentations.save(pipeline, 'my.yaml', data_format='yaml')"


def color_spec(size: tuple[int, int]) -> dict:
    """Colour jitter and greying, with the strengths of SimCLR at half scale (Chen et al. 2020)."""
    A = _albumentations()
    jitter = A.ColorJitter(brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.6, 1.4), hue=(-0.1, 0.1), p=0.8)
    return make_spec("color", A.to_dict(A.Compose([jitter, A.ToGray(p=0.2)])), size)


def strong_spec(size: tuple[int, int]) -> dict:
    """Two random operations of RandAugment's list (Cubuk et al. 2020; ranges of Sohn et al. 2020), then CutOut."""
    A = _albumentations()
    grey, steady = {"fill": 127, "p": 1}, (1, 1)
    operations = [
        A.NoOp(p=1),
        A.AutoContrast(p=1),
        A.Equalize(p=1),
        A.Solarize(threshold_range=(0, 1), p=1),
        A.Posterize(num_bits=(4, 8), p=1),
        A.Sharpen(alpha=(0.05, 0.95), p=1),
        A.ColorJitter(brightness=(0.05, 0.95), contrast=steady, saturation=steady, hue=(0, 0), p=1),
        A.ColorJitter(brightness=steady, contrast=(0.05, 0.95), saturation=steady, hue=(0, 0), p=1),
        A.ColorJitter(brightness=steady, contrast=steady, saturation=(0.05, 0.95), hue=(0, 0), p=1),
        A.Rotate(limit=(-30, 30), **grey),
        A.Affine(shear={"x": (-17, 17), "y": (0, 0)}, **grey),
        A.Affine(shear={"x": (0, 0), "y": (-17, 17)}, **grey),
        A.Affine(translate_percent={"x": (-0.3, 0.3), "y": (0, 0)}, **grey),
        A.Affine(translate_percent={"x": (0, 0), "y": (-0.3, 0.3)}, **grey),
    ]
    pipeline = A.Compose([A.SomeOf(operations, n=2, replace=True, p=1)])
    return make_spec("strong", A.to_dict(pipeline), size, cutout=0.5)


def file_spec(path: Path, size: tuple[int, int]) -> dict:
    """The spec of a pipeline as `albumentations.save` writes it; a file that is none is a `UsageError`."""
    _albumentations()  # it brings the parser
    from pipeline.recipes import parse

    parsed = parse.read(path, _HINT)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("transform"), dict):
        raise UsageError(f"the recipe '{path}' is not an albumentations pipeline", "it has no 'transform'", _HINT)
    return make_spec(path.stem, parsed, size)


def make_spec(name: str, serialised: dict, size: tuple[int, int], cutout: float | None = None) -> dict:
    """The complete spec of a serialised pipeline, after a trial on an image of (H, W).

    Args:
        serialised: as `albumentations.to_dict` returns it.
        cutout: side of a CutOut square that follows the pipeline, by the image's shorter side.
    """
    A = _albumentations()
    pipeline = _build(name, serialised)
    _try(name, pipeline, size)
    transform = json.loads(json.dumps(A.to_dict(pipeline)["transform"]))
    spec = {
        "kind": "albumentations",
        "name": name,
        "version": 1,
        "albumentations": A.__version__,
        "transform": transform,
    }
    return spec | ({"cutout": cutout, "fill": 127} if cutout else {})


def make_recipe(spec: dict) -> Recipe:
    """The recipe of a spec; another version of albumentations, which may draw other pixels, is a `StoreError`."""
    A, name = _albumentations(), spec["name"]
    share = number(spec, "cutout", 0, 2) if spec.get("cutout") else 0
    fill = int(number(spec, "fill", 0, 255)) if share else 0
    version = spec.get("albumentations")
    if not isinstance(version, str) or not re.fullmatch(r"[\w.+]{1,40}", version):  # it becomes part of a command line
        raise StoreError(f"the recipe '{name}' does not say its version of albumentations", "its spec is damaged")
    if version != A.__version__:
        raise StoreError(
            f"the recipe '{name}' was made with albumentations {version}, this is {A.__version__}",
            "another version may make other pixels",
            f"pip install albumentations=={version}",
        )
    try:
        pipeline = _build(name, spec)
    except UsageError as error:
        raise StoreError(error.what, error.why, "the store's spec is damaged or not realmix's") from error

    def draw(seed: int, rows: np.ndarray, copies: int, size: tuple[int, int]) -> np.ndarray:
        assert copies >= 1, "at least one copy"
        seeds = philox(key(seed, name), np.asarray(rows)[:, None], np.arange(copies))[0] >> np.uint64(1)
        params = seeds.astype(np.int32)[..., None]
        if not share:
            return params
        return np.concatenate([params, draw_squares(key(seed, f"{name} cutout"), rows, copies, size, share)], axis=-1)

    def apply(images: np.ndarray, params: np.ndarray, out: np.ndarray) -> None:
        for image, seeds, copies in zip(images, params[..., 0].tolist(), out, strict=True):
            for seed, copy in zip(seeds, copies, strict=True):
                copy[...] = _call(name, pipeline, image, seed)
        if share:
            fill_boxes(out, params[..., 1:], fill)

    return Recipe(name, spec, ("seed", *BOX) if share else ("seed",), False, draw, apply)


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no request to the network at import
    try:
        import albumentations
    except ImportError as error:
        raise UsageError("this recipe needs albumentations", str(error), install("data")) from error
    return albumentations


def _build(name: str, serialised: dict) -> Any:
    """The pipeline of a dictionary; what albumentations does not know, or warns about, is a UsageError."""
    A = _albumentations()
    _check_names(name, serialised.get("transform"))
    _check_values(name, serialised["transform"])
    if (calls := _calls(serialised["transform"])) > _MOST_CALLS:
        why = f"a copy would take up to {calls:.3g} transforms, more than {_MOST_CALLS}"
        raise UsageError(f"the recipe '{name}' is not a pipeline for images", why, _HINT)
    added, growth = _growth(serialised["transform"])
    if added > _MOST_PIXELS or growth > _MOST_GROWTH:
        why = f"together its transforms may add {added:.0f} pixels to a side and make it {growth:.3g} times as long"
        raise UsageError(f"the recipe '{name}' would make images too large", why, _HINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            pipeline = A.from_dict({"transform": serialised["transform"]})
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, UserWarning) as error:
        raise UsageError(f"albumentations cannot build the recipe '{name}'", str(error), _HINT) from error
    return pipeline if isinstance(pipeline, A.Compose) else A.Compose([pipeline])


def _check_values(name: str, value: Any, depth: int = 0, most: int = _LARGEST, least: float = 0) -> None:
    """Refuse numbers that would take too much memory or time, and excessive nesting."""
    beyond = isinstance(value, int | float) and not (least <= abs(value) <= most or value == 0)
    if beyond or depth > _DEEPEST:
        why = "it is nested too deeply" if depth > _DEEPEST else "a number in it is out of range"
        raise UsageError(f"the recipe '{name}' is not a pipeline for images", why, _HINT)
    if isinstance(value, dict):
        for field, inner in value.items():
            bound = min((limit for word, limit in _LARGEST_OF.items() if word in str(field)), default=most)
            _check_values(name, inner, depth + 1, bound, _LEAST_STEP if "step" in str(field) else 0)
    for inner in value if isinstance(value, list) else ():
        _check_values(name, inner, depth + 1, most, least)


def _calls(transform: dict) -> int:
    """Upper limit of the transforms applied to a copy; a transform may be chosen repeatedly."""
    inner = [_calls(one) for one in transform.get("transforms") or ()]
    picked = transform.get("n")
    if not inner:
        return 1
    return int(picked) * max(inner) if isinstance(picked, int | float) else sum(inner)


def _growth(value: Any, field: str = "") -> tuple[float, float]:
    """Upper limits of the pixels that a pipeline adds to a side, and of the factor by which it enlarges it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if any(word in field for word in _FACTORS):
            offset = "limit" in field or "percent" in field  # relative to 0, and applied on both sides
            return 0.0, 1 + 2 * abs(value) if offset else max(1.0, abs(value))
        return (abs(value) if any(word in field for word in _SIDES) else 0.0), 1.0
    if isinstance(value, list) and not any(isinstance(inner, dict | list) for inner in value):
        grown = [_growth(inner, field) for inner in value]  # a range, or height and width: the larger value counts
        return max((a for a, _ in grown), default=0.0), max((g for _, g in grown), default=1.0)
    inners = value.items() if isinstance(value, dict) else []
    if isinstance(value, list):
        inners = [(field, inner) for inner in value]
    grown = [_growth(inner, name) for name, inner in inners]
    return sum(a for a, _ in grown), math.prod(g for _, g in grown)


def _check_names(name: str, transform: Any, depth: int = 0) -> None:
    from albumentations.core.serialization import SERIALIZABLE_REGISTRY, shorten_class_name

    named = isinstance(transform, dict) and isinstance(transform.get("__class_fullname__"), str)
    if not named or not isinstance(transform.get("transforms", []), list) or depth > _DEEPEST:
        what = f"the recipe '{name}' is not an albumentations pipeline"
        raise UsageError(what, f"no transform: {repr(transform)[:200] if depth <= _DEEPEST else '…'}", _HINT)
    known = shorten_class_name(transform["__class_fullname__"])
    if known in _OPEN_FILES:
        raise UsageError(f"the recipe '{name}' has '{known}', which opens files", "a recipe is complete in itself")
    own = getattr(SERIALIZABLE_REGISTRY.get(known), "__module__", "").startswith("albumentations.")
    if not own:
        close = suggest(known, SERIALIZABLE_REGISTRY)
        hint = close if close.startswith("did") else "see albumentations' list of transforms"
        raise UsageError(f"the recipe '{name}' has an unknown transform '{known}'", hint=hint)
    for inner in transform.get("transforms") or ():
        _check_names(name, inner, depth + 1)


def _try(name: str, pipeline: Any, size: tuple[int, int]) -> None:
    """Make a few copies of a gradient: they must keep its size and dtype, and depend on the seed only."""
    image = np.linspace(0, 255, size[0] * size[1] * 3).reshape(*size, 3).astype(np.uint8)
    seeds = range(8)
    first = [_call(name, pipeline, image, seed).tobytes() for seed in seeds]
    again = [_call(name, pipeline, image, seed).tobytes() for seed in reversed(seeds)]
    if first != again[::-1]:
        raise UsageError(
            f"the recipe '{name}' is not a function of its seed", "a transform in it keeps state between calls"
        )


def _call(name: str, pipeline: Any, image: np.ndarray, seed: int) -> np.ndarray:
    """Make one copy. All transforms share the two generators; seeded separately, they would draw the same numbers."""
    import cv2
    from albumentations.augmentations.crops.transforms import CropSizeError

    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    try:
        copy = pipeline(image=image.copy())["image"]
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, MemoryError, CropSizeError, cv2.error) as error:
        raise UsageError(f"the recipe '{name}' failed on an image of {image.shape}", str(error)) from error
    if not isinstance(copy, np.ndarray) or copy.shape != image.shape or copy.dtype != np.uint8:
        got = f"{copy.dtype} {copy.shape}" if isinstance(copy, np.ndarray) else type(copy).__name__
        why = f"it returned {got}, but a copy is uint8 {image.shape} as its image"
        raise UsageError(f"the recipe '{name}' does not make copies", why, "remove ToFloat, Normalize, ToTensor, crops")
    return copy
