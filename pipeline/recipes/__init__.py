"""Recipes, which make the copies of images: by name, from an albumentations file, or from the spec in a manifest."""

from __future__ import annotations

from pathlib import Path

from pipeline.recipes import cutout, erase, library, simple
from pipeline.recipes.recipe import Recipe
from stores.errors import StoreError, UsageError, suggest

__all__ = ["NAMES", "Recipe", "from_spec", "load_recipe"]

NAMES = {
    "cutout": "one grey square, half the side of the image, clipped at the border (the default)",
    "erase": "with probability .3 a random rectangle of a random grey",
    "simple": "the dataset's flip and shift",
    "color": "colour jitter and greying",
    "strong": "two random operations of RandAugment's list, then cutout",
}


def load_recipe(name: str, weak: dict, size: tuple[int, int]) -> Recipe:
    """The recipe of a name, or of an albumentations file (.yaml, .yml, .json).

    Args:
        name: one of `NAMES`, or a path.
        weak: the dataset's weak augmentation, {"flip": bool, "shift": pixels}.
        size: (H, W) of the images.

    Raises:
        UsageError: an unknown name, a missing or broken file, or a recipe that cannot make copies of this size.
    """
    if name in NAMES:
        return from_spec(_named_spec(name, weak, size))
    if Path(name).suffix.lower() in library.SUFFIXES:
        return from_spec(library.file_spec(Path(name), size))
    hint = "a recipe of your own is an albumentations file: my.yaml or my.json"
    raise UsageError(f"unknown recipe '{name}'", suggest(name, NAMES), hint)


def from_spec(spec: dict) -> Recipe:
    """The recipe that a store's manifest describes. Nothing in the spec is run, and every number is checked.

    Raises:
        StoreError: its kind or version is unknown, it was made with another version of albumentations, or it is
            damaged.
    """
    if not isinstance(spec, dict) or not all(isinstance(spec.get(field), str) for field in ("kind", "name")):
        raise StoreError("the store's recipe is not described as realmix does", "its spec lacks a kind or a name")
    kinds = {"cutout": cutout, "erase": erase, "simple": simple, "albumentations": library}
    if spec.get("kind") not in kinds or spec.get("version") != 1:
        what = f"unknown recipe '{spec.get('name')}', version {spec.get('version')}"
        raise StoreError(what, "the store was made by a newer version", "upgrade realmix")
    return kinds[spec["kind"]].make_recipe(spec)


def _named_spec(name: str, weak: dict, size: tuple[int, int]) -> dict:
    match name:
        case "cutout":
            return cutout.make_spec()
        case "erase":
            spec = erase.make_spec()
            erase.check_size(size, spec)
            return spec
        case "simple":
            return simple.make_spec(weak)
        case "color":
            return library.color_spec(size)
        case _:
            return library.strong_spec(size)
