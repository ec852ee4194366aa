"""What a copy of the recipes `cutout` and `erase` is: its base image with one box of one value.

A copy is described by a few integers, stored in `copies/params`. For these two recipes they are a half-open box, and
for `erase` also the value that fills it; `cutout` has one value for all copies, in its spec. The pipeline makes copies
from this description and the trainer can draw them again from the base images, both to the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

BOX = ("top", "bottom", "left", "right")  # half-open: rows top … bottom−1, columns left … right−1
COLUMNS = {"cutout": BOX, "erase": (*BOX, "fill")}  # what the params of a copy mean, by the kind of recipe
VERSION = 1  # of both recipes, as described here


def is_drawable(manifest: Mapping[str, Any]) -> bool:
    """Whether a dataset store's copies follow from its base images and params, by a recipe described here.

    Args:
        manifest: of the dataset store; one of a newer version, or damaged, gives False.
    """
    recipe = manifest.get("spec", {}).get("recipe", {})
    kind, fill = str(recipe.get("kind")), recipe.get("fill")
    if kind not in COLUMNS or recipe.get("version") != VERSION or not manifest.get("num_copies"):
        return False
    columns = manifest.get("recipe_columns") == [*COLUMNS[kind]]
    return columns and (kind != "cutout" or (type(fill) is int and 0 <= fill <= 255))


def boxes_of(recipe: Mapping[str, Any], params: np.ndarray) -> tuple[np.ndarray, np.ndarray | int]:
    """The box of each copy and the value that fills it.

    Args:
        recipe: spec of a recipe in `COLUMNS`.
        params: int32 [..., P], as stored.

    Returns:
        int32 [..., 4] as `BOX`, empty boxes leave the image as it is; the value 0 … 255, int32 [...] or one for all.
    """
    return params[..., :4], int(recipe["fill"]) if recipe["kind"] == "cutout" else params[..., 4]


def are_valid(params: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether all boxes lie inside images of size (H, W) and all values in 0 … 255; params as of `boxes_of`."""
    (height, width), columns = size, params.shape[-1]
    limits = [height, height, width, width, 255][:columns]
    return not params.size or bool(params.min() >= 0 and (params <= limits).all())
