"""A contact sheet of a store: images beside their copies, with erased boxes outlined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stores.errors import UsageError
from stores.system import aside
from stores.system.text import visible

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

    from stores import DatasetStore

INK, GREY, PAPER, OUTLINE = (24, 24, 27), (113, 113, 122), (255, 255, 255), (234, 88, 12)
MARGIN, GAP, LABEL = 28, 8, 150  # pixels around the sheet, between cells, and of the column of class names
CELL = 96  # side in pixels that small images are enlarged to, by a whole factor
LARGEST = 160  # side in pixels that large images are reduced to


def contact_sheet(store: DatasetStore, path: Path, rows: int = 8, copies: int = 12) -> None:
    """Write a PNG with a row for each image: its class and file, the image, and its first copies.

    Args:
        store: a dataset store.
        path: the file to write.
        rows: number of images, of the classes in turn.
        copies: of each image, if the store has as many.

    Raises:
        UsageError: the folder of `path` does not exist.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not path.parent.is_dir():
        raise UsageError(f"no folder '{path.parent}' to write the picture to", hint=f"mkdir -p {path.parent}")
    shown, copies = choose_rows(store.train_labels, rows), min(copies, store.num_copies)
    width, height, scale = cell_size(store.image_size)
    wide = MARGIN + LABEL + (width + GAP) * (copies + 1) + GAP + MARGIN
    top = MARGIN + 84
    sheet = Image.new("RGB", (max(wide, 640), top + (height + GAP) * len(shown) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    title, text, small = (ImageFont.load_default(size) for size in (24, 16, 13))

    spec = store.manifest["spec"]
    draw.text((MARGIN, MARGIN), visible(store.name), INK, title)
    facts = [
        f"recipe {visible(spec['recipe']['name'])[:80]}",
        f"seed {spec['seed']}",
        f"{store.num_images:,} images of {store.image_size[1]} by {store.image_size[0]} pixels",
        f"{store.num_copies} copies each, {copies} shown",
    ]
    draw.text((MARGIN, MARGIN + 34), "  ·  ".join(facts), GREY, text)

    left = [MARGIN + LABEL + (width + GAP) * i + (GAP if i else 0) for i in range(copies + 1)]
    for i, x in enumerate(left):
        draw.text((x + width / 2, top - 8), f"copy {i}" if i else "image", GREY, small, anchor="ms")
    files = store.train_files
    for row, (label, cells, boxes), y in zip(
        shown.tolist(), _rows(store, shown, copies), range(top, sheet.height, height + GAP), strict=False
    ):
        draw.text((MARGIN, y + height / 2), shortened(draw, label, text, LABEL - GAP), INK, text, anchor="lm")
        if files is not None:
            name = shortened(draw, files[row].rpartition("/")[2], small, LABEL - GAP)
            draw.text((MARGIN, y + height / 2 + 20), name, GREY, small, anchor="lm")
        for i, cell in enumerate(cells):
            sampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
            sheet.paste(Image.fromarray(cell).resize((width, height), sampling), (left[i], y))
            if i and boxes is not None:
                _outline(draw, boxes[i - 1], scale, left[i], y)
    with aside.output(path) as out:
        sheet.save(out, format="PNG")


def choose_rows(labels: np.ndarray, count: int) -> np.ndarray:
    """Rows, int64 [≤ count]: the first image of each class, then the second of each, and so on."""
    labels = labels[:10_000].astype(np.uint64)  # a store's order is random; no label (−1) comes last
    by_class = np.argsort(labels, kind="stable")
    turn = np.arange(len(labels)) - np.searchsorted(labels[by_class], labels[by_class])
    return by_class[np.argsort(turn, kind="stable")[:count]]


def _rows(store: DatasetStore, shown: np.ndarray, copies: int) -> list[tuple[str, list[np.ndarray], np.ndarray | None]]:
    """For each image: class name, [image, copy 1, …], and boxes int [copies, 4] or None."""
    names = [store.class_names[label] if label >= 0 else "(no label)" for label in store.train_labels[shown].tolist()]
    cells = [[image] for image in store.train_images.read(shown)]
    columns: Sequence[str] = store.manifest["recipe_columns"]
    boxes: list[np.ndarray] | list[None] = [None] * len(shown)
    if copies and store.copies is not None:
        for row, made in zip(cells, store.copies.read(shown, copies=copies), strict=True):
            row.extend(made)
        if {"top", "bottom", "left", "right"} <= set(columns):
            places = [list(columns).index(name) for name in ("top", "bottom", "left", "right")]
            boxes = list(store.read_params(shown)[:, :copies][..., places])
    return list(zip(names, cells, boxes, strict=True))


def cell_size(size: tuple[int, int]) -> tuple[int, int, float]:
    """Width and height of a cell in pixels, and the scale, a whole number for small images."""
    longest = max(size)
    scale: float = max(1, round(CELL / longest))
    if longest > LARGEST:
        scale = LARGEST / longest
    return max(1, round(size[1] * scale)), max(1, round(size[0] * scale)), scale


def _outline(draw: ImageDraw.ImageDraw, box: np.ndarray, scale: float, x: int, y: int) -> None:
    top, bottom, left, right = (round(edge * scale) for edge in box.tolist())
    if bottom > top and right > left:
        draw.rectangle((x + left, y + top, x + right - 1, y + bottom - 1), outline=OUTLINE)


def shortened(
    draw: ImageDraw.ImageDraw, label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    """The label, shortened until it fits."""
    label = visible(label)[:width]
    if draw.textlength(label, font) <= width:
        return label
    while label and draw.textlength(label + "…", font) > width:
        label = label[:-1]
    return label + "…"
