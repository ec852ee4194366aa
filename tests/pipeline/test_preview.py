"""The contact sheet: what is where on it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.commands import contact_sheet as preview
from pipeline.recipes import load_recipe
from stores.errors import UsageError


class Pixels:
    """Images that are read as those of a store."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def read(self, rows: np.ndarray, copies: int | None = None) -> np.ndarray:
        return self.array[rows] if copies is None else self.array[rows, :copies]


def fake_store(recipe_name: str = "cutout", size: tuple[int, int] = (32, 32), copies: int = 5) -> Any:
    labels = np.array([1, 1, 0, -1, 2, 0, 2, 2])
    images = np.random.default_rng(0).integers(130, 256, (len(labels), *size, 3), dtype=np.uint8)
    recipe = load_recipe(recipe_name, {"flip": True, "shift": 4}, size)
    params = recipe.draw(1, np.arange(len(labels)), copies, size)
    made = np.empty((len(labels), copies, *size, 3), np.uint8)
    recipe.apply(images, params, made)
    return SimpleNamespace(
        name="animals",
        manifest={"recipe_columns": list(recipe.columns), "spec": {"seed": 1, "recipe": recipe.spec}},
        num_images=len(labels),
        image_size=size,
        num_copies=copies,
        class_names=["cat", "dog", "a class with quite a long name indeed"],
        train_labels=labels,
        train_files=[f"deep/er/{i}.png" for i in range(len(labels))],
        train_images=Pixels(images),
        copies=Pixels(made),
        read_params=lambda rows: params[rows],
    )


def has_outline(sheet: np.ndarray) -> bool:
    return bool((sheet == preview.OUTLINE).all(-1).any())


def test_sheet_shows_the_images_the_copies_and_their_boxes(tmp_path: Path) -> None:
    store = fake_store()
    preview.contact_sheet(store, tmp_path / "sheet.png", rows=4, copies=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert has_outline(sheet)
    shown = preview.choose_rows(store.train_labels, 4)
    x, y, side = preview.MARGIN + preview.LABEL, preview.MARGIN + 84, 96
    first = store.train_images.array[shown[0]].repeat(3, 0).repeat(3, 1)
    assert np.array_equal(sheet[y : y + side, x : x + side], first)
    top, bottom, left, right = store.read_params(shown)[0, 0] * 3
    x += side + 2 * preview.GAP
    inside = sheet[y + top + 1 : y + bottom - 1, x + left + 1 : x + right - 1]
    assert (inside == 127).all()


def test_no_more_rows_and_copies_than_there_are(tmp_path: Path) -> None:
    preview.contact_sheet(fake_store(copies=2), tmp_path / "all.png", rows=8, copies=2)
    preview.contact_sheet(fake_store(copies=2), tmp_path / "asked_for_more.png", rows=100, copies=100)
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "asked_for_more.png").read_bytes()


def test_classes_take_turns_and_unlabelled_images_come_last() -> None:
    labels = np.array([2, 2, -1, 0, 0, 1])
    assert preview.choose_rows(labels, 6).tolist() == [3, 5, 0, 2, 4, 1]


@pytest.mark.parametrize(("recipe", "size"), [("simple", (8, 8)), ("erase", (24, 40)), ("cutout", (300, 200))])
def test_every_size_and_recipe_makes_a_picture(tmp_path: Path, recipe: str, size: tuple[int, int]) -> None:
    preview.contact_sheet(fake_store(recipe, size), tmp_path / "sheet.png", rows=3, copies=5)
    sheet = Image.open(tmp_path / "sheet.png")
    width, height, _ = preview.cell_size(size)
    assert max(width, height) <= preview.LARGEST
    assert sheet.height > 3 * height
    assert has_outline(np.asarray(sheet)) == (recipe != "simple")


def test_long_class_names_are_shortened(tmp_path: Path) -> None:
    from PIL import ImageDraw, ImageFont

    draw, font = ImageDraw.Draw(Image.new("RGB", (9, 9))), ImageFont.load_default(16)
    assert preview.shortened(draw, "cat", font, 100) == "cat"
    short = preview.shortened(draw, "a class with quite a long name indeed", font, 100)
    assert short.endswith("…")
    assert draw.textlength(short, font) <= 100


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        preview.contact_sheet(fake_store(), tmp_path / "nowhere" / "sheet.png")
