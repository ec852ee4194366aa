"""Recipes that run albumentations: pure functions of their seeds, and files that are data, never code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import numpy as np
import pytest

from pipeline.recipes import Recipe, from_spec, load_recipe
from stores.errors import StoreError, UsageError

WEAK = {"flip": True, "shift": 4}
SIZE = (16, 16)


def save(pipeline: Any, path: Path) -> str:
    A.save(pipeline, str(path), data_format="json" if path.suffix == ".json" else "yaml")
    return str(path)


def copies_of(recipe: Recipe, images: np.ndarray, params: np.ndarray) -> np.ndarray:
    out = np.zeros((len(images), params.shape[1], *images.shape[1:]), np.uint8)
    recipe.apply(images, params, out)
    return out


def some_images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["color", "strong"])
def test_copies_are_the_same_in_any_order_and_any_batch(name: str) -> None:
    recipe, images = load_recipe(name, WEAK, SIZE), some_images()
    params = recipe.draw(1, np.arange(3), 8, SIZE)
    assert params.dtype == np.int32
    assert params.min() >= 0
    made = copies_of(recipe, images, params)
    assert np.array_equal(copies_of(recipe, images[::-1], params[::-1])[::-1], made)
    assert np.array_equal(copies_of(recipe, images[1:2], params[1:2, ::-1])[0, ::-1], made[1])
    assert np.array_equal(recipe.draw(1, np.array([2]), 4, SIZE), params[2:, :4])
    assert len({copy.tobytes() for copy in made.reshape(-1, *SIZE, 3)}) > 15
    assert np.array_equal(images, some_images())


def test_copies_are_the_same_in_another_process() -> None:
    recipe = load_recipe("strong", WEAK, SIZE)
    params = recipe.draw(1, np.arange(2), 4, SIZE)
    made = copies_of(recipe, some_images(2), params)
    program = """
import json, sys
import numpy as np
from pipeline.recipes import from_spec
spec, params = json.loads(sys.stdin.read())
images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
out = np.zeros((2, 4, 16, 16, 3), np.uint8)
from_spec(spec).apply(images[::-1], np.array(params)[::-1], out)
sys.stdout.buffer.write(out[::-1].tobytes())
"""
    told = json.dumps([recipe.spec, params.tolist()]).encode()
    done = subprocess.run([sys.executable, "-c", program], input=told, capture_output=True, check=True)
    assert done.stdout == made.tobytes()


def test_the_transforms_of_a_pipeline_draw_independently(tmp_path: Path) -> None:
    """Two flips of p = ½ give four outcomes; with equal seeds for both there would be two."""
    path = save(A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]), tmp_path / "flips.yaml")
    recipe, images = load_recipe(path, WEAK, SIZE), some_images(1)
    made = copies_of(recipe, images, recipe.draw(1, np.arange(1), 200, SIZE))[0]
    options = [images[0], images[0, ::-1], images[0, :, ::-1], images[0, ::-1, ::-1]]
    counts = [sum(np.array_equal(copy, option) for copy in made) for option in options]
    assert sum(counts) == 200
    assert min(counts) > 25


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_file_is_a_recipe_complete_in_its_spec(tmp_path: Path, suffix: str) -> None:
    pipeline = A.Compose([A.OneOf([A.Rotate(limit=(-15, 15), p=1), A.GaussianBlur(p=1)], p=0.9), A.InvertImg(p=0.5)])
    path = tmp_path / f"mine{suffix}"
    recipe = load_recipe(save(pipeline, path), WEAK, SIZE)
    path.unlink()
    assert (recipe.name, recipe.columns, recipe.vectorised) == ("mine", ("seed",), False)
    assert recipe.spec["albumentations"] == A.__version__
    again, params = from_spec(json.loads(json.dumps(recipe.spec))), recipe.draw(1, np.arange(3), 5, SIZE)
    assert np.array_equal(copies_of(again, some_images(), params), copies_of(recipe, some_images(), params))


def test_a_single_transform_is_a_pipeline_of_one(tmp_path: Path) -> None:
    recipe = load_recipe(save(A.InvertImg(p=1), tmp_path / "invert.json"), WEAK, SIZE)
    made = copies_of(recipe, some_images(), recipe.draw(1, np.arange(3), 2, SIZE))
    assert np.array_equal(made, np.broadcast_to(255 - some_images()[:, None], made.shape))


def test_strong_ends_with_the_square_that_its_columns_name() -> None:
    recipe = load_recipe("strong", WEAK, SIZE)
    assert recipe.columns == ("seed", "top", "bottom", "left", "right")
    params = recipe.draw(1, np.arange(3), 6, SIZE)
    made = copies_of(recipe, some_images(), params)
    for i, j in np.ndindex(3, 6):
        top, bottom, left, right = params[i, j, 1:]
        assert (made[i, j, top:bottom, left:right] == 127).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid"),
        ("[1, 2]", "not an albumentations pipeline"),
        ("{}", "not an albumentations pipeline"),
        ("transform: 3", "not an albumentations pipeline"),
        ("transform: {p: 1}", "not an albumentations pipeline"),
        ("transform: {__class_fullname__: HorizontalFlop, p: 1.0}", "did you mean HorizontalFlip"),
        ("transform: {__class_fullname__: os.system, p: 1.0}", "unknown transform 'os.system'"),
        ("transform: {__class_fullname__: Compose, p: 1.0, transforms: [{__class_fullname__: X}]}", "transform 'X'"),
        ("transform: {__class_fullname__: Rotate, limit: often, p: 1.0}", "cannot build"),
        ("transform: {__class_fullname__: Rotate, limits: 3, p: 1.0}", "cannot build"),
        ("transform: {__class_fullname__: BboxParams, p: 1.0}", "cannot build"),
        ("transform: {__class_fullname__: RandomCrop, height: 99, width: 99, p: 1.0}", "failed on an image"),
        ("transform: {__class_fullname__: RandomCrop, height: 8, width: 8, p: 1.0}", r"uint8 \(8, 8, 3\)"),
        ("transform: {__class_fullname__: ToFloat, p: 1.0}", "float32"),
        ("transform: {__class_fullname__: ToTensorV2, p: 1.0}", "Tensor"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_recipe(str(path), WEAK, SIZE)


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    path, proof = tmp_path / "mine.yaml", tmp_path / "proof"
    path.write_text(f"!!python/object/apply:os.mkdir ['{proof}']")
    with pytest.raises(UsageError, match="not valid"):
        load_recipe(str(path), WEAK, SIZE)
    assert not proof.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        load_recipe(str(tmp_path / "nowhere.yaml"), WEAK, SIZE)


def test_another_version_of_albumentations_is_refused() -> None:
    spec = load_recipe("color", WEAK, SIZE).spec | {"albumentations": "1.0.0"}
    with pytest.raises(StoreError, match=r"pip install albumentations==1\.0\.0"):
        from_spec(spec)


@pytest.mark.parametrize(
    "grow",
    [
        lambda A: [A.RandomScale((1, 1)), A.RandomScale((1, 1))],  # each doubles the sides
        lambda A: [A.Pad(padding=700) for _ in range(4)],
        lambda A: [A.CropAndPad(percent=2.0, keep_size=False)],
        lambda A: [A.PadIfNeeded(1500, 1500), A.Resize(900, 900)],
    ],
)
def test_transforms_that_together_make_huge_images_are_refused(grow, tmp_path) -> None:
    file = tmp_path / "grow.json"
    A.save(A.Compose([*grow(A), A.Resize(8, 8)]), file, data_format="json")
    with pytest.raises(UsageError, match="too large"):
        load_recipe(str(file), {"flip": True, "shift": 1}, (8, 8))
    A.save(A.Compose([A.RandomScale((-0.2, 0.2)), A.Pad(padding=4), A.Resize(8, 8)]), file, data_format="json")
    assert load_recipe(str(file), {"flip": True, "shift": 1}, (8, 8)).name == "grow"


def glass(**numbers: object) -> dict:
    return {"__class_fullname__": "GlassBlur", "p": 1, "mode": "exact", **numbers}


def some(inner: dict, n: int) -> dict:
    return {"__class_fullname__": "SomeOf", "p": 1, "n": n, "replace": True, "transforms": [inner]}


@pytest.mark.parametrize(
    "transform",
    [
        glass(iterations=60_000),
        glass(max_delta=5000),
        glass(sigma=65_000),
        {"__class_fullname__": "RandomShadow", "p": 1, "num_shadows_limit": [60_000, 60_000]},
        {"__class_fullname__": "ZoomBlur", "p": 1, "step_factor": [1e-7, 1e-7]},
        {"__class_fullname__": "CLAHE", "p": 1, "tile_grid_size": [4096, 4096]},
        {"__class_fullname__": "MedianBlur", "p": 1, "blur_limit": [65_535, 65_535]},
        some({"__class_fullname__": "NoOp", "p": 1}, 60_000),
        some(some({"__class_fullname__": "NoOp", "p": 1}, 60), 60),
        {"__class_fullname__": "Compose", "p": 1, "transforms": [{"__class_fullname__": "NoOp", "p": 1}] * 300},
    ],
)
def test_numbers_that_would_never_end_are_refused_in_a_file_and_in_a_store(tmp_path: Path, transform: dict) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"transform": transform}))
    with pytest.raises(UsageError, match="not a pipeline for images"):
        load_recipe(str(path), WEAK, SIZE)
    spec = {"kind": "albumentations", "name": "x", "version": 1, "albumentations": A.__version__}
    with pytest.raises(StoreError, match="not a pipeline for images"):
        from_spec(spec | {"transform": transform})


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 20))
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 20))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.yaml", LAUGHS, "more than"),
        ("a.yaml", MERGES, "no merge keys"),
        ("a.yaml", "t: &a [*a]", "too deep"),
        ("a.yaml", "transform: " + "[" * 3000, "too deep"),
        ("a.json", '{"transform": ' + "[" * 3000, "too deep"),
        ("a.json", '{"transform": ' + "[" * 100 + "]" * 100 + "}", "too deep"),
        ("a.yml", "#" * 200_000, "too large"),
        ("a.json", '{"t": ' + "9" * 10_000 + "}", "not valid json"),
        ("a.yaml", "t: \0", "not valid yaml"),
    ],
)
def test_a_file_is_parsed_within_bounds(tmp_path: Path, file: str, text: str, message: str) -> None:
    path = tmp_path / file
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_recipe(str(path), WEAK, SIZE)


def test_a_pipe_for_a_recipe_makes_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.yaml")
    with pytest.raises(UsageError, match="not a file"):
        load_recipe(str(tmp_path / "mine.yaml"), WEAK, SIZE)
